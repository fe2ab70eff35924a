"""Read the gates of an adapter: how far each layer has opened. Logged with the loss, drawn by `plots.py`."""

from peft import PeftModel
from torch import nn


def gate_magnitudes(model: nn.Module) -> dict[int, float]:
    """Mean absolute effective gate over the heads of each adapted layer, by absolute layer index.

    Returns:
        An empty dict for a model without gates (another method, or vanilla attention).
    """
    if not isinstance(model, PeftModel):
        return {}
    config = model.active_peft_config
    if str(config.peft_type) not in ("ZERO_INIT", "GATED_PREFIX") or config.attention == "vanilla":
        return {}
    from zerogate.adapters.zero_init import gates

    return {layer: gate_H.abs().mean().item() for layer, gate_H in gates(model).items()}


def gate_metrics(model: nn.Module) -> dict[str, float]:
    """The same as metrics: `gate/layer_03`."""
    return {f"gate/layer_{layer:02d}": value for layer, value in gate_magnitudes(model).items()}
