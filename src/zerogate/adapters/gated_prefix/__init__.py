"""Zero-init attention over P-tuning v2's prefixes as a PEFT method, registered under the name GATED_PREFIX."""

from ..config import register
from .config import GatedPrefixConfig
from .layer import GatedPrefixLayer
from .model import GatedPrefixModel

register(GatedPrefixConfig, GatedPrefixModel)

__all__ = ["GatedPrefixConfig", "GatedPrefixLayer", "GatedPrefixModel"]
