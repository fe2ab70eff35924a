"""The order of a training epoch: a seeded shuffle, with sequences of like length in one batch to avoid padding."""

import random
from collections.abc import Sequence

import numpy as np

# A window of this many batches is sorted by length: enough to leave almost no padding, few enough to keep batches
# mixed.
_WINDOW = 64


def epoch_order(
    lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[int]:
    """Indices in the order an epoch visits them; a function of its arguments alone, so a resumed run sees the same.

    Args:
        lengths: tokens per sequence.
        batch_size: sequences that are padded together.
        seed: of the run.
        epoch: counted from 0; every epoch has its own order.
        group_by_length: sort within windows of 64 batches, then shuffle the batches. A smaller last batch stays last.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not group_by_length:
        return order
    full = len(order) - len(order) % batch_size
    batches: list[list[int]] = []
    for start in range(0, full, _WINDOW * batch_size):
        window = sorted(order[start : min(start + _WINDOW * batch_size, full)], key=lambda index: -int(lengths[index]))
        batches += [window[at : at + batch_size] for at in range(0, len(window), batch_size)]
    rng.shuffle(batches)
    return [index for batch in batches for index in batch] + order[full:]


def padded_share(lengths: Sequence[int] | np.ndarray, batch_size: int, order: list[int]) -> float:
    """Share of the positions in right-padded batches that hold padding, 0 to 1."""
    total = sum(int(lengths[index]) for index in order)
    padded = 0
    for start in range(0, len(order), batch_size):
        batch = [int(lengths[index]) for index in order[start : start + batch_size]]
        padded += max(batch) * len(batch)
    return 1 - total / padded if padded else 0.0
