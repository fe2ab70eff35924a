"""`VPTConfig`: visual prompts, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..config import MethodConfig, PeftName, told


@dataclass
class VPTConfig(MethodConfig):
    """Learned tokens beside the patches of a vision transformer (arXiv 2203.12119).

    Raises:
        ValueError: prompt_length is less than 1, or save_dtype neither float32 nor bfloat16.
    """

    peft_name = PeftName.VPT
    # PEFT asks every tuner's config for these; where this method goes is no choice.
    target_modules: ClassVar[None] = None
    exclude_modules: ClassVar[None] = None

    prompt_length: int = field(default=10, metadata=told("K, the number of prompts."))
    deep: bool = field(
        default=True,
        metadata=told("Fresh prompts in every layer (VPT-deep), or prompts in the first that pass through all."),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_length < 1:
            raise ValueError(f"prompt_length (K) must be at least 1, not {self.prompt_length}.")
