"""Recipes are found by name wherever zerogate is installed; a file of the user's own comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerogate.cli.recipes import find_recipe, shipped_recipe
from zerogate.errors import UserError
from zerogate.toolform.recipe import load_toolform
from zerogate.training.recipe_file import load_recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("file", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_is_found_and_whole(file: Path) -> None:
    assert shipped_recipe(file.stem).read_text() == file.read_text()
    load = load_toolform if file.stem.startswith("toolform") else load_recipe
    assert load(file).output


def test_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("demo", "demo.yaml", "recipes/demo.yaml"):
        assert find_recipe(Path(given)) == shipped_recipe("demo")
    for given in ("other/demo.yaml", "nothing", str(tmp_path / "demo.yaml")):
        assert find_recipe(Path(given)) == Path(given)
    Path("demo.yaml").write_text("mine")
    assert find_recipe(Path("demo.yaml")) == Path("demo.yaml")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="demo"):
        shipped_recipe("dmeo")
