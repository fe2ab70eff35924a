"""Pairs of judgements into wins, ties and losses.

Each question was asked twice, with the answers in either order. An answer wins if both judgements name it; otherwise
the question is a tie, also where one judgement names it and the other says tie. A question of which a judgement could
not be read is unparsed, one of which a judgement is not there is missing, and neither counts as anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from zerogate.judging.endpoint import Reply
from zerogate.judging.figures import Interval, wilson
from zerogate.judging.items import Item
from zerogate.judging.verdict import Place, pair_verdict

Winner = Literal["a", "b", "tie", "unparsed", "missing"]
PLACES: tuple[Place, ...] = ("first", "tie", "second")
_SWAPPED: dict[Place, Place] = {"first": "second", "second": "first", "tie": "tie"}


@dataclass(frozen=True)
class Duel:
    """One question, both ways.

    Attributes:
        question_id: of the question.
        category: its kind.
        orders: which place won with `a` shown first, then with `b` shown first; None is unparsed.
        winner: by the rule of this file.
    """

    question_id: str
    category: str
    orders: tuple[Place | None, Place | None]
    winner: Winner


@dataclass(frozen=True)
class Tally:
    """What some questions came to, seen from `a`."""

    wins: int
    ties: int
    losses: int
    unparsed: int
    missing: int

    @property
    def judged(self) -> int:
        """Questions with both judgements read."""
        return self.wins + self.ties + self.losses

    @property
    def win_rate(self) -> float | None:
        """The share that `a` won, a tie counting half; None where nothing was judged."""
        return (self.wins + self.ties / 2) / self.judged if self.judged else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the win rate."""
        return wilson(self.wins + self.ties / 2, self.judged) if self.judged else None

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return asdict(self) | {"judged": self.judged, "win_rate": self.win_rate, "interval_95": self.interval}


@dataclass(frozen=True)
class PlaceBias:
    """What the place of an answer did to the verdict.

    Attributes:
        agree: questions whose two judgements name the same winner, or are both ties.
        first: of the others, those where the judgements lean to whatever stands first: it won both times, or it won
            once and the other judgement was a tie.
        second: those that lean to the second place.
        verdicts: how often a single judgement named the first place, a tie, the second place.
    """

    agree: int
    first: int
    second: int
    verdicts: dict[Place, int]

    @property
    def disagree(self) -> int:
        """Questions whose winner changed with the order."""
        return self.first + self.second

    @property
    def share(self) -> float | None:
        """How often the first place won when the orders disagree; 0.5 would be no bias."""
        return self.first / self.disagree if self.disagree else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the share."""
        return wilson(self.first, self.disagree) if self.disagree else None

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`."""
        return asdict(self) | {"disagree": self.disagree, "first_place_share": self.share, "interval_95": self.interval}


@dataclass(frozen=True)
class Contest:
    """Two models and all questions.

    Attributes:
        a: one model's name.
        b: the other's.
        duels: question by question.
    """

    a: str
    b: str
    duels: list[Duel]

    @property
    def total(self) -> Tally:
        """All questions together."""
        return _tally(self.duels)

    @property
    def categories(self) -> dict[str, Tally]:
        """By category, in the questions' order."""
        return {name: _tally(duels) for name, duels in self._by_category().items()}

    @property
    def bias(self) -> PlaceBias:
        """What the place did."""
        return _bias(self.duels)

    @property
    def biases(self) -> dict[str, PlaceBias]:
        """What it did by category."""
        return {name: _bias(duels) for name, duels in self._by_category().items()}

    def _by_category(self) -> dict[str, list[Duel]]:
        names = dict.fromkeys(duel.category for duel in self.duels)
        return {name: [duel for duel in self.duels if duel.category == name] for name in names}


def contests(items: Sequence[Item], replies: Mapping[str, Reply]) -> list[Contest]:
    """What the judgements of each two models come to."""
    keys = {(item.label["first"], item.label["second"], item.label["question_id"]): item.key for item in items}
    names = list(dict.fromkeys(name for item in items for name in (item.label["first"], item.label["second"])))
    questions = {item.label["question_id"]: item.label["category"] for item in items}
    found = []
    for a, b in combinations(names, 2):
        orders = {q: [replies.get(keys[first, second, q]) for first, second in ((a, b), (b, a))] for q in questions}
        found.append(Contest(a, b, [_duel(q, category, orders[q]) for q, category in questions.items()]))
    return found


def _duel(question: str, category: str, found: list[Reply | None]) -> Duel:
    there = [reply for reply in found if reply is not None]
    orders = tuple(None if reply is None else pair_verdict(reply.text) for reply in found)
    first, second = orders
    return Duel(question, category, (first, second), winner((first, second)) if len(there) == 2 else "missing")


def winner(orders: tuple[Place | None, Place | None]) -> Winner:
    """Who won: `a` or `b` if both orders agree on it, else `tie`; `unparsed` if one of them was not read."""
    if None in orders:
        return "unparsed"
    if not _agree(orders) or orders[0] == "tie":
        return "tie"
    return "a" if orders[0] == "first" else "b"


def _agree(orders: tuple[Place | None, Place | None]) -> bool:
    one, other = orders
    return one is not None and other is not None and one == _SWAPPED[other]


def _tally(duels: Sequence[Duel]) -> Tally:
    counted = Counter(duel.winner for duel in duels)
    return Tally(counted["a"], counted["tie"], counted["b"], counted["unparsed"], counted["missing"])


def _bias(duels: Sequence[Duel]) -> PlaceBias:
    read = [duel.orders for duel in duels if duel.winner not in ("unparsed", "missing")]
    leans = [{*orders} - {"tie"} for orders in read if not _agree(orders)]
    verdicts = Counter(place for orders in read for place in orders)
    first, second = sum(lean == {"first"} for lean in leans), sum(lean == {"second"} for lean in leans)
    return PlaceBias(len(read) - len(leans), first, second, {place: verdicts[place] for place in PLACES})
