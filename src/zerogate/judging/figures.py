"""Intervals: how far off a share or a mean may be, with so few questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

_Z = 1.959963984540054  # of the normal distribution: 95 % lie within
_RESAMPLES = 10_000

Interval = tuple[float, float]


def wilson(successes: float, total: int) -> Interval:
    """Wilson's 95 % interval of a share.

    Ties may count as half a success. Halves vary less than wins and losses with the same share would, so the interval
    is then rather too wide than too narrow.
    """
    assert total > 0 and 0 <= successes <= total
    share = successes / total
    scale = 1 + _Z**2 / total
    middle = (share + _Z**2 / (2 * total)) / scale
    half = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """The 95 % interval of a mean by drawing the values (one for each question) anew, 10,000 times."""
    import numpy as np

    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=float), (_RESAMPLES, len(values)))
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
