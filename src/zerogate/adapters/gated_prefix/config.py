"""`GatedPrefixConfig`: zero-init attention whose prompts are keys and values themselves."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import PeftName
from ..zero_init import ZeroInitConfig


@dataclass
class GatedPrefixConfig(ZeroInitConfig):
    """The deep prefixes of P-tuning v2 behind zero-init gates (arXiv 2303.16199, section 4.4; 2110.07602).

    All settings are `ZeroInitConfig`'s. With `attention="vanilla"` the prefixes join the text's own softmax without a
    gate, which is P-tuning v2 itself. An image's token passes through the frozen projections, and what they make of it
    is added to the keys and values.
    """

    peft_name = PeftName.GATED_PREFIX
