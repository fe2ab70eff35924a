"""How the next token is chosen: temperature, nucleus, seed. The paper's setting, temperature 0.1 and top-p 0.75, is
the default.

Every row draws from a generator of its own, so an answer depends on its prompt and its seed alone: not on the batch
it shared, nor on where an interrupted run was resumed. transformers' own sampling draws one stream for the whole
batch and cannot do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from zerogate.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """The decoding settings of one answer.

    Attributes:
        temperature: 0 is greedy; 1 is the model's own distribution.
        top_p: keep the likeliest tokens that make up this share of the probability.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        max_new_tokens: longest answer, in tokens.
        repetition_penalty: above 1 makes tokens that have been seen less likely.
        seed: the same prompt, settings and seed give the same answer.
        stop: strings that end an answer, and are cut from it.
    """

    temperature: float = 0.1
    top_p: float = 0.75
    top_k: int = 0
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no sampler can do."""
        checks = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 is none"),
            "seed": (0 <= self.seed < 2**63, "0 or more, and less than 2**63"),
            "stop": (all(self.stop), "strings that are not empty"),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                raise UserError(f"{name} is {getattr(self, name)}, but must be {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self) | {"stop": list(self.stop)}

    def updated(self, changes: dict[str, Any]) -> Sampling:
        """A copy with some settings changed; text is read as a number where a number is wanted.

        Raises:
            UserError: an unknown setting, or a value that does not fit.
        """
        kinds = {field.name: type(getattr(Sampling(), field.name)) for field in fields(Sampling)}
        clean: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in kinds:
                raise UserError(f"unknown setting {name!r}; there are: {', '.join(kinds)}")
            kind = kinds[name]
            if kind is tuple:
                clean[name] = (value,) if isinstance(value, str) else tuple(str(item) for item in value)
                continue
            try:
                clean[name] = kind(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{name} is {value!r}, which is not a number") from error
        return replace(self, **clean)


class RowSampler(LogitsProcessor):
    """Turns greedy search into sampling, with one random stream per row.

    After temperature, top-k and top-p, Gumbel noise is added to the log-probabilities: the largest sum is then a
    draw from the softmax (the Gumbel-max trick), so the argmax that `generate` takes is a sample.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        # Noise is drawn on the CPU in fp32, so that a seed means the same on every device.
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Args: `input_ids` [B, T]; `scores` [B, V]. Returns scores [B, V] whose argmax is one draw per row."""
        warped_BV = self.warpers(input_ids, scores.float())
        exponential_BV = torch.stack(
            [torch.empty(scores.shape[-1]).exponential_(generator=generator) for generator in self.generators]
        )
        gumbel_BV = -exponential_BV.log()
        return warped_BV + gumbel_BV.to(warped_BV.device)  # type: ignore[return-value]
