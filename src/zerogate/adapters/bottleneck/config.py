"""`BottleneckConfig`: what a bottleneck adapter is, as data. Where it goes is worked out in `placements.py`, what it
computes in `layer.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import MethodConfig, PeftName, one_of, told
from .layer import ACTIVATIONS
from .placements import PRESETS

POSITIONS = ("series-input", "series-output", "parallel")


@dataclass
class BottleneckConfig(MethodConfig):
    """Small two-layer networks beside or behind single Linear layers (arXiv 2304.01933; 1902.00751; 2110.04366).

    Each adds `up(act(down(dropout(x)))) * scaling`. What is left out comes from the preset, if one is named, and where
    it says nothing (or none is named) from the defaults given in the help texts.

    Raises:
        ValueError: A value is out of its range; the message names the field, the value and what it may be.
    """

    peft_name = PeftName.BOTTLENECK

    preset: str | None = field(
        default=None,
        metadata=told(f"A placement and its usual settings by name: {', '.join(PRESETS)}. All can be overridden."),
    )
    position: str | dict[str, str] | None = field(
        default=None,
        metadata=told(
            "series-input | series-output | parallel (fed by the input, added to the output); or one for each target, "
            "as {name ending: position}. Default: series-output."
        ),
    )
    fed_by: dict[str, str] | None = field(
        default=None,
        metadata=told(
            "For parallel bottlenecks around several layers: {target: the module whose input feeds it}, such as "
            "{down_proj: gate_proj} around a whole MLP."
        ),
    )
    bottleneck_size: int | None = field(default=None, metadata=told("The width in between. Default: 256."))
    reduction_factor: float | None = field(
        default=None, metadata=told("In its place: the width is that of the input divided by this.")
    )
    non_linearity: str | None = field(default=None, metadata=told("Such as tanh (the default), relu, gelu, swish."))
    dropout: float = field(default=0.0, metadata=told("Of the bottleneck's input, while training."))
    scaling: float | str | None = field(
        default=None, metadata=told("A factor, or learned: one trained number per bottleneck. Default: 1.")
    )
    init_weights: str = field(
        default="identity",
        metadata=told(
            "identity or mam: Kaiming down, zero up, so that nothing changes at the start. bert: N(0, 0.02) both."
        ),
    )
    use_bias: bool = field(default=False, metadata=told("Biases in the bottleneck, from zero."))
    target_modules: list[str] | str | None = field(
        default=None,
        metadata=told(
            "Which Linear layers, as PEFT understands it: a list of name endings, a regular expression on full names, "
            "or all-linear. Default: the preset's in known families."
        ),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=told("Names to leave out, as in PEFT."))
    layers_to_transform: list[int] | int | None = field(default=None, metadata=told("Only in these layers."))
    layers_pattern: list[str] | str | None = field(
        default=None, metadata=told("What the list of layers is called, where a model has several, as in PEFT.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers_to_transform, int):
            self.layers_to_transform = [self.layers_to_transform]
        if self.preset is not None:
            one_of("preset", self.preset, PRESETS)
        self._take_settings()
        for position in self.position.values() if isinstance(self.position, dict) else [self.position]:
            if position is not None:
                one_of("position", position, POSITIONS)
        one_of("non_linearity", self.non_linearity, ACTIVATIONS)
        one_of("init_weights", self.init_weights, ("identity", "bert", "mam"))
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
