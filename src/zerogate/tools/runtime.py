"""Answering with tools in the text (Toolformer, section 2, "Inference"): decode until a call's arrow, run the tool, put
its result and the closing bracket in, and go on. What was computed for the text so far is kept throughout.

A model that has learned calls still prefers plain words by a hair, so a call is opened whenever its opening is among
the `open_top_k` likeliest continuations, at most `most_calls` times; with 0 calls the opening cannot be written at all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from zerogate.bases.decode import context_length, end_tokens
from zerogate.errors import UserError
from zerogate.tools.inline import ARROW, CLOSE, OPEN, safe
from zerogate.tools.registry import Toolbox
from zerogate.tools.tool import Called

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_CALL_TOKENS = 60
_BEGUN = re.compile(r"^ ?\[\s*(?P<name>[^\[\]()]{1,64})\((?P<input>.*)\)\s*->$", re.DOTALL)


@dataclass
class Answer:
    """What came of a prompt.

    Attributes:
        ids: new tokens, calls and results among them.
        text: the same in words.
        calls: what was called.
        ended: whether an end token came, rather than the limit.
    """

    ids: list[int] = field(default_factory=list)
    text: str = ""
    calls: list[Called] = field(default_factory=list)
    ended: bool = False


class _Text:
    """The tokens so far, what the model keeps of them, and what it says comes next."""

    def __init__(self, model: Any, prompt: Sequence[int], limit: int) -> None:
        self.model, self.cache, self.length, self.limit = model, DynamicCache(config=model.config), 0, limit
        self.new: list[int] = []
        self.logits_V = self._forward(prompt)

    @property
    def left(self) -> int:
        """How many tokens the context still holds."""
        return self.limit - self.length

    @torch.no_grad()
    def _forward(self, ids: Sequence[int]) -> Tensor:
        ids_1T = torch.tensor([list(ids)], device=self.model.device)
        mask_1T = torch.ones(1, self.length + len(ids), dtype=torch.int64, device=ids_1T.device)
        out = self.model(input_ids=ids_1T, attention_mask=mask_1T, past_key_values=self.cache, use_cache=True)
        self.length += len(ids)
        logits_V: Tensor = out.logits[0, -1].float()
        return logits_V

    def add(self, ids: Sequence[int]) -> None:
        self.new += ids
        self.logits_V = self._forward(ids)

    def take_back(self, count: int, logits_V: Tensor) -> None:
        self.cache.crop(-count)
        self.length -= count
        del self.new[len(self.new) - count :]
        self.logits_V = logits_V


def answer_with_tools(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    tools: Toolbox,
    *,
    max_new_tokens: int = 128,
    open_top_k: int = 10,
    most_calls: int = 1,
    choose: Callable[[Tensor], int] | None = None,
    told: Callable[[list[int], Called | None], None] | None = None,
) -> Answer:
    """Continue a prompt, with calls.

    Args:
        model: a causal language model that has learned calls, in eval mode.
        tokenizer: its tokenizer.
        prompt: at least one token.
        tools: what may be called; any other name gets an empty result.
        max_new_tokens: longest continuation, results included.
        open_top_k: k of the paper's decoding; 1 opens a call only where nothing is likelier.
        most_calls: at most so many; 0 switches tools off.
        choose: picks a token by the logits [V]; the likeliest by default.
        told: hears of each token, and of each call with all its tokens, once they are settled.

    Raises:
        UserError: the prompt leaves no room for an answer in the base's context.
    """
    told = told or (lambda ids, called: None)
    choose = choose or (lambda logits_V: int(logits_V.argmax()))
    opening = tokenizer(OPEN, add_special_tokens=False)["input_ids"]
    ends = set(end_tokens(model, tokenizer))
    limit = context_length(model) or sys.maxsize
    if len(prompt) >= limit:
        raise UserError(f"a prompt has {len(prompt)} tokens, and the base has room for {limit}, its answer included")
    text, answer = _Text(model, prompt, limit), Answer()
    room = min(max_new_tokens, text.left)
    while len(text.new) < room:
        if len(answer.calls) < most_calls and _opens(text, opening, open_top_k):
            begun = len(text.new) - len(opening)
            answer.calls.append(_call(text, tokenizer, tools, choose, ends, room, len(opening)))
            told(text.new[begun:], answer.calls[-1])
            continue
        token = choose(_without_opening(text, opening))
        if token in ends:
            answer.ended = True
            break
        text.add([token])
        told([token], None)
    answer.ids = text.new[:room]
    answer.text = str(tokenizer.decode(answer.ids, skip_special_tokens=True))
    return answer


def _opens(text: _Text, opening: Sequence[int], top_k: int) -> bool:
    """Opens a call if each token of the opening is among the likeliest at its place; else leaves the text as it was."""
    if len(opening) > text.left:
        return False
    before = text.logits_V
    for done, token in enumerate(opening):
        if token not in text.logits_V.topk(min(top_k, len(text.logits_V))).indices:
            if done:
                text.take_back(done, before)
            return False
        text.add([token])
    return True


def _without_opening(text: _Text, opening: Sequence[int]) -> Tensor:
    """The logits with the opening's last token out of reach where the others stand already."""
    begun = len(opening) - 1
    if text.new[len(text.new) - begun :] != list(opening[:-1]) or len(text.new) < begun:
        return text.logits_V
    closed_V = text.logits_V.clone()
    closed_V[opening[-1]] = -torch.inf
    return closed_V


def _call(
    text: _Text,
    tokenizer: Any,
    tools: Toolbox,
    choose: Callable[[Tensor], int],
    ends: set[int],
    room: int,
    opened: int,
) -> Called:
    """From the opening to the closing bracket: the model writes the call, the tool its result, of which the text gets
    what the context still holds."""
    start = len(text.new) - opened
    while True:
        said = tokenizer.decode(text.new[start:], skip_special_tokens=True)
        if said.rstrip().endswith(ARROW.strip()):
            break
        token = choose(text.logits_V)
        too_long = len(text.new) - start >= MOST_CALL_TOKENS or len(text.new) >= room
        if CLOSE in said or too_long or token in ends:
            return Called(said.strip(), {}, "", "the call was not finished")
        text.add([token])
    found = _BEGUN.match(said.strip())
    if found is None:
        called = Called(said.strip(), {}, "", "this is not written like a call")
        tools.calls.append(called)
    else:
        called = tools.call(found["name"].strip(), found["input"].strip())
    result = safe(called.result)
    ids = tokenizer(f" {result}{CLOSE}" if result else CLOSE, add_special_tokens=False)["input_ids"]
    if len(ids) > text.left:
        closing = tokenizer(CLOSE, add_special_tokens=False)["input_ids"]
        ids = [*ids[: max(text.left - len(closing), 0)], *closing][: text.left]
    if ids:
        text.add(ids)
    return called
