"""Learned context words for CLIP as a PEFT method: importing this registers it under the name CONTEXT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, ContextConfig
from .layer import ContextLayer
from .model import ContextModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = ContextConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = ContextModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = ContextModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "ContextConfig", "ContextLayer", "ContextModel"]
