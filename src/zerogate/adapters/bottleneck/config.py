"""`BottleneckConfig`: what a bottleneck adapter is, as data. Where it goes is worked out in `placements.py`, what it
computes in `layer.py`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig

from .layer import ACTIVATIONS
from .placements import PRESETS

POSITIONS = ("series-input", "series-output", "parallel")


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    BOTTLENECK = "BOTTLENECK"


PEFT_TYPE = _PeftType.BOTTLENECK


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class BottleneckConfig(PeftConfig):
    """Small two-layer networks beside or behind single Linear layers (arXiv 2304.01933; 1902.00751; 2110.04366).

    Each adds `up(act(down(dropout(x)))) * scaling`. What is left out comes from the preset, if one is named, and where
    it says nothing (or none is named) from the defaults given in the help texts.

    Raises:
        ValueError: A value is out of its range; the message names the field, the value and what it may be.
    """

    preset: str | None = field(
        default=None,
        metadata=_help(f"A placement and its usual settings by name: {', '.join(PRESETS)}. All can be overridden."),
    )
    position: str | dict[str, str] | None = field(
        default=None,
        metadata=_help(
            "series-input | series-output | parallel (fed by the input, added to the output); or one for each target, "
            "as {name ending: position}. Default: series-output."
        ),
    )
    fed_by: dict[str, str] | None = field(
        default=None,
        metadata=_help(
            "For parallel bottlenecks around several layers: {target: the module whose input feeds it}, such as "
            "{down_proj: gate_proj} around a whole MLP."
        ),
    )
    bottleneck_size: int | None = field(default=None, metadata=_help("The width in between. Default: 256."))
    reduction_factor: float | None = field(
        default=None, metadata=_help("In its place: the width is that of the input divided by this.")
    )
    non_linearity: str | None = field(default=None, metadata=_help("Such as tanh (the default), relu, gelu, swish."))
    dropout: float = field(default=0.0, metadata=_help("Of the bottleneck's input, while training."))
    scaling: float | str | None = field(
        default=None, metadata=_help("A factor, or learned: one trained number per bottleneck. Default: 1.")
    )
    init_weights: str = field(
        default="identity",
        metadata=_help(
            "identity or mam: Kaiming down, zero up, so that nothing changes at the start. bert: N(0, 0.02) both."
        ),
    )
    use_bias: bool = field(default=False, metadata=_help("Biases in the bottleneck, from zero."))
    target_modules: list[str] | str | None = field(
        default=None,
        metadata=_help(
            "Which Linear layers, as PEFT understands it: a list of name endings, a regular expression on full names, "
            "or all-linear. Default: the preset's in known families."
        ),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=_help("Names to leave out, as in PEFT."))
    layers_to_transform: list[int] | int | None = field(default=None, metadata=_help("Only in these layers."))
    layers_pattern: list[str] | str | None = field(
        default=None, metadata=_help("What the list of layers is called, where a model has several, as in PEFT.")
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata=_help("Further modules to train whole and save with the adapter.")
    )
    save_dtype: str = field(
        default="float32", metadata=_help("float32 | bfloat16: how save_pretrained stores the adapter.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
        if isinstance(self.layers_to_transform, int):
            self.layers_to_transform = [self.layers_to_transform]
        if self.preset is not None:
            _one_of("preset", self.preset, PRESETS)
        self._take_settings()
        for position in self.position.values() if isinstance(self.position, dict) else [self.position]:
            if position is not None:
                _one_of("position", position, POSITIONS)
        _one_of("non_linearity", self.non_linearity, ACTIVATIONS)
        _one_of("init_weights", self.init_weights, ("identity", "bert", "mam"))
        _one_of("save_dtype", self.save_dtype, ("float32", "bfloat16"))
        if self.fed_by and self.preset is None and self.position in (None, "series-input", "series-output"):
            raise ValueError("fed_by is for parallel bottlenecks: say position='parallel' too.")
        if isinstance(self.scaling, str) and self.scaling != "learned":
            raise ValueError(f"scaling={self.scaling!r} must be a number or 'learned'.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, not {self.dropout}.")
        if self.bottleneck_size is not None and self.reduction_factor is not None:
            raise ValueError("Give bottleneck_size or reduction_factor, not both.")
        if self.bottleneck_size is not None and self.bottleneck_size < 1:
            raise ValueError(f"bottleneck_size must be at least 1, not {self.bottleneck_size}.")
        if self.reduction_factor is not None and self.reduction_factor <= 0:
            raise ValueError(f"reduction_factor must be positive, not {self.reduction_factor}.")

    def _take_settings(self) -> None:
        """Fills in what was left out: first from the preset, then from the paper's defaults."""
        usual = PRESETS[self.preset].settings if self.preset is not None else {}
        if self.bottleneck_size is None and self.reduction_factor is None:
            self.reduction_factor = usual.get("reduction_factor")
            self.bottleneck_size = None if self.reduction_factor is not None else 256
        if self.non_linearity is None:
            self.non_linearity = usual.get("non_linearity", "tanh")
        if self.scaling is None:
            self.scaling = usual.get("scaling", 1.0)

    def size(self, width: int) -> int:
        """The bottleneck's width for an input of `width` features."""
        if self.bottleneck_size is not None:
            return self.bottleneck_size
        assert self.reduction_factor is not None  # one of the two always is there
        return max(1, int(width / self.reduction_factor))


def _one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    known = list(allowed)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}.{hint}")
