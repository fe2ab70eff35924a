"""`BitFitConfig`: which biases are trained, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from peft import PeftConfig


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    BITFIT = "BITFIT"


PEFT_TYPE = _PeftType.BITFIT


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class BitFitConfig(PeftConfig):
    """Trains the biases of the base and nothing else (arXiv 2106.10199).

    Raises:
        ValueError: save_dtype is neither float32 nor bfloat16.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata=_help("Only the biases of these modules, as PEFT understands names. Default: all biases."),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=_help("Names to leave out, as in PEFT."))
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
