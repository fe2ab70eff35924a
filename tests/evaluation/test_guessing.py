"""ScienceQA's own script draws a random choice for a response it cannot read: compat's expected value with that."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zerogate.evaluation.score import score_file
from zerogate.evaluation.tasks import find_task, read_questions

TASK = find_task("scienceqa-full")
KINDS = ["NAT", "NO", "G1-6"]


def score(*rows: tuple[str, str, int | None]) -> dict[str, Any]:
    judged = [
        {"label": label, "kinds": KINDS, **({} if choices is None else {"choices": choices})}
        | TASK.scorer.fields(response, label)
        for response, label, choices in rows
    ]
    return TASK.total(judged).as_dict()


def test_by_hand() -> None:
    right, wrong, silent = "The answer is A.", "The answer is B.", "No idea."
    found = score((right, "A", 2), (wrong, "A", 4), (silent, "A", 4), ("The answer is D.", "A", 2))
    assert found["compat"] == 0.25
    assert found["compat_guess"] == (1 + 0 + 1 / 4 + 1 / 2) / 4  # D is none of two choices
    assert found["kinds"]["NAT"]["compat_guess"] == found["compat_guess"]
    assert "compat_guess" not in score((right, "A", 2), (right, "A", None))


@pytest.mark.parametrize("name", ["ScienceQA", "ScienceQA-full", "ScienceQA-captions"])
def test_chance_alone_on_the_real_problems(name: str, shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    task, folder = find_task(name), shared_data("scienceqa")
    questions = read_questions(task, folder, use_images=False)
    file = tmp_path / "p.jsonl"
    file.write_text('{"response": "I do not know."}\n' * len(questions))
    judged = score_file(task, file, folder)
    found = task.total(judged).as_dict()
    assert found["compat"] == 0
    draw = random.Random(0)
    choices = [question.choices or 0 for question in questions]
    hits = [
        draw.randrange(n) == "ABCDE".index(q.label) for n, q in zip(choices, questions, strict=True) for _ in "x" * 99
    ]
    assert found["compat_guess"] == pytest.approx(sum(hits) / len(hits), abs=0.01)
    file.write_text("".join(json.dumps(row) + "\n" for row in judged))  # saved rows know it themselves
    assert task.total(score_file(task, file)).as_dict() == found


def test_other_tasks_have_no_such_figure() -> None:
    task = find_task("aqua")
    rows = [{"label": "A", "choices": 5} | task.scorer.fields("No.", "A")]
    assert "compat_guess" not in task.total(rows).as_dict()
