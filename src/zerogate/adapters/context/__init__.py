"""Learned context words for CLIP as a PEFT method: importing this registers it under the name CONTEXT."""

from ..config import register
from .config import ContextConfig
from .layer import ContextLayer
from .model import ContextModel

register(ContextConfig, ContextModel)

__all__ = ["ContextConfig", "ContextLayer", "ContextModel"]
