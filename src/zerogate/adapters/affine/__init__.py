"""LLaMA-Adapter V2's affine tuning as a PEFT method: importing this registers it under the name AFFINE."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from .config import PEFT_TYPE, AffineConfig
from .layer import AffineLayer
from .model import AffineModel

PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = AffineConfig  # type: ignore[index]
PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = AffineModel  # type: ignore[index]
PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = AffineModel.prefix  # type: ignore[index]

__all__ = ["PEFT_TYPE", "AffineConfig", "AffineLayer", "AffineModel"]
