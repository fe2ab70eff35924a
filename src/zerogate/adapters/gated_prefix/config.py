"""`GatedPrefixConfig`: zero-init attention whose prompts are keys and values themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..zero_init import ZeroInitConfig


class _PeftType(StrEnum):
    """A string, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    GATED_PREFIX = "GATED_PREFIX"


PEFT_TYPE = _PeftType.GATED_PREFIX


@dataclass
class GatedPrefixConfig(ZeroInitConfig):
    """The deep prefixes of P-tuning v2 behind zero-init gates (arXiv 2303.16199, section 4.4; 2110.07602).

    All settings are `ZeroInitConfig`'s. With `attention="vanilla"` the prefixes join the text's own softmax without a
    gate, which is P-tuning v2 itself. An image's token passes through the frozen projections, and what they make of it
    is added to the keys and values.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: Any = PEFT_TYPE
