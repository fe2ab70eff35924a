"""Bottleneck adapters as a PEFT method: importing this registers it under the name BOTTLENECK."""

from ..config import register
from .config import BottleneckConfig
from .layer import BottleneckLayer
from .model import BottleneckModel
from .placements import PRESETS

register(BottleneckConfig, BottleneckModel)

__all__ = ["PRESETS", "BottleneckConfig", "BottleneckLayer", "BottleneckModel"]
