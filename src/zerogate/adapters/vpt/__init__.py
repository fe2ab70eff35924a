"""Visual prompt tuning as a PEFT method: importing this registers it under the name VPT."""

from ..config import register
from .config import VPTConfig
from .layer import VPTLayer
from .model import VPTModel

register(VPTConfig, VPTModel)

__all__ = ["VPTConfig", "VPTLayer", "VPTModel"]
