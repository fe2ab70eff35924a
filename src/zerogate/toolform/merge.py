"""The kept calls of all tools, back into the text. Tokens are put between tokens, so what the filter weighed is what is
learned; writing the text out and reading it again could give other ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Kept(NamedTuple):
    """A call that helps.

    Attributes:
        position: the token before which it stands.
        gain: how much it helps.
        ids: its tokens with the result.
    """

    position: int
    gain: float
    ids: Sequence[int]


def merge(text: Sequence[int], calls: Iterable[Kept]) -> list[int]:
    """The text's tokens with the calls in it; of several at one position the one with the largest gain."""
    best: dict[int, Kept] = {}
    for call in calls:
        if not 0 <= call.position <= len(text):
            raise ValueError(f"position {call.position} is not in a text of {len(text)} tokens")
        if call.position not in best or call.gain > best[call.position].gain:
            best[call.position] = call
    merged: list[int] = []
    at = 0
    for position in sorted(best):
        merged += [*text[at:position], *best[position].ids]
        at = position
    return [*merged, *text[at:]]
