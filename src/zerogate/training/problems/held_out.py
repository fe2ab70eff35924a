"""Records to measure on: split off, cut to a number, and looked for among those that are learned."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from zerogate.errors import UserError

Record = TypeVar("Record")


def split_apart(records: Sequence[Record], count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Set `count` records aside, the same ones for the same seed; both parts keep their order.

    Raises:
        UserError: that would leave nothing to train on.
    """
    if count >= len(records):
        raise UserError(f"data.held_out={count} leaves nothing to train on: there are {len(records)} records")
    chosen = set(random.Random(seed).sample(range(len(records)), count))
    kept = [record for index, record in enumerate(records) if index not in chosen]
    return kept, [records[index] for index in sorted(chosen)]


def pick(records: list[Record], limit: int | None, seed: int) -> list[Record]:
    """At most `limit` records, a random choice in their order."""
    if limit is None or limit >= len(records):
        return records
    return [records[index] for index in sorted(random.Random(seed).sample(range(len(records)), limit))]


def leak_line(train: Iterable[Hashable], held_out: Iterable[Hashable]) -> str:
    """How many held-out inputs training also has, to the letter, in words."""
    seen, asked = set(train), list(held_out)
    leaks = sum(key in seen for key in asked)
    if not leaks:
        return "no leak: none of them is in the training part"
    return f"leak: {leaks:,} of them are in the training part too"
