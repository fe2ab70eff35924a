"""`AffineConfig`: which layers get a scale and a shift, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import MethodConfig, PeftName, told


@dataclass
class AffineConfig(MethodConfig):
    """A scale and a shift on what every linear layer gives, and a scale on every norm (LLaMA-Adapter V2, section 3.1).

    Raises:
        ValueError: save_dtype is neither float32 nor bfloat16, or nothing is left to train.
    """

    peft_name = PeftName.AFFINE

    target_modules: list[str] | str | None = field(
        default=None,
        metadata=told("Only these linear layers and norms, as PEFT understands names. Default: all but the head."),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=told("Names to leave out, as in PEFT."))
    use_scale: bool = field(default=True, metadata=told("Linear layers: y -> s * (y + b) with a scale s from 1."))
    use_shift: bool = field(default=True, metadata=told("Linear layers: the shift b, from 0."))
    use_norms: bool = field(default=True, metadata=told("Norms: a scale on their gain, from 1."))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.use_scale or self.use_shift or self.use_norms):
            raise ValueError("use_scale, use_shift and use_norms are all off: nothing is left to train.")
