"""Hold records out, and look for held-out prompts that also stand in the training part.

kept, held_out = split_held_out(records, 1000, seed=0)
print(find_leaks(kept, held_out).line())
"""

import random
import re
import unicodedata
from dataclasses import dataclass

from zerogate.data.records import Record
from zerogate.errors import UserError


def split_held_out(records: list[Record], count: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Set `count` records aside, the same ones for the same seed and number of records; both parts keep their order.

    Raises:
        UserError: that would leave nothing to train on.
    """
    if count >= len(records):
        raise UserError(f"data.held_out={count} leaves nothing to train on: there are {len(records)} records")
    chosen = set(random.Random(seed).sample(range(len(records)), count))
    kept = [record for index, record in enumerate(records) if index not in chosen]
    return kept, [records[index] for index in sorted(chosen)]


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
    seen_normal = {normalise(key) for key in seen}
    exact = [record.row for record in held_out if record.prompt_key in seen]
    normal = [r.row for r in held_out if r.prompt_key not in seen and normalise(r.prompt_key) in seen_normal]
    return LeakReport(len(held_out), tuple(exact), tuple(normal))


def normalise(text: str) -> str:
    """Lower case, compatible characters unified, punctuation gone, single spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", text).split())
