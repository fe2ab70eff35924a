"""A file that is named is the one that is read, or it is refused: never another data set beside it or below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zerogate.data.layouts import read_examples
from zerogate.errors import UserError
from zerogate.evaluation.tasks import find_task, read_questions

SENTENCE = {"sentence": "s", "label": "true", "identifier": "1-0", "directory": "0"}


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_easy_vqa(tmp_path: Path) -> None:
    train = write(tmp_path / "set" / "train" / "questions.json", [["what is the blue shape?", "circle", 0]])
    write(tmp_path / "set" / "test" / "questions.json", [["is there a circle?", "yes", 0]] * 2)
    mine = write(tmp_path / "mine.json", [["is there a red shape?", "no", 7]])
    with pytest.raises(
        UserError, match=r"mine\.json is no file of the layout easy_vqa, which has train/questions\.json"
    ):
        read_questions(find_task("easy-vqa"), mine, use_images=False)
    assert [e.label for e in read_examples("easy_vqa", str(train), "train", use_images=False)] == ["circle"]
    with pytest.raises(UserError, match=r"questions\.json has no split 'test'; it has train"):
        read_examples("easy_vqa", str(train), "test", use_images=False)


def test_nlvr(tmp_path: Path) -> None:
    dev = write(tmp_path / "set" / "dev.json", json.dumps(SENTENCE) + "\n" + json.dumps(SENTENCE))
    write(tmp_path / "set" / "test.json", json.dumps(SENTENCE))
    mine = write(tmp_path / "set" / "mine.jsonl", json.dumps(SENTENCE))
    with pytest.raises(UserError, match=r"mine\.jsonl is no file of the layout nlvr, which has train\.json, dev\.json"):
        read_questions(find_task("nlvr"), f"{mine}:dev", use_images=False)
    assert len(read_examples("nlvr", str(dev), "dev", use_images=False)) == 2
    with pytest.raises(UserError, match=r"no split 'test'; it has dev"):
        read_examples("nlvr", str(dev), "test", use_images=False)


def test_companions_of_a_named_file_lie_beside_it(tmp_path: Path) -> None:
    problem = {"question": "Which?", "choices": ["a"], "answer": 0, "grade": "grade2", "subject": "natural science"}
    named = write(tmp_path / "problems.json", {"1": problem})
    write(tmp_path / "other" / "pid_splits.json", {"test": ["1"]})
    with pytest.raises(UserError, match=r"has no pid_splits\.json"):
        read_examples("scienceqa", str(named), "test")
    assert len(read_examples("scienceqa", str(tmp_path), "test")) == 1
