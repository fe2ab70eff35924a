"""`VPTConfig`: visual prompts, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from peft import PeftConfig


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    VPT = "VPT"


PEFT_TYPE = _PeftType.VPT


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class VPTConfig(PeftConfig):
    """Learned tokens beside the patches of a vision transformer (arXiv 2203.12119).

    Raises:
        ValueError: prompt_length is less than 1, or save_dtype neither float32 nor bfloat16.
    """

    prompt_length: int = field(default=10, metadata=_help("K, the number of prompts."))
    deep: bool = field(
        default=True,
        metadata=_help("Fresh prompts in every layer (VPT-deep), or prompts in the first that pass through all."),
    )
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
        if self.prompt_length < 1:
            raise ValueError(f"prompt_length (K) must be at least 1, not {self.prompt_length}.")
        if self.save_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"save_dtype={self.save_dtype!r} must be one of 'float32', 'bfloat16'.")
