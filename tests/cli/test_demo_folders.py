"""The demos' run folders: only the run that was asked for is shown, Ctrl-C says how to go on, both answers are seen."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from rich.console import Console
from test_command_line import refused

from zerogate.cli import demo, demo_image, main
from zerogate.cli.recipes import shipped_recipe
from zerogate.errors import UserError
from zerogate.evaluation.exact_match import Answered, ExactMatch
from zerogate.training.checkpoints import checkpoint_path, seal
from zerogate.training.images import without_images
from zerogate.training.recipe_file import dump_recipe, load_recipe
from zerogate.training.run import finished_run
from zerogate.vision.pictures import picture_rows

Made = Callable[..., Path]
SHORT = ("train.steps=2", "train.warmup_steps=1", "data.limit=40", "data.held_out=4")


@pytest.fixture
def run_of(tmp_path: Path) -> Made:
    """Writes what the run of a shipped recipe leaves in its folder, as far as it is looked at before any answer."""

    def make(name: str, *overrides: str, finished: bool = True) -> Path:
        folder = tmp_path / "run"
        recipe, _ = without_images(load_recipe(shipped_recipe(name), [f"output={folder}", *overrides]))
        folder.mkdir()
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        if finished:
            (folder / "summary.json").write_text(json.dumps({"steps": 2, "seconds": 1.0, "best_loss": None}))
        return folder

    return make


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("made", "asked", "message"),
    [
        ("demo", ["--image"], "adapter.image_encoder: None -> pocket-eye"),
        ("demo-image", [], "adapter.image_encoder: pocket-eye -> None"),
        ("demo-image", ["--image", "adapter.image_tokens=2", "train.steps=7"], "adapter.image_tokens: 8 -> 2; "),
        ("demo", ["train.learning_rate=0.5"], "train.learning_rate: "),
    ],
)  # fmt: skip
def test_a_run_of_other_settings_is_not_shown(
    made: str,
    asked: list[str],
    message: str,
    finished: bool,
    run_of: Made,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "ask", lambda *_: pytest.fail("asked before it was refused"))
    folder = run_of(made, finished=finished)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    said = refused(capsys, monkeypatch, "demo", "--output", folder, *asked)
    assert f"{folder} was started with another recipe ({message}" in said
    assert said.endswith("; resume with the same one, choose another output, or --overwrite")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_which_runs_are_the_same(run_of: Made, tmp_path: Path) -> None:
    # A run without images was written down without the encoder that the recipe names.
    folder = run_of("demo-image", "data.use_images=false")
    recipe = load_recipe(shipped_recipe("demo-image"), [f"output={folder}", "data.use_images=false"])
    assert finished_run(recipe) is not None
    moved = folder.rename(tmp_path / "moved")  # where it lies makes no difference
    recipe = recipe.model_copy(update={"output": str(moved)})
    assert finished_run(recipe) is not None
    (moved / "summary.json").rename(tmp_path / "summary.json")
    assert finished_run(recipe) is None
    (tmp_path / "summary.json").rename(moved / "summary.json")
    (moved / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"a finished run without its recipe.yaml.*--overwrite"):
        finished_run(recipe)


def test_what_is_served_as_the_demo(run_of: Made) -> None:
    said = Console(file=io.StringIO(), width=1000)
    folder = run_of("demo", "train.steps=7")
    assert demo.demo_run(said, folder) == folder
    assert "other settings than the demo's (train.steps: 7 -> 300) and is taken as it is" in said.file.getvalue()
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"unfinished run .*\(train.steps: 7 -> 300\); finish it .* demo --overwrite"):
        demo.demo_run(said, folder)


def _stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("image", [False, True])
def test_ctrl_c_says_how_to_go_on(
    image: bool, run_of: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_image if image else demo, "ask", _stop)
    folder = run_of("demo-image" if image else "demo", finished=False)
    checkpoint = checkpoint_path(folder / "checkpoints", 200)
    checkpoint.mkdir(parents=True)
    seal(checkpoint)
    words = ["zerogate", "demo", "--output", str(folder), *(["--image"] if image else [])]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 130
    assert "\nthe same command goes on from step 200\n" in capsys.readouterr().err


def test_what_ctrl_c_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(overwrite: bool, write: Callable[[], Any] = lambda: None) -> str:
        with pytest.raises(KeyboardInterrupt), demo.told_how_to_go_on(tmp_path, overwrite):
            write()
            raise KeyboardInterrupt
        return capsys.readouterr().err.strip()

    recipe, summary = tmp_path / "recipe.yaml", tmp_path / "summary.json"
    nothing = "nothing was saved yet; the same command begins again"
    assert stopped(False) == nothing
    assert stopped(True, lambda: recipe.write_text("new")) == nothing
    checkpoint = checkpoint_path(tmp_path / "checkpoints", 1200)
    checkpoint.mkdir(parents=True)
    seal(checkpoint)
    assert stopped(False) == "the same command goes on from step 1,200"
    # --overwrite again would throw away what this command has trained; before that, it has replaced nothing.
    assert stopped(True) == "nothing was touched yet; the same command begins again"
    recipe.unlink()
    replaced = stopped(True, lambda: recipe.write_text("new"))
    assert replaced == "the same command without --overwrite goes on from step 1,200"
    summary.write_text("{}")
    assert stopped(False) == "the training is finished; the same command shows it"


def _score(questions: list[dict[str, Any]], answer: str, exact: bool) -> ExactMatch:
    rows = [Answered(row["instruction"], "", row["output"], answer, exact, exact) for row in questions]
    return ExactMatch(float(exact), float(exact), len(rows), rows)


def test_answers_with_and_without_the_picture_fit_a_terminal() -> None:
    questions = picture_rows()[1][:6]
    long = '"I have been a great deal of a man who has been a great deal of a man who has been a man. ' * 3
    said = Console(file=io.StringIO(), width=80)
    seeing, blind = _score(questions, "Bottom centre.", True), _score(questions, long, False)
    demo.show(said, {"with the picture": seeing.rows, "without the picture": blind.rows})
    lines = said.file.getvalue().splitlines()
    heading = next(line for line in lines if "question" in line)
    assert heading.index("with the picture") < heading.index("without the picture")
    assert max(map(len, lines)) <= 80 and len(lines) <= 4 + 6 * 5
    assert sum("Bottom centre." in line for line in lines) == sum('"I have been' in line for line in lines) == 6


@pytest.mark.parametrize("n", [1, 12])
def test_the_sheet_shows_both_answers(n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *words: Any, **named: Any) -> None:
        drawn.append(figure)
        save(figure, *words, **named)

    monkeypatch.setattr(Figure, "savefig", kept)
    questions = picture_rows()[1][:n]
    seeing, blind = _score(questions, "Bottom centre.", True), _score(questions, "Bottom right.", False)
    target = demo_image._draw_sheet(questions, seeing, blind, tmp_path / "answers.png")
    assert target.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    texts = [text for axes in figure.axes for text in (axes.title, *axes.texts) if text.get_text()]
    words = [text.get_text() for text in texts]
    assert words.count("with the picture: Bottom centre.") == words.count("without the picture: Bottom right.") == n
    assert {text.get_color() for text in texts if text.get_text().startswith("with ")} == {"#2a7f3f"}
    assert {text.get_color() for text in texts if text.get_text().startswith("without ")} == {"#b3261e"}
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.get_points())


def test_the_image_demo_shows_both_answers(tmp_path: Path) -> None:
    words = ("demo", "--image", "--questions", "3", "--output", "run", *SHORT)
    for again in (False, True):
        done = run_command(*words, cwd=tmp_path, env={"COLUMNS": "80"}, timeout=600)
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("3. The same base") :]
        assert "with the picture " in table and "without the picture " in table
        assert ("holds a finished run" in done.stdout) == again
    assert (tmp_path / "run" / "answers.png").is_file()
