"""Length statistics of encoded data: what `zerogate preview` prints and every run reports before it starts."""

from dataclasses import dataclass

import numpy as np

from zerogate.data.batching import epoch_order, padded_share
from zerogate.data.encode import Encoded


@dataclass(frozen=True)
class LengthStats:
    """Tokens per sequence, and what batching makes of them.

    Attributes:
        sequences: how many.
        minimum, median, mean, p95, maximum: of their lengths, in tokens.
        tokens: all of them together.
        learned: tokens that count in the loss.
        padding: share of positions that are padding in the batches the run will use.
        padding_shuffled: the same if batches were not grouped by length.
    """

    sequences: int
    minimum: int
    median: float
    mean: float
    p95: float
    maximum: int
    tokens: int
    learned: int
    padding: float
    padding_shuffled: float

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, ready for a table."""
        return [
            ("sequences", f"{self.sequences:,}"),
            (
                "tokens: min / median / mean / p95 / max",
                f"{self.minimum} / {self.median:.0f} / {self.mean:.1f} / {self.p95:.0f} / {self.maximum}",
            ),
            ("tokens in all", f"{self.tokens:,}"),
            ("learned tokens", f"{self.learned:,} ({self.learned / self.tokens:.1%})"),
            (
                "padding in a batch",
                f"{self.padding:.1%} (shuffled batches would be {self.padding_shuffled:.1%} padding)",
            ),
        ]


def length_stats(encoded: Encoded, batch_size: int, seed: int = 0, group_by_length: bool = True) -> LengthStats:
    """Measure encoded data.

    Args:
        encoded: the sequences.
        batch_size: sequences padded together.
        seed: of the run; the figures for padding are its first epoch's.
        group_by_length: whether the run groups sequences of like length.
    """
    lengths = encoded.lengths

    def padding(grouped: bool) -> float:
        return padded_share(lengths, batch_size, epoch_order(lengths, batch_size, seed, 0, grouped))

    return LengthStats(
        sequences=len(encoded),
        minimum=int(lengths.min()),
        median=float(np.median(lengths)),
        mean=float(lengths.mean()),
        p95=float(np.percentile(lengths, 95)),
        maximum=int(lengths.max()),
        tokens=int(lengths.sum()),
        learned=int(encoded.learned.sum()),
        padding=padding(group_by_length),
        padding_shuffled=padding(False),
    )
