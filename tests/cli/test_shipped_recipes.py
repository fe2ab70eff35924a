"""Recipes are found by name wherever zerogate is installed; a file of the user's own comes first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import run_command

from zerogate.cli.recipes import find_recipe, shipped_recipe
from zerogate.errors import UserError
from zerogate.toolform.recipe import load_toolform
from zerogate.training.recipe_file import load_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
HEADER = re.compile(r"zerogate(?:\.cli\.main)? (train|compare|preview|toolform) ([\w/.-]*\w)")


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


def command_of(file: Path) -> str:
    return "compare" if file.parent.name == "compare" else "toolform" if file.stem.startswith("toolform") else "train"


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_recipe_is_found_by_its_name_and_by_the_commands_it_opens_with(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    header = file.read_text().split("\n\n")[0]
    given = [(command_of(file), file.stem), *HEADER.findall(header)]
    assert len(given) > 1 or command_of(file) == "train", "a comparison says how it is run"
    for command, name in given:
        assert find_recipe(Path(name), command) == file, f"zerogate {command} {name}"


def test_equal_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = REPOSITORY / "recipes"
    both = {file.stem for file in recipes.glob("*.yaml")} & {file.stem for file in recipes.glob("compare/*.yaml")}
    assert {"ner", "squad"} <= both
    for name in both:
        for command in ("train", "preview", "toolform", None):
            assert find_recipe(Path(name), command) == recipes / f"{name}.yaml"
        assert find_recipe(Path(f"{name}.yaml"), "compare") == recipes / "compare" / f"{name}.yaml"
        for command in (None, "compare"):
            given = Path(f"recipes/compare/{name}.yaml")
            assert find_recipe(given, command) == recipes / "compare" / f"{name}.yaml"


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("train", "vtab", "'vtab' is a comparison of methods; it is run by: zerogate compare vtab"),
        ("preview", "recipes/compare/ner.yaml", "it is run by: zerogate compare recipes/compare/ner.yaml"),
        ("compare", "demo", "'demo' compares nothing; it is run by: zerogate train demo"),
        ("compare", "recipes/ner.yaml", "compares nothing; it is run by: zerogate train recipes/ner.yaml"),
        ("compare", "toolform-pocket", "compares nothing; it is run by: zerogate toolform toolform-pocket"),
    ],
)
def test_a_recipe_of_another_command_is_named_with_it(
    command: str, given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        find_recipe(Path(given), command)
    assert find_recipe(Path(given)).stem == Path(given).stem  # what asks for no command's recipe is given any


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        ("train", "ner", f"{REPOSITORY / 'recipes' / 'ner.yaml'}: "),
        ("compare", "ner", f"{REPOSITORY / 'recipes' / 'compare' / 'ner.yaml'}: "),
        ("train", "vtab", "it is run by: zerogate compare vtab"),
        ("preview", "vtab", "it is run by: zerogate compare vtab"),
        ("toolform", "vtab", "it is run by: zerogate compare vtab"),
        ("compare", "demo", "it is run by: zerogate train demo"),
    ],
)
def test_commands_ask_for_their_own(command: str, name: str, said: str, tmp_path: Path) -> None:
    outcome = run_command(command, name, "nothing=1", cwd=tmp_path)
    assert outcome.returncode == 2 and said in outcome.stderr, outcome.stderr


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match="demo"):
        shipped_recipe("dmeo")
