"""Zero-init attention as a PEFT method: importing this registers it under the name ZERO_INIT."""

from ..config import register
from .config import ZeroInitConfig
from .layer import ZeroInitLayer
from .model import ZeroInitModel, gates

register(ZeroInitConfig, ZeroInitModel)

__all__ = ["ZeroInitConfig", "ZeroInitLayer", "ZeroInitModel", "gates"]
