"""Adapters as PEFT tuners. Needs torch, transformers and peft, and nothing else."""

from .layouts import Layout, register_layout
from .zero_init import ZeroInitConfig, gates

__all__ = ["Layout", "ZeroInitConfig", "gates", "register_layout"]
