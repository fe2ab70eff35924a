"""Side-tuning as a PEFT method: importing this registers it under the name SIDE."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, SideConfig
from .layer import SideLayer
from .model import SideModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SideConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = SideModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = SideModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "SideConfig", "SideLayer", "SideModel"]
