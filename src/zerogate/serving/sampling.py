"""The next token of each request of a step, by its own settings: greedy, sampled, penalised, with log-probabilities.

Requests with the same settings are warped together. One that names a seed draws from a generator of its own, as
`zerogate generate` does: the same prompt, settings and seed give the same answer, whoever shares its steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zerogate.bases.sampling import RowSampler, Sampling


@dataclass(frozen=True)
class Likelihood:
    """How likely a token was, before temperature and penalties.

    Attributes:
        logprob: of the token that was taken.
        top: the likeliest tokens with theirs, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Choice:
    """The settings of one request, and what it has drawn so far.

    Attributes:
        sampling: temperature, nucleus, repetition penalty.
        seeded: whether it draws from a generator of its own.
        top: how many likeliest tokens to report beside the taken one; None reports nothing.
        frequency, presence: OpenAI's penalties on what the answer has already said.
        bias: added to the scores of single tokens.
        prompt: its tokens, for the repetition penalty.
        told: what each token was worth.
        said: the answer so far.
    """

    sampling: Sampling
    seeded: bool = True
    top: int | None = None
    frequency: float = 0.0
    presence: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    prompt: Sequence[int] = ()
    told: list[Likelihood] = field(default_factory=list)
    said: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.sampling.seed)

    @property
    def penalised(self) -> bool:
        """Whether its scores depend on what was said, or are moved."""
        return bool(self.frequency or self.presence or self.bias or self.sampling.repetition_penalty != 1.0)


def choose(choices: Sequence[Choice], scores_NV: Tensor, generator: torch.Generator) -> Tensor:
    """The next token of each request, [N]; each choice remembers its own.

    Args:
        choices: one per row.
        scores_NV: the model's, in fp32.
        generator: for requests that name no seed; on the scores' device.
    """
    plain_NV = scores_NV
    if any(choice.penalised for choice in choices):
        scores_NV = scores_NV.clone()
        for row, choice in enumerate(choices):
            if choice.penalised:
                _penalise(choice, scores_NV[row])
    tokens_N = scores_NV.argmax(dim=-1)
    groups: dict[tuple[float, float, int, bool], list[int]] = {}
    for row, choice in enumerate(choices):
        s = choice.sampling
        if not s.greedy:
            groups.setdefault((s.temperature, s.top_p, s.top_k, choice.seeded), []).append(row)
    for (_, _, _, seeded), rows in groups.items():
        index = torch.tensor(rows, device=scores_NV.device)
        sampler = RowSampler(choices[rows[0]].sampling, [])
        if seeded:
            sampler.generators = [choices[row].generator for row in rows]
            drawn = sampler(index[:, None], scores_NV[index]).argmax(dim=-1)  # type: ignore[arg-type]
        else:
            shares = sampler.warpers(index[:, None], scores_NV[index]).softmax(-1)  # type: ignore[arg-type]
            # One request with scores that are no numbers must not fail the step of all.
            wrong = ~shares.isfinite().all(-1, keepdim=True)
            shares = torch.where(wrong, torch.zeros_like(shares).scatter_(1, tokens_N[index][:, None], 1.0), shares)
            drawn = torch.multinomial(shares, 1, generator=generator)[:, 0]
        tokens_N[index] = drawn
    taken = tokens_N.tolist()
    _report(choices, plain_NV, taken)
    for choice, token in zip(choices, taken, strict=True):
        choice.said.append(token)
    return tokens_N


def _penalise(choice: Choice, scores_V: Tensor) -> None:
    """Changes one row of scores in place."""
    device = scores_V.device
    penalty = choice.sampling.repetition_penalty
    if penalty != 1.0:
        seen = torch.tensor(sorted({*choice.prompt, *choice.said}), device=device)
        known = scores_V[seen]
        scores_V[seen] = torch.where(known < 0, known * penalty, known / penalty)
    if (choice.frequency or choice.presence) and choice.said:
        said, counts = torch.tensor(choice.said, device=device).unique(return_counts=True)
        scores_V[said] -= choice.frequency * counts + choice.presence
    if choice.bias:
        scores_V[torch.tensor(list(choice.bias), device=device)] += torch.tensor(
            list(choice.bias.values()), device=device
        )


def _report(choices: Sequence[Choice], scores_NV: Tensor, taken: list[int]) -> None:
    wanted = [row for row, choice in enumerate(choices) if choice.top is not None]
    if not wanted:
        return
    logprobs = scores_NV[torch.tensor(wanted, device=scores_NV.device)].log_softmax(-1)
    for place, row in enumerate(wanted):
        most = choices[row].top or 0
        best = logprobs[place].topk(most) if most else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        choices[row].told.append(Likelihood(float(logprobs[place, taken[row]]), top))
