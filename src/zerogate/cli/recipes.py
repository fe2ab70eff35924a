"""The recipes that ship: in `recipes/` of the repository, and inside the package when it was installed from a wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from zerogate.errors import UserError


def shipped_recipe(name: str) -> Path:
    """The file of a recipe that ships, by its name without `.yaml`.

    Raises:
        UserError: there is none of that name.
    """
    package = Path(str(resources.files("zerogate")))
    folders = [package / "recipes", package.parent.parent / "recipes"]
    for folder in folders:
        file = folder / f"{name}.yaml"
        if file.is_file():
            return file
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    raise UserError(
        f"there is no recipe {name!r}; there are: {', '.join(known) or 'none, so this installation is broken'}"
    )
