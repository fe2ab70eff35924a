"""Where a call would begin: p_i, the probability that the model opens one before token i of a text, teacher-forced on
the text as it is (Toolformer, section 2, "Sampling API calls").

The opening may be several tokens, as in vocabularies that have no " [". Its probability is at most its first token's,
which one forward pass gives for all positions; so the likeliest positions are found exactly by looking closer at
positions in that order until no further one can be among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from zerogate.toolform.score import Row, log_probs, token_log_probs


class Text(NamedTuple):
    """A text that calls may be put into.

    Attributes:
        before: the tokens before it, such as the prompt that shows calls; at least one.
        ids: its own.
    """

    before: Sequence[int]
    ids: Sequence[int]


Found = list[tuple[int, float]]
"""Pairs of i, counted from 0, and p_i, by falling probability."""


def likely_positions(
    model: nn.Module, texts: Sequence[Text], opening: Sequence[int], *, threshold: float, most: int, pad_token_id: int
) -> list[Found]:
    """The positions at which a call is likeliest to begin, at most so many of each text.

    Args:
        model: a causal language model in eval mode.
        texts: looked at together.
        opening: the tokens that open a call.
        threshold: tau_s; positions at or below it are left out.
        most: k.
        pad_token_id: what to pad with.
    """
    whole = [Row([*text.before, *text.ids], len(text.before), len(text.before) + len(text.ids)) for text in texts]
    searches = [
        _Search(text, first.exp().tolist(), threshold, most)
        for text, first in zip(texts, token_log_probs(model, whole, opening[0], pad_token_id), strict=True)
    ]
    while asked := [(search, index) for search in searches for index in search.next()]:
        rows = [_opened(search.text, index, opening) for search, index in asked]
        # Of an opening of one token, the bound is the probability itself.
        chances = (
            [torch.exp(one.sum()).item() for one in log_probs(model, rows, pad_token_id)]
            if len(opening) > 1
            else [search.bounds[index] for search, index in asked]
        )
        for (search, index), chance in zip(asked, chances, strict=True):
            search.take(index, chance)
    return [search.best() for search in searches]


class _Search:
    """The search for a text's likeliest positions: `bounds` are at least the probabilities."""

    def __init__(self, text: Text, bounds: list[float], threshold: float, most: int) -> None:
        self.text, self.bounds, self.threshold, self.most = text, bounds, threshold, most
        self.order = sorted(
            (index for index, bound in enumerate(bounds) if bound > threshold), key=lambda index: -bounds[index]
        )
        self.found: Found = []

    def next(self) -> list[int]:
        """The positions to look at more closely, as long as one of them may be among the likeliest."""
        chunk, self.order = self.order[: self.most], self.order[self.most :]
        best = self.best()
        if chunk and len(best) >= self.most and self.bounds[chunk[0]] <= best[-1][1]:
            self.order = []
            return []
        return chunk

    def take(self, index: int, chance: float) -> None:
        """What the closer look gave."""
        if chance > self.threshold:
            self.found.append((index, chance))

    def best(self) -> Found:
        """The likeliest so far."""
        return sorted(self.found, key=lambda one: (-one[1], one[0]))[: self.most]


def _opened(text: Text, index: int, opening: Sequence[int]) -> Row:
    ids = [*text.before, *text.ids[:index], *opening]
    return Row(ids, len(ids) - len(opening), len(ids))
