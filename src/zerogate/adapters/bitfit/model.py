"""`BitFitModel`: the PEFT tuner that trains a frozen model's biases."""

from __future__ import annotations

import inspect
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers.pytorch_utils import Conv1D

from ..hooked import HookedModel, names_of
from .config import BitFitConfig
from .layer import BitFitLayer, data_format

# Layers whose bias is added last of all, so that a shift of what comes out is a shift of the bias.
_ADDED_LAST = (nn.Linear, Conv1D, nn.LayerNorm, _ConvNd)

# In the forward of a norm or convolution: the channels may lie elsewhere than in torch's own.
_TURNS = {"permute", "transpose", "movedim", "swapaxes"}


class BitFitModel(HookedModel):
    """A model whose biases are trained (arXiv 2106.10199)."""

    layer_class = BitFitLayer
    child = "bitfit"
    prefix = "bitfit."

    def choose(self, config: BitFitConfig, model: nn.Module) -> dict[str, int]:
        """The layers whose biases are trained, with the biases' widths.

        Raises:
            ValueError: There are none, as in LLaMA; or none that target_modules names; or it is not known to which
                numbers one is added.
        """
        there = biased_layers(model)
        if not there:
            raise ValueError(
                f"{type(model).__name__} has no biases, and BitFit trains nothing else. Take ln_tuning (its norms), "
                "ia3 or lora instead."
            )
        matcher = names_of(config, ".*" if config.target_modules is None else config.target_modules)
        chosen = {name: width for name, width in there.items() if check_target_module_exists(matcher, name)}
        if not chosen:
            raise ValueError(
                f"target_modules={config.target_modules!r} matches no layer of {type(model).__name__} that has a bias. "
                f"There are {len(there)}, such as {', '.join(list(there)[:8])}."
            )
        for name in chosen:
            _check_axes(name, model.get_submodule(name))
        return chosen

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        layer.update_layer(adapter_name, chosen)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        if merge:
            self.activate(kwargs.get("adapter_names"))
            for module in self.model.modules():
                layer = module._modules.get(self.child)
                if isinstance(layer, BitFitLayer):
                    bias: Any = module.bias
                    total = layer.total(bias.dtype)
                    if total is not None:
                        bias.data += total.detach()
        return super()._unload_and_optionally_merge(merge=False, **kwargs)


def _check_axes(name: str, module: nn.Module) -> None:
    """Raises ValueError for a norm or convolution that turns its numbers around and does not say which way."""
    if not isinstance(module, (nn.LayerNorm, _ConvNd)):
        return
    said = data_format(module) if isinstance(module, nn.LayerNorm) else None
    if said in ("channels_first", "channels_last"):
        return
    turns = _TURNS & set(inspect.unwrap(type(module).forward).__code__.co_names)
    if said is not None or turns:
        why = f"has data_format={said!r}" if said is not None else f"turns its axes around ({', '.join(sorted(turns))})"
        raise ValueError(
            f"{name} ({type(module).__name__}) {why}, so BitFit cannot tell to which numbers its bias is added. Leave "
            f"such layers out: exclude_modules=[{name.rpartition('.')[2]!r}]."
        )


def biased_layers(model: nn.Module) -> dict[str, int]:
    """Full names of the base's layers with a bias that is added last, and its width."""
    inside = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, (BaseTunerLayer, nn.MultiheadAttention)))
    found = {}
    for name, module in model.named_modules():
        bias = module._parameters.get("bias")
        if name and isinstance(module, _ADDED_LAST) and isinstance(bias, Tensor) and not name.startswith(inside):
            found[name] = bias.numel()
    return found
