"""Adapters as PEFT tuners. Needs torch, transformers and peft, and nothing else."""

from .affine import AffineConfig
from .bitfit import BitFitConfig
from .bottleneck import BottleneckConfig
from .context import ContextConfig
from .gated_prefix import GatedPrefixConfig
from .layouts import Layout, register_layout
from .side import SideConfig
from .vpt import VPTConfig
from .zero_init import ZeroInitConfig, gates

__all__ = [
    "AffineConfig",
    "BitFitConfig",
    "BottleneckConfig",
    "ContextConfig",
    "GatedPrefixConfig",
    "Layout",
    "SideConfig",
    "VPTConfig",
    "ZeroInitConfig",
    "gates",
    "register_layout",
]
