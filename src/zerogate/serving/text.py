"""New token ids to new text: whole characters, no end token, nothing of a stop string.

As `inference/streaming.py`, but each piece costs the same however long the answer is: with hundreds of streams in one
process the text so far is not read again at every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Writer:
    """Writes one answer.

    Args:
        tokenizer: the base's.
        stop: strings that end the answer and are cut from it.

    Attributes:
        stopped: a stop string came; what follows it is thrown away.
        text: the answer so far, as far as it is settled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, [string for string in stop if string]
        self.longest = max((len(string) for string in self.stop), default=0)
        self.ids: list[int] = []
        self.start = self.read = 0  # ids[start:read] are written, and how they are decides how the next begin
        self.text, self.pending, self.stopped = "", "", False

    def add(self, ids: Sequence[int]) -> str:
        """Takes new ids; returns the text that is settled by them, possibly none."""
        if self.stopped:
            return ""
        self.ids += ids
        known, whole = self._decode(self.ids[self.start : self.read]), self._decode(self.ids[self.start :])
        if whole.endswith("\N{REPLACEMENT CHARACTER}") or len(whole) <= len(known):
            return ""  # half a character: the next token completes it
        self.start, self.read = self.read, len(self.ids)
        return self._settle(self.pending + whole[len(known) :], last=False)

    def end(self) -> str:
        """What was held back."""
        if self.stopped:
            return ""
        known, whole = self._decode(self.ids[self.start : self.read]), self._decode(self.ids[self.start :])
        self.start = self.read = len(self.ids)
        return self._settle(self.pending + whole[len(known) :], last=True)

    def _settle(self, pending: str, last: bool) -> str:
        found = [place for place in (pending.find(string) for string in self.stop) if place >= 0]
        if found:
            self.stopped, last, pending = True, True, pending[: min(found)]
        held = 0
        if not last and self.longest:
            held = max(
                (n for string in self.stop for n in range(1, len(string)) if pending.endswith(string[:n])), default=0
            )
        piece, self.pending = pending[: len(pending) - held], pending[len(pending) - held :]
        self.text += piece
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""
