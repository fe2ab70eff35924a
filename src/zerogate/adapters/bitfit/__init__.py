"""BitFit as a PEFT method: importing this registers it under the name BITFIT."""

from ..config import register
from .config import BitFitConfig
from .layer import BitFitLayer
from .model import BitFitModel

register(BitFitConfig, BitFitModel)

__all__ = ["BitFitConfig", "BitFitLayer", "BitFitModel"]
