"""Saved reviews of the two-score format: the published totals come out of the published files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_files import write

from zerogate.errors import UserError
from zerogate.judging.answers import read_named
from zerogate.judging.questions import read_questions
from zerogate.judging.reviews import read_reviews

Judge = Callable[..., tuple[int, str]]
CLEAN = "judge/review/vicuna-13b_20230322-clean-lang__review_{}_vicuna-13b.jsonl"


@pytest.mark.parametrize(("model", "sums"), [("llama-13b", (513.0, 694.0)), ("bard", (664.0, 655.5))])
def test_published_totals(model: str, sums: tuple[float, float], shared_data: Callable[[str], Path]) -> None:
    file = shared_data(CLEAN.format(model))
    questions = read_questions(shared_data("judge/vicuna80_question.jsonl"))
    answers = read_named(
        [f"{name}={shared_data(f'judge/answer/answer_{name}.jsonl')}" for name in ("vicuna-13b", "gpt35", model)]
    )
    reviews = read_reviews(file, questions, answers)
    assert (reviews.total.first, reviews.total.second) == sums
    assert (reviews.first, reviews.second) == (model, "vicuna-13b")
    assert reviews.total.first_higher + reviews.total.equal + reviews.total.second_higher == 80
    assert (reviews.by_hand, reviews.differing, reviews.total.unparsed) == (3, [], 0)
    categories = reviews.categories
    assert len(categories) == 9 and sum(totals.first for totals in categories.values()) == sums[0]
    # Without the field `score` only what stands on the first line is left: all but mathematics.
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {row["question_id"] for row in rows if not row["text"][:1].isdigit()} == {68, 69, 70}


def test_the_command_prints_the_totals(judge: Judge, folder: Path, shared_data: Callable[[str], Path]) -> None:
    files = [shared_data(CLEAN.format(model)) for model in ("llama-13b", "bard")]
    code, said = judge("--reviews", *files, "--out", "reviews")
    assert code == 0
    assert "review_llama-13b_vicuna-13b" in said and "513" in said and "694" in said
    assert "664" in said and "655.5" in said
    results = json.loads((folder / "reviews/results.json").read_text())
    assert [(entry["total"]["first"], entry["total"]["second"]) for entry in results["reviews"]] == [
        (513.0, 694.0),
        (664.0, 655.5),
    ]
    assert (folder / "reviews/reviews.png").stat().st_size > 5000
    assert "| 513 | 694 | 3, 0, 77 |" in (folder / "reviews/report.md").read_text()


def test_scores_without_the_field_and_differing_ones(folder: Path) -> None:
    rows = [
        {"question_id": 1, "text": "9 8.5\nGood."},
        {"question_id": 2, "text": "7, 7\nEqual."},
        {"question_id": 3, "text": "I will first solve it: 3 + 4 = 7"},
        {"question_id": 4, "text": "I will first solve it.", "score": [1, 10]},
        {"question_id": 5, "text": "9 8\n...", "score": [8, 9]},
        {"question_id": 6, "text": "no scores", "score": [-1, -1]},
    ]
    reviews = read_reviews(write(folder / "r.jsonl", rows))
    total = reviews.total
    assert (total.first, total.second, total.unparsed) == (9 + 7 + 1 + 8, 8.5 + 7 + 10 + 9, 2)
    assert (total.first_higher, total.equal, total.second_higher) == (1, 1, 2)
    assert (reviews.by_hand, reviews.differing) == (1, ["5"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"question_id": 1, "score": [1, 2]}, {"question_id": 1, "score": [1, 2]}],
            "row 2: the question 1 is reviewed",
        ),
        ([{"question_id": 1, "score": [1]}], r"row 1: score is \[1\], not two numbers"),
        ([{"question_id": 1, "score": [True, 2]}], "not two numbers"),
        ([{"question_id": 1, "score": ["9", "8"]}], "not two numbers"),
        ([{"question_id": 1, "text": 5, "score": [1, 2]}], "row 1: text is int, not text"),
        ([{"question_id": 1}], "row 1: no review; expected question_id, and score or text"),
        ([{"text": "9 8"}], "row 1: no review"),
        ([{"question_id": 99, "score": [1, 2]}], "row 1: the question 99 is not among the questions"),
        ([], "is empty"),
        (['{"question_id": 1, '], "line 1, column 20: malformed JSON"),
    ],
)
def test_bad_reviews(rows: list[Any], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_reviews(write(folder / "r.jsonl", rows), read_questions(folder / "q.jsonl"))
