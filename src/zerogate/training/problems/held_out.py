"""Records to measure on: split off, cut to a number, and looked for among those that are learned."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from zerogate.errors import UserError
from zerogate.training.problems.sections import LabelledSection

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


def split_groups(
    records: Sequence[Record], count: int, seed: int, group: Callable[[Record], Hashable], called: str
) -> tuple[list[Record], list[Record]]:
    """Set `count` records aside, the same ones for the same seed, and leave out what else is of their groups.

    Args:
        records: all.
        count: how many to set aside.
        seed: of the choice.
        group: records of one group are never on both sides.
        called: what groups are, for the error: `articles`.

    Raises:
        UserError: that would leave nothing to train on.
    """
    sizes = Counter(map(group, records))
    groups = list(sizes)
    random.Random(seed).shuffle(groups)
    chosen: set[Hashable] = set()
    held = 0
    for one in groups:
        if held >= count:
            break
        chosen.add(one)
        held += sizes[one]
    if len(chosen) == len(groups):
        raise UserError(f"data.held_out={count} leaves nothing to train on: whole {called} are held out")
    kept = [record for record in records if group(record) not in chosen]
    return kept, [record for record in records if group(record) in chosen][:count]


def read_parts(
    section: LabelledSection,
    read: Callable[[str, str | None], list[Record]],
    split: Callable[[list[Record], int, int], tuple[list[Record], list[Record]]] = split_apart,
) -> tuple[list[Record], list[Record]]:
    """What a recipe learns from and what it measures on; the second part may be empty.

    Args:
        section: the recipe's.
        read: gives the records of a file and a part of it.
        split: sets a number of records aside, with a seed.

    Raises:
        UserError: anything wrong with the files.
    """
    train = read(section.path, section.split)
    if section.set_aside is not None:
        train, _ = split(train, section.set_aside.held_out, section.set_aside.split_seed)
    held_out: list[Record] = []
    if isinstance(section.held_out, int):
        train, held_out = split(train, section.held_out, section.split_seed)
    elif section.held_out is not None:
        other_file = Path(section.held_out).expanduser().exists() or section.split is None
        held_out = read(section.held_out, None) if other_file else read(section.path, section.held_out)
    return pick(train, section.limit, section.split_seed), pick(held_out, section.held_out_limit, section.split_seed)


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
