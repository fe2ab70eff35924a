"""Two judges held against each other, on the questions that both judged: how often they name the same winner.

A judge is a folder of `zerogate judge` (or its results.json), or a file of saved reviews. Cohen's kappa takes away the
agreement that two judges would have by chance with the same shares of wins and ties: 1 is full agreement, 0 is chance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.errors import UserError
from zerogate.judging.answers import Answers
from zerogate.judging.figures import Interval, wilson
from zerogate.judging.reviews import read_reviews, winners

_OUTCOMES = ("a", "tie", "b")
_TURNED = {"a": "b", "tie": "tie", "b": "a"}


@dataclass(frozen=True)
class Judge:
    """One judge's winners of one pair of models.

    Attributes:
        path: where it was read.
        a: one model; saved reviews may know it only as `answer 1`.
        b: the other.
        winners: `a`, `b` or `tie` by question id.
    """

    path: str
    a: str
    b: str
    winners: dict[str, str]


@dataclass(frozen=True)
class Agreement:
    """What two judges have in common.

    Attributes:
        table: how often the first judge said one thing and the second another, by (first, second).
        turned: whether the second judge has the two models the other way round; its winners were turned.
        named: whether both name the two models alike. Otherwise they were taken in the order of the files.
    """

    first: Judge
    second: Judge
    table: dict[tuple[str, str], int]
    turned: bool
    named: bool

    @property
    def questions(self) -> int:
        """Questions that both judged."""
        return sum(self.table.values())

    @property
    def same(self) -> int:
        """Questions on which they say the same."""
        return sum(self.table[outcome, outcome] for outcome in _OUTCOMES)

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the share on which they say the same."""
        return wilson(self.same, self.questions)

    @property
    def decided(self) -> tuple[int, int]:
        """Of the questions for which both name a winner: on how many it is the same one, and how many there are."""
        same = self.table["a", "a"] + self.table["b", "b"]
        return same, same + self.table["a", "b"] + self.table["b", "a"]

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None where both judges say one and the same thing always."""
        total = self.questions
        chance = sum(
            sum(self.table[outcome, other] for other in _OUTCOMES)
            * sum(self.table[other, outcome] for other in _OUTCOMES)
            for outcome in _OUTCOMES
        )
        return None if chance == total**2 else (self.same * total - chance) / (total**2 - chance)

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        same, decided = self.decided
        return {
            "files": [self.first.path, self.second.path],
            "a": self.first.a, "b": self.first.b, "turned": self.turned, "named_alike": self.named,
            "questions": self.questions, "same": self.same, "share": self.same / self.questions,
            "interval_95": self.interval, "kappa": self.kappa, "both_decided": decided, "same_winner": same,
            "table": {f"{one}, {other}": count for (one, other), count in self.table.items()},
        }  # fmt: skip


def agreement(first: str | Path, second: str | Path, answers: Sequence[Answers] = ()) -> Agreement:
    """Compare two judges; `answers` tell whose answers saved reviews are about.

    Raises:
        UserError: a file that is neither a result of pairs nor a file of reviews, or no question in common.
    """
    one, other = _one_pair(_read(Path(first), answers), _read(Path(second), answers))
    named = {one.a, one.b} == {other.a, other.b}
    turned = named and one.a == other.b
    found = {key: _TURNED[won] if turned else won for key, won in other.winners.items()}
    common = [key for key in one.winners if key in found]
    if not common:
        raise UserError(f"{one.path} and {other.path} have no question in common that both decide")
    counted = Counter((one.winners[key], found[key]) for key in common)
    table = {(x, y): counted[x, y] for x in _OUTCOMES for y in _OUTCOMES}
    return Agreement(one, other, table, turned, named)


def _one_pair(ones: list[Judge], others: list[Judge]) -> tuple[Judge, Judge]:
    """The pair of models that both judged; with one pair each, that."""
    if len(ones) == len(others) == 1:
        return ones[0], others[0]
    both = [(one, other) for one in ones for other in others if {one.a, one.b} == {other.a, other.b}]
    if len(both) != 1:
        raise UserError(
            f"{ones[0].path} and {others[0].path} have {len(both)} pairs of models in common, and only one pair can be "
            "compared at a time"
        )
    return both[0]


def _read(path: Path, answers: Sequence[Answers]) -> list[Judge]:
    file = path / "results.json" if path.is_dir() else path
    if file.name != "results.json":
        reviews = read_reviews(file, answers=answers)
        return [Judge(str(path), reviews.first, reviews.second, winners(reviews))]
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is malformed JSON: {error}") from error
    pairs = found.get("pairs") if isinstance(found, dict) else None
    if not pairs:
        raise UserError(f"{file} holds no pairs of models; it takes the results of comparing, not of rating")
    try:
        return [
            Judge(
                str(path), pair["a"], pair["b"],
                {duel["question_id"]: duel["winner"] for duel in pair["questions"] if duel["winner"] in _OUTCOMES},
            )
            for pair in pairs
        ]  # fmt: skip
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by zerogate judge: {error!r}") from error
