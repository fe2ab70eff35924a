"""Ratings from 1 to 10 into means: by model and category, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zerogate.judging.endpoint import Reply
from zerogate.judging.figures import Interval, bootstrap_mean
from zerogate.judging.items import Item
from zerogate.judging.verdict import rating


@dataclass(frozen=True)
class Rated:
    """One answer: its rating, or None where the reply gave none (`unparsed`) or is not there (`missing`)."""

    question_id: str
    category: str
    rating: float | None
    missing: bool = False


@dataclass(frozen=True)
class Mean:
    """The ratings of some answers."""

    mean: float | None
    interval_95: Interval | None
    rated: int
    unparsed: int
    missing: int


@dataclass(frozen=True)
class Ratings:
    """One model's answers.

    Attributes:
        name: the model.
        answers: question by question.
    """

    name: str
    answers: list[Rated]

    @property
    def total(self) -> Mean:
        """All answers together."""
        return _mean(self.answers)

    @property
    def categories(self) -> dict[str, Mean]:
        """By category, in the questions' order."""
        names = dict.fromkeys(answer.category for answer in self.answers)
        return {name: _mean([answer for answer in self.answers if answer.category == name]) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return {
            "name": self.name,
            "total": asdict(self.total),
            "categories": {name: asdict(mean) for name, mean in self.categories.items()},
            "ratings": [asdict(answer) for answer in self.answers],
        }


def ratings(items: Sequence[Item], replies: Mapping[str, Reply]) -> list[Ratings]:
    """What each model's answers were rated."""
    names = dict.fromkeys(item.label["rated"] for item in items)
    return [Ratings(name, [_rated(i, replies.get(i.key)) for i in items if i.label["rated"] == name]) for name in names]


def _rated(item: Item, reply: Reply | None) -> Rated:
    value = None if reply is None else rating(reply.text)
    return Rated(item.label["question_id"], item.label["category"], value, missing=reply is None)


def _mean(answers: Sequence[Rated]) -> Mean:
    values = [answer.rating for answer in answers if answer.rating is not None]
    missing = sum(answer.missing for answer in answers)
    interval = bootstrap_mean(values) if values else None
    mean = sum(values) / len(values) if values else None
    return Mean(mean, interval, len(values), len(answers) - len(values) - missing, missing)
