"""What a judge's reply comes to: the last verdict in it, however much prose stands around it, or nothing at all.

    pair_verdict("A is longer, but wrong. **[[B]]**")  -> "second"
    rating("Clear and true.\n\nRating: [[8]]")          -> 8.0
    rating("I cannot say.")                             -> None

Double brackets are what the judge is asked for, and the last pair of them counts. A reply without any counts if its
last line is a verdict and nothing else. What stands in <think>...</think> is not the reply, and a reply that ends
inside it has none. Whatever is left is reported as unparsed, never taken for a tie.
"""

from __future__ import annotations

import re
from typing import Literal

Place = Literal["first", "second", "tie"]

_CALLED = r"(?:(?:assistant|answer|model|option)\s+)?"
_PLACES: dict[str, Place] = {"a": "first", "b": "second", "tie": "tie", "c": "tie"}  # MT-bench's judges call a tie C
_PAIR = re.compile(rf"\[\[\s*{_CALLED}(tie|[abc])\s*\]\]", re.IGNORECASE)
_PAIR_LINE = re.compile(
    rf"(?:(?:final |my )?(?:verdict|answer|winner)(?: is)?\s*:?\s*)?\[?{_CALLED}(tie|a|b)\]?", re.IGNORECASE
)
_NUMBER = r"([+-]?\d+(?:\.\d+)?)(?:\s*/\s*10)?"
_RATING = re.compile(rf"\[\[\s*(?:(?:rating|score)\s*:?\s*)?{_NUMBER}\s*\]\]", re.IGNORECASE)
_RATING_LINE = re.compile(
    rf"(?:(?:final |my )?(?:rating|score)(?: is)?\s*:?\s*)?\[?{_NUMBER}\]?(?:\s+out of 10)?", re.IGNORECASE
)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_EMPHASIS = re.compile(r"[*_`]")
_AROUND = "#>. \t\"'"


def pair_verdict(reply: str) -> Place | None:
    """Which place won, `tie`, or None where the reply does not say."""
    found = _last(reply, _PAIR, _PAIR_LINE)
    return None if found is None else _PLACES[found.lower()]


def rating(reply: str) -> float | None:
    """The rating from 1 to 10, or None where the reply gives none or one outside of that."""
    found = _last(reply, _RATING, _RATING_LINE)
    value = None if found is None else float(found)
    return value if value is not None and 1 <= value <= 10 else None


def _last(reply: str, bracketed: re.Pattern[str], line: re.Pattern[str]) -> str | None:
    said = _THOUGHT.sub("", reply)
    matches = list(bracketed.finditer(said))
    if matches:
        return matches[-1].group(1)
    lines = [text for text in said.splitlines() if text.strip()]
    alone = line.fullmatch(_EMPHASIS.sub("", lines[-1]).strip(_AROUND)) if lines else None
    return alone.group(1) if alone else None
