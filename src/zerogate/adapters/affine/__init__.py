"""LLaMA-Adapter V2's affine tuning as a PEFT method: importing this registers it under the name AFFINE."""

from ..config import register
from .config import AffineConfig
from .layer import AffineLayer
from .model import AffineModel

register(AffineConfig, AffineModel)

__all__ = ["AffineConfig", "AffineLayer", "AffineModel"]
