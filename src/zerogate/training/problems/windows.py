"""A question and its passage as windows of bounded length, what the model says of each, and the best answer of all.

Windows share `stride` tokens of the passage. What is said of a window is a logit for each token to be the answer's
first and one to be its last; both at the window's first token say that the answer is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zerogate.errors import UserError
from zerogate.training.problems.sections import QuestionSection

Spans = list[tuple[int, int] | None]


class Found(NamedTuple):
    """What a window says: the best answer's logits, its place in the passage, and the logits of there being none.

    A window of nothing but white space has no answer: its logits are -inf.
    """

    logit: float
    first: int
    last: int
    none: float

    @property
    def margin(self) -> float:
        """The answer's logits above those of there being none."""
        return self.logit - self.none

    def said(self, context: str, margin: float) -> str:
        """The answer, or "" where it is not at least `margin` above there being none."""
        return context[self.first : self.last] if self.margin >= margin else ""


def cut_windows(
    tokenizer: Any, question: str, context: str, section: QuestionSection, row: int
) -> list[dict[str, Any]]:
    """Encode a question with every window of its passage.

    Args:
        tokenizer: a fast one.
        question, context: the texts.
        section: `max_length` and `stride`.
        row: the question's number, for the error.

    Returns:
        `row`, `input_ids`, perhaps `token_type_ids`, and `spans`: for every token its first and last place in the
        passage without white space at its ends (the two are the same for a token of nothing else), or None where it
        is not of the passage.

    Raises:
        UserError: the question leaves the passage too little room, or the passage has no tokens.
    """
    asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    room = section.max_length - asked - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= section.stride:
        raise UserError(
            f"question {row} has {asked} tokens and leaves {max(room, 0)} of data.max_length "
            f"{section.max_length} to its passage, which is not more than data.stride {section.stride}"
        )
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=section.max_length,
        stride=section.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for number, ids in enumerate(encoded["input_ids"]):
        parts, places = encoded.sequence_ids(number), encoded["offset_mapping"][number]
        spans = [_trimmed(context, *place) if part == 1 else None for part, place in zip(parts, places, strict=True)]
        if not any(spans):
            raise UserError(f"question {row}: its passage {context[:40]!r} has no tokens; leave the question out")
        window = {"row": row, "input_ids": ids, "spans": spans}
        if "token_type_ids" in encoded:
            window["token_type_ids"] = encoded["token_type_ids"][number]
        windows.append(window)
    return windows


def answer_logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """[B, 2, T]: of each token to be the first, and the last; prompts before the text are no answer."""
    said = model(**inputs)
    both = torch.stack([said.start_logits, said.end_logits], 1)
    text = both[..., -inputs["input_ids"].shape[1] :]
    # Nor is padding: else the loss would depend on what a window shares its batch with.
    return text.masked_fill(inputs["attention_mask"][:, None] == 0, -torch.inf)


def best_in_window(logits_2T: Tensor, spans: Spans, longest: int) -> Found:
    """The best answer of a window: first not after last, of at most `longest` tokens, and with text at both ends."""
    first_T, last_T = logits_2T.float().cpu()
    inside = [at for at, span in enumerate(spans) if span is not None]
    low, high = inside[0], inside[-1] + 1
    pairs = first_T[low:high, None] + last_T[None, low:high]
    written = torch.tensor([span is not None and span[0] < span[1] for span in spans[low:high]])
    allowed = (written[:, None] & written).triu().tril(longest - 1)
    pairs = pairs.masked_fill(~allowed, -torch.inf)
    first, last = divmod(int(pairs.argmax()), high - low)
    start, end = spans[low + first], spans[low + last]
    assert start is not None and end is not None  # the passage's tokens are next to each other
    return Found(pairs[first, last].item(), start[0], end[1], (first_T[0] + last_T[0]).item())


def best_of(windows: Sequence[Found]) -> Found:
    """The best answer of all windows of a passage; `none` is of the window that is the surest to have one."""
    best = max(windows, key=lambda found: found.logit)
    return best._replace(none=min(found.none for found in windows))


def _trimmed(context: str, first: int, last: int) -> tuple[int, int]:
    """A token's place without white space at its ends, which many tokenizers count in."""
    text = context[first:last]
    first += len(text) - len(text.lstrip())
    return first, first + len(text.strip())
