"""Visual prompt tuning as a PEFT method: importing this registers it under the name VPT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, VPTConfig
from .layer import VPTLayer
from .model import VPTModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = VPTConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = VPTModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = VPTModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "VPTConfig", "VPTLayer", "VPTModel"]
