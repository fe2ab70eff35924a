"""`SideConfig`: the small network beside the base, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..config import MethodConfig, PeftName, told


@dataclass
class SideConfig(MethodConfig):
    """A small network that sees the picture too; features are mixed, `a * base + (1 - a) * side` (arXiv 1912.13503).

    Raises:
        ValueError: channels is less than 1, or save_dtype is neither float32 nor bfloat16.
    """

    peft_name = PeftName.SIDE
    # PEFT asks every tuner's config for these; where this method goes is no choice.
    target_modules: ClassVar[None] = None
    exclude_modules: ClassVar[None] = None

    channels: int = field(default=32, metadata=told("Of the first of three convolutions; the next have 2x, 4x."))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, not {self.channels}.")
