"""zerogate: zero-init attention for any frozen transformer. Importing it registers its methods with PEFT.

from peft import get_peft_model
from zerogate import ZeroInitConfig

model = get_peft_model(base, ZeroInitConfig(num_layers=30))
"""

from typing import TYPE_CHECKING, Any

from ._registration import register_with_peft

if TYPE_CHECKING:
    from .adapters import (
        AffineConfig,
        BitFitConfig,
        BottleneckConfig,
        ContextConfig,
        GatedPrefixConfig,
        Layout,
        SideConfig,
        VPTConfig,
        ZeroInitConfig,
        gates,
        register_layout,
    )

__version__ = "0.1.0"
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


def __getattr__(name: str) -> Any:
    """The public names, imported with torch when the first of them is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import adapters

    return getattr(adapters, name)


register_with_peft()
