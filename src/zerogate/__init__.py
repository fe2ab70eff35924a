"""zerogate: zero-init attention for any frozen transformer. Importing it registers its methods with PEFT.

    from peft import get_peft_model
    from zerogate import ZeroInitConfig

    model = get_peft_model(base, ZeroInitConfig(num_layers=30))
"""

from .adapters import Layout, ZeroInitConfig, gates, register_layout

__version__ = "0.1.0"
__all__ = ["Layout", "ZeroInitConfig", "gates", "register_layout"]
