"""ScienceQA's own evaluation as users meet it: official splits that share wordings, and pictures that are not there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from test_command_line import command_line, refused
from tiny_base import make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

COLOURS = {"1": "red", "2": "green", "3": "blue", "4": "black", "5": "yellow"}


def problem(question: str, choices: list[str], split: str, picture: bool) -> dict[str, Any]:
    return {
        "question": question, "choices": choices, "answer": 0, "hint": "Select the best estimate of all of them.",
        "image": "image.png" if picture else None, "split": split, "grade": "grade3", "subject": "natural science",
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("eval_scienceqa")
    data = root / "scienceqa"
    asked = "What is the mass of a large and heavy wooden table?"
    problems = {
        "1": problem(asked, ["20 grams", "20 kilograms"], "train", False),
        "2": problem("Which of these is the farthest north of all?", ["Iowa", "Utah"], "train", True),
        "3": problem(asked, ["5 ounces", "5 tons"], "test", False),
        "4": problem("Which of these is the farthest north of all?", ["Iowa", "Utah"], "test", True),
        "5": problem("Which of these is the farthest south of all?", ["Iowa", "Ohio"], "test", True),
    }
    for pid, found in problems.items():
        if found["image"]:
            file = data / "images" / found["split"] / pid / "image.png"
            file.parent.mkdir(parents=True)
            make_picture(file, COLOURS[pid])
    (data / "problems.json").write_text(json.dumps(problems))
    (data / "pid_splits.json").write_text(json.dumps({"train": ["1", "2"], "test": ["3", "4", "5", "6"]}))
    bare = root / "bare"
    shutil.copytree(data, bare, ignore=shutil.ignore_patterns("images"))
    base = make_base(root / "base", context=1024)
    make_seeing_adapter(root / "seeing" / "best", base, make_eye(root / "eye"))
    make_adapter(root / "text" / "best", base, 3)
    (root / "seeing" / "recipe.yaml").write_text(f"data: {{path: {data}, format: scienceqa}}\n")
    (root / "text" / "recipe.yaml").write_text(f"data: {{path: {bare}, format: scienceqa, use_images: false}}\n")
    return {"root": root, "data": data, "bare": bare, "seeing": root / "seeing", "text": root / "text"}


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: Path, *words: object
) -> tuple[dict[str, Any], str]:
    """The results of ScienceQA-full, and what was said."""
    common = ["eval", "-t", "scienceqa-full", "--max-new-tokens", "2", "--out", out]
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", ["zerogate", *map(str, [*common, *words])])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    said = capsys.readouterr().err
    assert ended.value.code == 0, said
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["tasks"]["ScienceQA-full"]
    return found, said


def test_wordings_that_official_splits_share_are_reported_and_copies_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-d", folders["data"], "-a", folders["seeing"]]
    found, said = run(capsys, monkeypatch, tmp_path / "out", *words)
    # Problem 4 is problem 2 with another picture: another question.
    assert "1 of 3 test questions also stand in the training data (33.3%), 0 of them word for word" in said
    assert "5 ounces" in said
    assert (found["near_duplicates"], found["word_for_word"]) == (1, 0)
    assert found["notes"] == [f"3 of the split's 4 problems are in {folders['data'] / 'problems.json'}"]
    assert found["notes"][0] in said
    common = ["eval", "-t", "scienceqa-full", "-d", f"{folders['data']}:train", "-a", folders["seeing"]]
    said = refused(capsys, monkeypatch, *common, "--out", tmp_path / "leaky")
    assert "2 of 2 test questions" in said and "2 of them word for word" in said
    assert "--allow-leak ScienceQA-full" in said


def test_without_pictures(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing, bare = folders["seeing"], folders["bare"]
    blind, said = run(capsys, monkeypatch, tmp_path / "blind", "-d", bare, "-a", seeing, "--blind")
    assert blind["n"] == 3 and blind["decoding"]["images"] == "none"
    assert "1 of 1 test questions also stand" in said and "2 about images that are not looked at were not" in said
    assert blind["not_looked_for"] == 2
    run(capsys, monkeypatch, tmp_path / "there", "-d", folders["data"], "-a", seeing, "--blind")
    assert (tmp_path / "blind" / "ScienceQA-full.jsonl").read_bytes() == (
        tmp_path / "there" / "ScienceQA-full.jsonl"
    ).read_bytes()
    text, said = run(capsys, monkeypatch, tmp_path / "text", "-d", bare, "-a", folders["text"])
    assert text["n"] == 3 and "takes no images: its questions are asked without them" in said
    base, said = run(capsys, monkeypatch, tmp_path / "base", "-d", bare, "-m", folders["root"] / "base", "--blind")
    assert base["n"] == 3

    said = refused(capsys, monkeypatch, "eval", "-t", "scienceqa-full", "-d", bare, "-a", seeing)
    assert "no images for scienceqa" in said and "with --images, or show none with --blind" in said
    elsewhere = ["-d", bare, "-a", seeing, "--images", folders["data"] / "images"]
    found, _ = run(capsys, monkeypatch, tmp_path / "elsewhere", *elsewhere)
    assert found["decoding"]["images"] == "own" and found["near_duplicates"] == 1
    said = refused(capsys, monkeypatch, "eval", "-t", "scienceqa-full", *elsewhere, "--blind")
    assert "--images has nothing to do" in said

    # Predictions without labels are scored by the data set, pictures or none.
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"response": "The answer is A."}\n' * 3)
    monkeypatch.setattr(sys, "argv", ["zerogate", "score", "scienceqa-full", str(answers), "--labels", str(bare)])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    printed = capsys.readouterr()
    assert ended.value.code == 0 and json.loads(printed.out)["compat"] == 1
    assert "3 of the split's 4 problems" in printed.err


def test_a_missing_picture_stops_only_who_looks(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folders["data"], data)
    (data / "images" / "test" / "5" / "image.png").unlink()
    words = ["-d", data, "-a", folders["seeing"]]
    assert run(capsys, monkeypatch, tmp_path / "blind", *words, "--blind")[0]["n"] == 3
    assert run(capsys, monkeypatch, tmp_path / "text", "-d", data, "-a", folders["text"])[0]["n"] == 3
    said = refused(capsys, monkeypatch, "eval", "-t", "scienceqa-full", *words, "--out", tmp_path / "out")
    assert "ScienceQA-full: 1 rows have images that cannot be used" in said and "row 3: test/5/image.png" in said


def test_a_folder_of_other_images_names_the_setting(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-d", folders["data"], "-a", folders["seeing"]]
    run(capsys, monkeypatch, tmp_path / "out", *words, "--shuffle-images")
    common = ["eval", "-t", "scienceqa-full", "--max-new-tokens", "2", "--out", tmp_path / "out", *words]
    assert "made with other settings (images: other -> none)" in refused(capsys, monkeypatch, *common, "--blind")
    assert "made with other settings (images: other -> own)" in refused(capsys, monkeypatch, *common)
