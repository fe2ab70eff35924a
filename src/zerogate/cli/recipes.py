"""The recipes that ship: in `recipes/` of the repository, and inside the package when it was installed from a wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from zerogate.errors import UserError

_RECIPES, _COMPARISONS = Path("recipes"), Path("recipes/compare")


def find_recipe(given: Path, command: str | None = None) -> Path:
    """The recipe a user means: the file they name, or else the one that ships under that name, with or without folder.

    So `zerogate train recipes/demo.yaml` and `zerogate train demo` work outside the repository too. A name alone is
    looked for where the command's recipes are (`compare` has its own folder), then in the other place.

    Args:
        given: what the user wrote.
        command: the one that runs it, such as `train`; None: any, and comparisons come last.

    Raises:
        UserError: the recipe that ships under that name is for another command.
    """
    if given.is_file() or given.parent not in (Path(), _RECIPES, _COMPARISONS):
        return given
    first = given.parent == _COMPARISONS or (given.parent == Path() and command == "compare")
    for comparison in (first, not first):
        for folder in _folders():
            file = folder / ("compare" if comparison else "") / f"{given.stem}.yaml"
            if file.is_file():
                _check_command(given, comparison, command)
                return file
    return given


def _check_command(given: Path, comparison: bool, command: str | None) -> None:
    if command is None or comparison == (command == "compare"):
        return
    other = "compare" if comparison else "toolform" if given.stem.startswith("toolform") else "train"
    what = "is a comparison of methods" if comparison else "compares nothing"
    raise UserError(f"the recipe {str(given)!r} {what}; it is run by: zerogate {other} {given}")


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
