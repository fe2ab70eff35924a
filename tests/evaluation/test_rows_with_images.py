"""A user's own test set with images in its column `image` or `images`: shown to adapters that see, named by all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_base import make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.bases import load_adapted
from zerogate.errors import UserError
from zerogate.evaluation.evaluate import evaluate_task
from zerogate.evaluation.tasks import find_task, read_questions

TASK = find_task("boolq")


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps({"instruction": "So?", "answer": "true", **row}) + "\n" for row in rows))
    return file


def test_an_adapter_that_sees_looks_at_them(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", context=512)
    model = load_adapted(str(base), {"eye": make_seeing_adapter(tmp_path / "seeing", base, make_eye(tmp_path / "eye"))})
    for colour in ("red", "blue"):
        make_picture(tmp_path / f"{colour}.png", colour)
    file = write(tmp_path, {"image": "red.png"}, {"images": ["blue.png"]}, {"image": ""}, {})
    questions = read_questions(TASK, file)
    assert [[image.name for image in question.images] for question in questions] == [["red.png"], ["blue.png"], [], []]
    seen = evaluate_task(*model, TASK, questions, max_new_tokens=6)
    unseen = read_questions(TASK, file, use_images=False)
    blind = evaluate_task(*model, TASK, unseen, max_new_tokens=6, images="none")
    assert [row["response"] for row in seen.rows[:2]] != [row["response"] for row in blind.rows[:2]]
    assert [row["response"] for row in seen.rows[2:]] == [row["response"] for row in blind.rows[2:]]
    assert seen.rows[0]["images"] == ["red.png"] and seen.decoding["images"] == "own"
    (tmp_path / "blue.png").unlink()
    with pytest.raises(UserError, match=r"BoolQ: 1 rows have images that cannot be used:\n  row 2: blue\.png: no such"):
        evaluate_task(*model, TASK, read_questions(TASK, file), max_new_tokens=6)
    assert evaluate_task(*model, TASK, read_questions(TASK, file, use_images=False), images="none").n == 4


def test_markers_are_cut_out_as_in_training(tmp_path: Path) -> None:
    file = write(tmp_path, {"instruction": "<image>\nSo?", "image": "red.png"}, {"instruction": "Of <image>?"})
    assert read_questions(TASK, file, limit=1)[0].instruction == "So?"
    with pytest.raises(
        UserError, match=r"test\.jsonl, row 2: the text has 1 times the marker <image>, the row 0 images"
    ):
        read_questions(TASK, file)
    plain = write(tmp_path, {"instruction": "Of <image>?"})  # no row shows one: text like any other
    assert read_questions(TASK, plain)[0].instruction == "Of <image>?"


def test_images_elsewhere_and_values_that_are_none(tmp_path: Path) -> None:
    file = write(tmp_path, {"image": "red.png"})
    (tmp_path / "elsewhere").mkdir()
    picture = make_picture(tmp_path / "elsewhere" / "red.png", "red")
    (question,) = read_questions(TASK, file, images=str(picture.parent))
    assert question.images[0].path == picture
    with pytest.raises(UserError, match="--images=nowhere not found"):
        read_questions(TASK, file, images="nowhere")
    with pytest.raises(UserError, match="row 1: the field 'image': the image is int, not a path"):
        read_questions(TASK, write(tmp_path, {"image": 3}))
