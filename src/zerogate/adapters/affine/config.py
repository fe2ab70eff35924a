"""`AffineConfig`: which layers get a scale and a shift, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    AFFINE = "AFFINE"


PEFT_TYPE = _PeftType.AFFINE


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class AffineConfig(PeftConfig):
    """A scale and a shift on what every linear layer gives, and a scale on every norm (LLaMA-Adapter V2, section 3.1).

    Raises:
        ValueError: save_dtype is neither float32 nor bfloat16, or nothing is left to train.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata=_help("Only these linear layers and norms, as PEFT understands names. Default: all but the head."),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=_help("Names to leave out, as in PEFT."))
    use_scale: bool = field(default=True, metadata=_help("Linear layers: y -> s * (y + b) with a scale s from 1."))
    use_shift: bool = field(default=True, metadata=_help("Linear layers: the shift b, from 0."))
    use_norms: bool = field(default=True, metadata=_help("Norms: a scale on their gain, from 1."))
    modules_to_save: list[str] | None = field(
        default=None, metadata=_help("Further modules to train whole and save with the adapter.")
    )
    save_dtype: str = field(
        default="float32", metadata=_help("float32 | bfloat16: how save_pretrained stores the adapter.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
        if self.save_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"save_dtype={self.save_dtype!r} must be one of 'float32', 'bfloat16'.")
        if not (self.use_scale or self.use_shift or self.use_norms):
            raise ValueError("use_scale, use_shift and use_norms are all off: nothing is left to train.")
