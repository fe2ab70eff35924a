"""Judged rows added up: both accuracies, and where a task knows kinds of question, those of each kind.

The majority baseline is what a model without eyes can reach: the share of right answers of one that always gives the
most frequent label of each kind, as counted in the questions that were asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class KindScore:
    """Accuracy over the questions of one kind.

    Attributes:
        n: questions of that kind.
        compat: share of right ones by the authors' rules, 0 to 1.
        strict: share of right ones by ours, 0 to 1.
        majority: share of the kind's most frequent label, 0 to 1; None where questions are of several kinds at once.
        compat_guess: see `Score`.
    """

    n: int
    compat: float
    strict: float
    majority: float | None = None
    compat_guess: float | None = None


@dataclass(frozen=True)
class Score:
    """Accuracy over a set.

    Attributes:
        n: responses scored.
        compat: share of right ones by the authors' rules, 0 to 1.
        strict: share of right ones by ours, 0 to 1; an unanswered question is not right.
        unanswered: how many gave no answer that strict could take.
        kinds: the same for each kind of question, where the task knows any.
        majority: share of right ones for the most frequent label of each kind, 0 to 1; None as in the kinds.
        compat_guess: compat where the authors draw a random choice for a response that they cannot read: its expected
            value. None for tasks where they do not.
    """

    n: int
    compat: float
    strict: float
    unanswered: int
    kinds: dict[str, KindScore] = field(default_factory=dict)
    majority: float | None = None
    compat_guess: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file; what there is not is left out."""
        kinds = {kind: _known(asdict(score)) for kind, score in self.kinds.items()}
        return {name: value for name, value in _known(asdict(self) | {"kinds": kinds}).items() if value != {}}


def total(
    rows: Iterable[Mapping[str, Any]],
    kinds: Sequence[str] = (),
    guess: Callable[[Mapping[str, Any]], float | None] = lambda row: None,
) -> Score:
    """Add judged rows up.

    Args:
        rows: with the fields of a `Verdict`, `label`, and `kinds` where the task has them.
        kinds: the order to show kinds in; others follow.
        guess: how far a row is right where chance answers for what cannot be read, 0 to 1; None where that is unknown.
    """
    rows = list(rows)
    n = len(rows)
    by_kind: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in kinds}
    for row in rows:
        for kind in row.get("kinds") or ():
            by_kind.setdefault(kind, []).append(row)
    parts = bool(by_kind) and all(len(row.get("kinds") or ()) == 1 for row in rows)
    majorities = {kind: _most_frequent(found) for kind, found in by_kind.items() if found} if parts else {}
    return Score(
        n,
        _share(rows, "compat"),
        _share(rows, "strict"),
        sum(row["extracted_strict"] is None for row in rows),
        {
            kind: KindScore(
                len(found),
                _share(found, "compat"),
                _share(found, "strict"),
                majorities[kind] / len(found) if parts else None,
                _guessed(found, guess),
            )
            for kind, found in by_kind.items()
            if found
        },
        sum(majorities.values()) / n if parts else None,
        _guessed(rows, guess),
    )


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(bool(row[name]) for row in rows) / len(rows)


def _guessed(rows: Sequence[Mapping[str, Any]], guess: Callable[[Mapping[str, Any]], float | None]) -> float | None:
    shares = [share for share in map(guess, rows) if share is not None]
    return sum(shares) / len(rows) if len(shares) == len(rows) else None


def _most_frequent(rows: Sequence[Mapping[str, Any]]) -> int:
    return Counter(row["label"] for row in rows).most_common(1)[0][1]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
