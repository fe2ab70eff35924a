"""Votes between two answers: one line of JSON each, on the disk before the page says so, and the tally of them all.

{"time": "2026-01-31T12:00:00+00:00", "left": "fox", "right": "pocket", "vote": "left", "hidden": true,
 "prompt": "Where does the fox live?", "images": [], "answers": {"left": "In a den.", "right": "in the"},
 "sampling": {"temperature": 0}}

`images` are SHA-256 digests, `sampling` is what differed from the defaults.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from zerogate.data.jsonl import append_lines, cut_torn_line, whole_lines
from zerogate.errors import UserError

Vote = Literal["left", "right", "tie", "both bad"]
VOTES: tuple[Vote, ...] = get_args(Vote)


@dataclass
class Score:
    """How often a model won, lost, tied, and was as bad as the other."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    bad: int = 0

    @property
    def share(self) -> float:
        """Won, ties as halves, of all votes that say which is better."""
        return (self.wins + 0.5 * self.ties) / max(1, self.wins + self.losses + self.ties)


class Votes:
    """A file of votes.

    Args:
        file: JSON lines; made with the first vote.

    Raises:
        UserError: the file is there and holds something else.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, threading.Lock()
        self.scores: dict[str, Score] = {}
        self.count = 0
        if file.exists():
            cut_torn_line(file)
            for number, row in enumerate(whole_lines(file), start=1):
                if row.get("vote") not in VOTES or not all(isinstance(row.get(s), str) for s in ("left", "right")):
                    raise UserError(f"{file}, line {number} is no vote; move the file away or mend it")
                self._count(row)

    def add(
        self,
        vote: Vote,
        models: tuple[str, str],
        answers: tuple[str, str],
        **more: Any,
    ) -> Mapping[str, Any]:
        """Keep a vote; returns its line.

        Args:
            vote: which answer is better.
            models, answers: left and right.
            more: what else its line is to have.

        Raises:
            UserError: it cannot be written; it is then not counted.
        """
        row = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "left": models[0],
            "right": models[1],
            "vote": vote,
            **more,
            "answers": dict(zip(("left", "right"), answers, strict=True)),
        }
        with self._lock:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("ab") as opened:
                    append_lines(opened, [row])
            except OSError as error:
                if self.file.exists():
                    cut_torn_line(self.file)
                raise UserError(f"the vote cannot be kept in {self.file}: {error.strerror or error}") from error
            self._count(row)
        return row

    def tally(self) -> list[tuple[str, Score]]:
        """Every model's score, the best first."""
        with self._lock:
            return sorted(self.scores.items(), key=lambda pair: (-pair[1].share, -pair[1].wins, pair[0]))

    def _count(self, row: Mapping[str, Any]) -> None:
        left, right = (self.scores.setdefault(row[side], Score()) for side in ("left", "right"))
        self.count += 1
        match row["vote"]:
            case "left":
                left.wins, right.losses = left.wins + 1, right.losses + 1
            case "right":
                right.wins, left.losses = right.wins + 1, left.losses + 1
            case "tie":
                left.ties, right.ties = left.ties + 1, right.ties + 1
            case _:
                left.bad, right.bad = left.bad + 1, right.bad + 1
