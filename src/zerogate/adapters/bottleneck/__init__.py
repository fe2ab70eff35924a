"""Bottleneck adapters as a PEFT method: importing this registers it under the name BOTTLENECK."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, BottleneckConfig
from .layer import BottleneckLayer
from .model import BottleneckModel
from .placements import PRESETS

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BottleneckConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BottleneckModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BottleneckModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "PRESETS", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]
