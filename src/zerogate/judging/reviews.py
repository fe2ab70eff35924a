"""Saved reviews of the original two-score format: totals, recomputed.

{"question_id": 1, "answer1_id": "...", "answer2_id": "...", "text": "9 8.5\\nBoth assistants ...", "score": [9.0, 8.5]}

The reviewer wrote two scores on the first line, one for each answer. `score` holds what was taken from it, or what was
put in by hand where the review begins otherwise (in the published ones, the three questions of mathematics); without
`score` the first line is read. A review with neither is unparsed and counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows
from zerogate.errors import UserError
from zerogate.judging.answers import Answers
from zerogate.judging.questions import NO_CATEGORY, Question, row_id

_UNKNOWN = "answer {}"
_SCORES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*[,;/ ]\s*(\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Review:
    """One question's two scores, or None where none can be read."""

    question_id: str
    category: str
    scores: tuple[float, float] | None


@dataclass(frozen=True)
class Totals:
    """Some reviews together: the sums of both scores, and how often either was higher."""

    first: float
    second: float
    first_higher: int
    equal: int
    second_higher: int
    unparsed: int


@dataclass(frozen=True)
class Reviews:
    """A file of reviews.

    Attributes:
        path: the file.
        first: whose answers are the first of each review.
        second: whose are the second.
        reviews: question by question.
        by_hand: reviews whose first line is no two scores, but which have some in `score`.
        differing: questions whose first line has other scores than `score`.
    """

    path: str
    first: str
    second: str
    reviews: list[Review]
    by_hand: int
    differing: list[str]

    @property
    def title(self) -> str:
        """Whose answers were compared; the file's name where that is not known of both."""
        known = self.first != _UNKNOWN.format(1) and self.second != _UNKNOWN.format(2)
        return f"{self.first} : {self.second}" if known else Path(self.path).name.split(".json")[0]

    @property
    def total(self) -> Totals:
        """All reviews together."""
        return _totals(self.reviews)

    @property
    def categories(self) -> dict[str, Totals]:
        """By category; empty where no questions told them."""
        names = dict.fromkeys(review.category for review in self.reviews)
        if set(names) == {NO_CATEGORY}:
            return {}
        return {name: _totals([review for review in self.reviews if review.category == name]) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return {
            "file": self.path,
            "first": self.first,
            "second": self.second,
            "total": asdict(self.total),
            "categories": {name: asdict(totals) for name, totals in self.categories.items()},
            "by_hand": self.by_hand,
            "differing": self.differing,
            "reviews": [asdict(review) for review in self.reviews],
        }


def read_reviews(
    path: str | Path, questions: Sequence[Question] | None = None, answers: Sequence[Answers] = ()
) -> Reviews:
    """Read a file of reviews.

    Args:
        path: JSON lines, also compressed.
        questions: tell the categories.
        answers: tell, by the ids of their answers, whose were compared.

    Raises:
        UserError: unreadable or empty, a row that is no review (named), a question reviewed twice or unknown.
    """
    categories = {question.id: question.category for question in questions or ()}
    reviews: dict[str, Review] = {}
    by_hand, differing = 0, []
    sides: tuple[set[str], set[str]] = (set(), set())
    for number, row in read_rows(str(path)):
        where = f"{path}, row {number}"
        if row.get("question_id") is None or not ("score" in row or isinstance(row.get("text"), str)):
            raise UserError(f"{where}: no review; expected question_id, and score or text, found {', '.join(row)}")
        key = row_id(row, number, where)
        if key in reviews:
            raise UserError(f"{where}: the question {key} is reviewed twice")
        if questions is not None and key not in categories:
            raise UserError(f"{where}: the question {key} is not among the questions")
        written = _first_line(row.get("text"), where)
        given = _given(row.get("score"), where)
        by_hand += written is None and given is not None
        if None not in (written, given) and written != given:
            differing.append(key)
        reviews[key] = Review(key, categories.get(key, NO_CATEGORY), given or written)
        for side, name in zip(sides, ("answer1_id", "answer2_id"), strict=True):
            side.add(str(row.get(name)))
    first, second = (_whose(side, answers) or _UNKNOWN.format(place) for place, side in enumerate(sides, start=1))
    return Reviews(str(path), first, second, list(reviews.values()), by_hand, differing)


def _given(score: Any, where: str) -> tuple[float, float] | None:
    if score is None:
        return None
    if not isinstance(score, list) or len(score) != 2 or not all(_is_number(value) for value in score):
        raise UserError(f"{where}: score is {score!r}, not two numbers")
    # The scripts of the time wrote -1 for what they could not read.
    return None if min(score) < 0 else (float(score[0]), float(score[1]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _first_line(text: Any, where: str) -> tuple[float, float] | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise UserError(f"{where}: text is {type(text).__name__}, not text")
    found = _SCORES.fullmatch(text.strip().split("\n")[0])
    return (float(found[1]), float(found[2])) if found else None


def _whose(ids: set[str], answers: Sequence[Answers]) -> str | None:
    """The name of the answers that all these ids are of."""
    return next((answer.name for answer in answers if ids <= answer.ids), None)


def _totals(reviews: Sequence[Review]) -> Totals:
    read = [review.scores for review in reviews if review.scores is not None]
    return Totals(
        sum(first for first, _ in read),
        sum(second for _, second in read),
        sum(first > second for first, second in read),
        sum(first == second for first, second in read),
        sum(first < second for first, second in read),
        len(reviews) - len(read),
    )


def winners(reviews: Reviews) -> dict[str, str]:
    """Question by question whose score is higher: `a` (the first), `b` or `tie`."""
    read = {review.question_id: review.scores for review in reviews.reviews if review.scores is not None}
    return {key: "a" if first > second else "b" if second > first else "tie" for key, (first, second) in read.items()}
