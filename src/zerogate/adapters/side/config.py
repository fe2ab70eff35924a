"""`SideConfig`: the small network beside the base, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from peft import PeftConfig


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    SIDE = "SIDE"


PEFT_TYPE = _PeftType.SIDE


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class SideConfig(PeftConfig):
    """A small network that sees the picture too; features are mixed, `a * base + (1 - a) * side` (arXiv 1912.13503).

    Raises:
        ValueError: channels is less than 1, or save_dtype is neither float32 nor bfloat16.
    """

    channels: int = field(default=32, metadata=_help("Of the first of three convolutions; the next have 2x, 4x."))
    # PEFT asks every tuner's config for these; where this method goes is no choice.
    target_modules: ClassVar[None] = None
    exclude_modules: ClassVar[None] = None
    modules_to_save: list[str] | None = field(
        default=None, metadata=_help("Further modules to train whole and save with the adapter, such as a head.")
    )
    save_dtype: str = field(
        default="float32", metadata=_help("float32 | bfloat16: how save_pretrained stores the adapter.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, not {self.channels}.")
        if self.save_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"save_dtype={self.save_dtype!r} must be one of 'float32', 'bfloat16'.")
