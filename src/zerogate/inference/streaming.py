"""Token ids to text while they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.generation.streamers import BaseStreamer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [position for position in (text.find(string) for string in stop) if position >= 0]
    return (text[: min(found)], True) if found else (text, False)


class TextStream(BaseStreamer):
    """Calls `on_text` with each new piece of the answer; for one row.

    A piece is held back while it may still change: half of a character that takes several tokens, or the beginning
    of a stop string. The pieces together are the answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        on_text: Callable[[str], None],
        stop: Sequence[str] = (),
        before: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.on_text = on_text
        self.stop = stop
        # What the new ids continue, where that is the same answer: a token may begin with a space only after another
        # one.
        self.before = list(before)
        self.skipped = len(self._decode(self.before))
        self.ids: list[int] = []
        self.told = 0
        self.prompt_came = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt's ids [1, T], which are ignored, then each new id [1]."""
        if not self.prompt_came:
            self.prompt_came = True
            return
        self.ids += value.flatten().tolist()
        self._tell(self._settled())

    def end(self) -> None:
        """Tell what was held back."""
        self._tell(self.text())

    def text(self) -> str:
        """The answer so far, stop strings cut."""
        return cut_at_stop(self._decode(self.before + self.ids)[self.skipped :], self.stop)[0]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _settled(self) -> str:
        text = self._decode(self.before + self.ids)[self.skipped :]
        text, stopped = cut_at_stop(text, self.stop)
        if stopped:
            return text
        held = max(
            (length for string in self.stop for length in range(1, len(string)) if text.endswith(string[:length])),
            default=0,
        )
        settled = text[: len(text) - held] if held else text
        return settled.rstrip("\N{REPLACEMENT CHARACTER}")

    def _tell(self, text: str) -> None:
        if len(text) > self.told:
            piece, self.told = text[self.told :], len(text)
            self.on_text(piece)
