"""Side-tuning as a PEFT method: importing this registers it under the name SIDE."""

from ..config import register
from .config import SideConfig
from .layer import SideLayer
from .model import SideModel

register(SideConfig, SideModel)

__all__ = ["SideConfig", "SideLayer", "SideModel"]
