"""The recipes that ship: in `recipes/` of the repository, and inside the package when it was installed from a wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from zerogate.errors import UserError


def find_recipe(given: Path) -> Path:
    """The recipe a user means: the file they name, or else the one that ships under that name, with or without folder.

    So `zerogate train recipes/demo.yaml` and `zerogate train demo` work outside the repository too.
    """
    known = {file.stem: file for folder in _folders() for file in folder.rglob("*.yaml")}
    in_its_place = given.parent in (Path(), Path("recipes"), Path("recipes/compare"))
    return known[given.stem] if not given.is_file() and in_its_place and given.stem in known else given


def shipped_recipe(name: str) -> Path:
    """The file of a recipe that ships, by its name without `.yaml`.

    Raises:
        UserError: there is none of that name.
    """
    for folder in _folders():
        file = folder / f"{name}.yaml"
        if file.is_file():
            return file
    known = sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})
    raise UserError(
        f"there is no recipe {name!r}; there are: {', '.join(known) or 'none, so this installation is broken'}"
    )


def _folders() -> list[Path]:
    package = Path(str(resources.files("zerogate")))
    return [package / "recipes", package.parent.parent / "recipes"]
