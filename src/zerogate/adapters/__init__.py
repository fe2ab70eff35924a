"""Adapters as PEFT tuners. Needs torch, transformers and peft, and nothing else."""

from .bitfit import BitFitConfig
from .bottleneck import BottleneckConfig
from .layouts import Layout, register_layout
from .zero_init import ZeroInitConfig, gates

__all__ = ["BitFitConfig", "BottleneckConfig", "Layout", "ZeroInitConfig", "gates", "register_layout"]
