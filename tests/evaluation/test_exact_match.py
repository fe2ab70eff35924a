"""The scorer: what counts as exact and as containing, and that batching and order change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_base import make_base

from zerogate.bases import load_base
from zerogate.errors import UserError
from zerogate.evaluation.exact_match import contains, exact_match, is_exact


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "within"),
    [
        ("The fox lives in a den.", "The fox lives in a den.", True, True),
        (" The fox lives in a den.\n", "The fox lives in a den.", True, True),
        ("the fox lives in a den", "The fox lives in a den.", False, True),
        ("Well, the fox lives in a den, I think.", "The fox lives in a den.", False, True),
        ("She said 12.", "1", False, False),
        ("cats", "cat", False, False),
        ("", "cat", False, False),
        ("C++ it is", "C++", False, True),
    ],
)
def test_what_counts(answer: str, expected: str, exact: bool, within: bool) -> None:
    assert is_exact(answer, expected) == exact
    assert contains(answer, expected) == within


def test_scores_what_the_model_says(tmp_path: Path) -> None:
    model, tokenizer = load_base(str(make_base(tmp_path)))
    questions = [
        {"instruction": "Where?", "output": "?"},
        {"instruction": "Name the home of the animal, and say it in a whole sentence.", "input": "fox", "output": "?"},
        {"instruction": "Who are you?", "output": "?"},
    ]
    first = exact_match(model, tokenizer, questions, max_new_tokens=6)
    assert first.n == 3 and first.exact == 0
    # Questions whose expected answers are what the model said, and one that is not: two of three are right.
    told = [row | {"output": said.answer} for row, said in zip(questions, first.rows, strict=True)]
    told[1]["output"] = "something else"
    done: list[int] = []
    second = exact_match(model, tokenizer, told, max_new_tokens=6, batch_size=1, progress=done.append)
    assert [row.answer for row in second.rows] == [row.answer for row in first.rows]
    assert [row.exact for row in second.rows] == [True, False, True]
    assert second.exact == second.contains == pytest.approx(2 / 3)
    assert done == [1, 1, 1]


def test_refuses_what_cannot_be_scored(tmp_path: Path) -> None:
    model, tokenizer = load_base(str(make_base(tmp_path)))
    with pytest.raises(UserError, match="empty"):
        exact_match(model, tokenizer, [])
    with pytest.raises(UserError, match="record 2"):
        exact_match(model, tokenizer, [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": " "}])
