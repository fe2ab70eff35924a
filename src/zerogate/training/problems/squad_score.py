"""Exact match and F1 as SQuAD's own script counts them.

Lower case, no punctuation, no articles, single spaces; then the same text, or the words in common. The best over all
answers that count. A question without an answer is right if nothing is answered, and then alone.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 if the answer is one of the truths (no truths: if it is empty), else 0."""
    return max(float(normalised(answer) == normalised(truth)) for truth in _counted(truths))


def f1(answer: str, truths: Sequence[str]) -> float:
    """The harmonic mean of the shares of words in common, at best over the truths."""
    return max(_f1(normalised(answer).split(), normalised(truth).split()) for truth in _counted(truths))


def best_margin(margins: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """The margin from which on questions are best answered (the threshold of SQuAD 2.0's script).

    Args:
        margins: per question, how far its answer's logits are above those of there being none.
        answered: per question, the score of the answer.
        silent: per question, the score of saying that there is none.

    Returns:
        The margin of the least sure question that is answered where the sum of scores is highest; where silence
        is best for all, one more than the highest.
    """
    order = sorted(range(len(margins)), key=lambda row: -margins[row])
    best, gain, at = 0.0, 0.0, max(margins) + 1
    for row, following in zip(order, [*order[1:], None], strict=True):
        gain += answered[row] - silent[row]
        if gain > best and (following is None or margins[following] < margins[row]):
            best, at = gain, margins[row]
    return at


def _counted(truths: Sequence[str]) -> list[str]:
    # Truths of which nothing remains, such as "the", do not count beside others.
    return [truth for truth in truths if normalised(truth)] or [""]


def _f1(said: list[str], true: list[str]) -> float:
    if not said or not true:
        return float(said == true)
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true))
