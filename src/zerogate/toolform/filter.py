"""Which calls help: the weighted loss of what follows a position, with a call and its result before the whole text,
against no call and a call without result (Toolformer, section 2, "Filtering API calls").

    L_i(z) = - sum_{j >= i} w_{j-i} log p(x_j | z, x_1 ... x_{j-1}),    w_t = max(0, 1 - 0.2 t), normalised
    gain   = min(L_i(nothing), L_i(call without result)) - L_i(call with result)

z is put before the text, not into it: the model has not learned yet to find calls in the midst of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zerogate.toolform.score import Row, log_probs

_RAW = (1.0, 0.8, 0.6, 0.4, 0.2)
WEIGHTS = tuple(weight / sum(_RAW) for weight in _RAW)
"""w_0 to w_4: 1/3, 4/15, 1/5, 2/15, 1/15; zero from there on."""


@dataclass(frozen=True)
class Candidate:
    """A call that may be put into a text.

    Attributes:
        position: i, the token before which it would stand.
        call, called: its tokens without a result, and with it.
    """

    position: int
    call: Sequence[int]
    called: Sequence[int]


@dataclass(frozen=True)
class Losses:
    """L_i of a candidate in nats.

    Attributes:
        nothing, empty, result: without the call, with it but no result, with both.
    """

    nothing: float
    empty: float
    result: float

    @property
    def gain(self) -> float:
        """How much easier the text becomes: L- minus L+."""
        return min(self.nothing, self.empty) - self.result


def weigh(
    model: nn.Module,
    start: Sequence[int],
    texts: Sequence[tuple[Sequence[int], Sequence[Candidate]]],
    pad_token_id: int,
) -> list[list[Losses]]:
    """The losses of all candidates of some texts.

    The losses without a call come from one pass over a text, for all its candidates; each candidate then has two short
    sequences of its own, which end where the weights do.

    Args:
        model: a causal language model in eval mode.
        start: the tokens that every sequence begins with (BOS); at least one.
        texts: each with its tokens and the candidates in it.
        pad_token_id: what to pad with.
    """
    rows = []
    for text, candidates in texts:
        if candidates:
            end = min(max(one.position for one in candidates) + len(WEIGHTS), len(text))
            rows.append(Row([*start, *text[:end]], len(start), len(start) + end))
        for one in candidates:
            end = min(one.position + len(WEIGHTS), len(text))
            for ids in (one.call, one.called):
                before = len(start) + len(ids)
                rows.append(Row([*start, *ids, *text[:end]], before + one.position, before + end))
    scored = iter(log_probs(model, rows, pad_token_id))
    return [_losses(scored, candidates) for _, candidates in texts]


def _losses(scored: Iterator[Tensor], candidates: Sequence[Candidate]) -> list[Losses]:
    if not candidates:
        return []
    plain = next(scored)
    return [
        Losses(
            _weighted(plain[one.position : one.position + len(WEIGHTS)]),
            _weighted(next(scored)),
            _weighted(next(scored)),
        )
        for one in candidates
    ]


def _weighted(log_probs_T: Tensor) -> float:
    return -float((torch.tensor(WEIGHTS[: len(log_probs_T)], dtype=torch.float64) * log_probs_T.double()).sum())
