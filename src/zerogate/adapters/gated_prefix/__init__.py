"""Zero-init attention over P-tuning v2's prefixes as a PEFT method, registered under the name GATED_PREFIX."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, GatedPrefixConfig
from .layer import GatedPrefixLayer
from .model import GatedPrefixModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = GatedPrefixConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = GatedPrefixModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = GatedPrefixModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "GatedPrefixConfig", "GatedPrefixLayer", "GatedPrefixModel"]
