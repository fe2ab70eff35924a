"""Zero-init attention as a PEFT method: importing this registers it under the name ZERO_INIT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, ZeroInitConfig
from .layer import ZeroInitLayer
from .model import ZeroInitModel, gates

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = ZeroInitConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = ZeroInitModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = ZeroInitModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "ZeroInitConfig", "ZeroInitLayer", "ZeroInitModel", "gates"]
