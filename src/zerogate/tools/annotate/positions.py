"""Where a call would begin: p_i, the probability that the model opens one before token i of a text, teacher-forced on
the text as it is (Toolformer, section 2, "Sampling API calls").

The opening may be several tokens, as in vocabularies that have no " [". Its probability is at most its first token's,
which one forward pass gives for all positions; so the likeliest positions are found exactly by looking closer at
positions in that order until no further one can be among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zerogate.tools.annotate.score import Row, log_probs, token_log_probs


def likely_positions(
    model: nn.Module,
    before: Sequence[int],
    text: Sequence[int],
    opening: Sequence[int],
    *,
    threshold: float,
    most: int,
    pad_token_id: int,
) -> list[tuple[int, float]]:
    """The positions at which a call is likeliest to begin, at most so many, by falling probability.

    Args:
        model: a causal language model in eval mode.
        before: what stands before the text: at least one token, such as the prompt that shows calls.
        text: the text's tokens.
        opening: the tokens that open a call.
        threshold: tau_s; positions at or below it are left out.
        most: k.
        pad_token_id: what to pad with.

    Returns:
        Pairs of i, counted from 0, and p_i.
    """
    if not text:
        return []
    whole = [*before, *text]
    (first,) = token_log_probs(model, [Row(whole, len(before), len(whole))], opening[0], pad_token_id)
    bounds = first.exp().tolist()
    order = sorted(range(len(text)), key=lambda index: -bounds[index])
    found: list[tuple[float, int]] = []
    for at in range(0, len(order), most):
        chunk = [index for index in order[at : at + most] if bounds[index] > threshold]
        if not chunk or (len(found) >= most and bounds[chunk[0]] <= sorted(found)[-most][0]):
            break
        chances = [bounds[index] for index in chunk]
        if len(opening) > 1:
            rows = [_opened(before, text[:index], opening) for index in chunk]
            chances = [torch.exp(one.sum()).item() for one in log_probs(model, rows, pad_token_id)]
        found += [(chance, index) for chance, index in zip(chances, chunk, strict=True) if chance > threshold]
    return [(index, chance) for chance, index in sorted(found, key=lambda one: (-one[0], one[1]))[:most]]


def _opened(before: Sequence[int], text: Sequence[int], opening: Sequence[int]) -> Row:
    ids = [*before, *text, *opening]
    return Row(ids, len(ids) - len(opening), len(ids))
