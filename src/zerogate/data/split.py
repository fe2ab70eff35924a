"""Hold records out, balance the rest, and look for held-out prompts that also stand in the training part.

kept, held_out = split_held_out(records, 1000, seed=0)
print(find_leaks(kept, held_out).line())
"""

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from zerogate.data.records import Record, split_key
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource


def split_held_out(records: list[Record], count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Set `count` records aside, the same ones for the same seed and number of records; both parts keep their order.

    Records that share an image, or are of one group, stay together: an image that is held out is new to the model. So
    there may be fewer held out, where no group is small enough to fill the rest.

    Raises:
        UserError: that would leave nothing to train on, or no group is small enough.
    """
    if count >= len(records):
        raise UserError(f"data.held_out={count} leaves nothing to train on: there are {len(records)} records")
    rng = random.Random(seed)
    groups = cluster(records)
    if len(groups) == len(records):
        chosen = set(rng.sample(range(len(records)), count))
    else:
        chosen = set()
        for group in rng.sample(groups, len(groups)):
            if len(chosen) + len(group) <= count:
                chosen.update(group)
        if not chosen:
            smallest = min(map(len, groups))
            raise UserError(
                f"data.held_out={count}: each image comes with {smallest} records or more, which stay together; hold "
                "more out"
            )
    kept = [record for index, record in enumerate(records) if index not in chosen]
    return kept, [records[index] for index in sorted(chosen)]


def balance(records: list[Record], seed: int) -> list[Record]:
    """To each question every answer as often as its rarest; what is kept keeps its order. A question is its text alone.

    Args:
        records: a question asked of many images, say, has many records.
        seed: picks what is left out.
    """
    answers: dict[str, dict[str, list[int]]] = {}
    for index, record in enumerate(records):
        said = "\n".join(turn.content for turn in record.turns if turn.role == "assistant")
        answers.setdefault(record.prompt_text, {}).setdefault(said, []).append(index)
    rng = random.Random(seed)
    kept: set[int] = set()
    for found in answers.values():
        rarest = min(map(len, found.values()))
        for indices in found.values():
            kept.update(rng.sample(indices, rarest))
    return [record for index, record in enumerate(records) if index in kept]


class Tied(Protocol):
    """What may belong together with others: records, and examples of a published data set."""

    @property
    def group(self) -> str:
        """The name of its group, possibly empty."""

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """What it shows."""


def cluster(records: Sequence[Tied]) -> list[list[int]]:
    """Positions of records that belong together: those that share an image or a group, also through a third one.

    Returns:
        Every position once, groups in the order of their first record. For text alone, one group for each record.
    """
    owner: dict[str, int] = {}  # what ties records together -> the first record that has it
    first = list(range(len(records)))  # a forest: each record points towards the first of its group

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    for index, record in enumerate(records):
        ties = [f"group {record.group}"] if record.group else []
        for tie in (*ties, *(f"image {image.key}" for image in record.images)):
            ours, theirs = root(index), root(owner.setdefault(tie, index))
            first[max(ours, theirs)] = min(ours, theirs)
    groups: dict[int, list[int]] = {}
    for index in range(len(records)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


@dataclass(frozen=True)
class LeakReport:
    """Held-out prompts that training also has.

    Attributes:
        held_out: how many held-out records there are.
        exact: rows whose prompt stands in the training part to the letter.
        normalised: further rows whose prompt does once case, punctuation and spacing are ignored.
    """

    held_out: int
    exact: tuple[int, ...]
    normalised: tuple[int, ...]

    def line(self) -> str:
        """The report in one line."""
        if not self.exact and not self.normalised:
            return f"no leak: none of {self.held_out:,} held-out prompts is in the training part"
        return (
            f"leak: the training part also has {len(self.exact):,} of {self.held_out:,} held-out prompts to the "
            f"letter, "
            f"and {len(self.normalised):,} more but for case, punctuation and spacing"
        )


def find_leaks(train: list[Record], held_out: list[Record]) -> LeakReport:
    """Compare prompts (not answers) of the two parts."""
    seen = {record.prompt_key for record in train}
    seen_normal = {_normal_key(key) for key in seen}
    exact = [record.row for record in held_out if record.prompt_key in seen]
    normal = [r.row for r in held_out if r.prompt_key not in seen and _normal_key(r.prompt_key) in seen_normal]
    return LeakReport(len(held_out), tuple(exact), tuple(normal))


def _normal_key(key: str) -> tuple[str, str]:
    images, text = split_key(key)
    return images, normalise(text)


def normalise(text: str) -> str:
    """Lower case, compatible characters unified, punctuation gone, single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", text).split())
