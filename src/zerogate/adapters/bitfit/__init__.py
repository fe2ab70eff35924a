"""BitFit as a PEFT method: importing this registers it under the name BITFIT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, BitFitConfig
from .layer import BitFitLayer
from .model import BitFitModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = BitFitConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = BitFitModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = BitFitModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "BitFitConfig", "BitFitLayer", "BitFitModel"]
