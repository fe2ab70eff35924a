"""`AffineModel`: the PEFT tuner that puts scales and shifts on a frozen model, and can merge them into it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..hooked import HookedModel, names_of
from .config import AffineConfig
from .layer import AffineLayer


class AffineModel(HookedModel):
    """A model whose linear layers have a scale and a shift, and whose norms a scale (arXiv 2304.15010)."""

    layer_class = AffineLayer
    child = "affine"
    prefix = "affine."

    def choose(self, config: AffineConfig, model: nn.Module) -> dict[str, tuple[int, bool]]:
        """The layers to adapt, with their width and whether they are linear.

        Raises:
            ValueError: target_modules matches none of them.
        """
        there = adaptable(model)
        wanted = {
            name: found
            for name, found in there.items()
            if (config.use_scale or config.use_shift if found[1] else config.use_norms)
        }
        matcher = names_of(config, ".*" if config.target_modules is None else config.target_modules)
        chosen = {name: found for name, found in wanted.items() if check_target_module_exists(matcher, name)}
        if not chosen:
            raise ValueError(
                f"target_modules={config.target_modules!r} matches none of the {len(wanted)} layers of "
                f"{type(model).__name__} that could be scaled, such as {', '.join(list(wanted)[:8])}."
            )
        return chosen

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        width, linear = chosen
        layer.update_layer(adapter_name, width, config.use_scale if linear else True, config.use_shift and linear)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        if merge:
            held = [(m, m._modules[self.child]) for m in self.model.modules() if self.child in m._modules]
            for module, layer in held:
                assert isinstance(layer, AffineLayer)
                _check_mergeable(module, layer)
            self.activate(kwargs.get("adapter_names"))
            for module, layer in held:
                for name in layer.active_adapters:  # type: ignore[union-attr]
                    if name in layer.here:  # type: ignore[union-attr,operator]
                        _merge(module, *layer.terms(name))  # type: ignore[union-attr,operator]
        plain = super()._unload_and_optionally_merge(merge=False, **kwargs)
        if merge:
            _say_biases(plain)
        return plain


def adaptable(model: nn.Module) -> dict[str, tuple[int, bool]]:
    """Full names of the linear layers and norms, with the size of what they give and whether they are linear.

    The output head is left out, as in the paper; so are norms of convolutions, whose channels are not the last axis.
    """
    heads = [m.get_output_embeddings() for m in model.modules() if isinstance(m, PreTrainedModel)]
    inside = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, (BaseTunerLayer, nn.MultiheadAttention)))
    found: dict[str, tuple[int, bool]] = {}
    for name, module in model.named_modules():
        if not name or name.startswith(inside) or any(module is head for head in heads):
            continue
        weight = module._parameters.get("weight")
        if isinstance(module, (nn.Linear, Conv1D)):
            found[name] = (module.nf if isinstance(module, Conv1D) else module.out_features, True)
        elif isinstance(weight, Tensor) and weight.dim() == 1 and _is_norm_of_last_axis(module):
            found[name] = (weight.numel(), False)
    return found


def _is_norm_of_last_axis(module: nn.Module) -> bool:
    channels_first = (
        isinstance(module, (_NormBase, nn.GroupNorm)) or vars(module).get("data_format") == "channels_first"
    )
    return "norm" in type(module).__name__.lower() and not channels_first


def _check_mergeable(module: nn.Module, layer: AffineLayer) -> None:
    weight: Any = module.weight
    if not weight.is_floating_point():
        raise ValueError(f"{layer.name} is quantised: merge into a base that is loaded without quantisation.")
    # A norm of the Gemma family multiplies by 1 + its weight.
    if not isinstance(module, (nn.Linear, Conv1D)) and layer.here and not _gain_is_weight(module):
        raise ValueError(f"{layer.name} ({type(module).__name__}) does not multiply by its weight; keep the adapter.")


@torch.no_grad()
def _gain_is_weight(norm: nn.Module) -> bool:
    weight: Any = norm.weight
    bias = norm._parameters.get("bias")
    probe = torch.randn(2, weight.numel(), dtype=weight.dtype, device=weight.device)
    plain = norm.forward(probe)  # without our own hook
    kept = weight.data.clone()
    weight.data = kept * 2
    doubled = norm.forward(probe)
    weight.data = kept
    offset = 0 if bias is None else bias
    return torch.allclose(doubled - offset, 2 * (plain - offset), rtol=1e-2, atol=1e-3)


def _say_biases(model: nn.Module) -> None:
    """Has the config say that there are biases now, or warns that a saved copy would lose the shifts."""
    config = getattr(model, "config", None)
    if config is None or _kept(model):
        return
    text = config.get_text_config()
    flags = [name for name in ("attention_bias", "mlp_bias") if getattr(text, name, None) is False]
    for wanted in (flags, *([flag] for flag in flags)):
        for flag in wanted:
            setattr(text, flag, True)
        if wanted and _kept(model):
            return
        for flag in wanted:
            setattr(text, flag, False)
    warnings.warn(
        f"The shifts are merged into biases that {type(model).__name__} has no setting for: it computes what it "
        "should, but a copy that is saved and loaded loses them. Keep the adapter, or train with use_shift=False.",
        stacklevel=4,
    )


def _kept(model: Any) -> bool:
    """Whether a model made from the config has a place for every bias."""
    with torch.device("meta"):
        again = type(model)(copy.deepcopy(model.config))
    there = {name for name, _ in again.named_parameters()}
    return all(name in there for name, _ in model.named_parameters() if name.endswith(".bias"))


@torch.no_grad()
def _merge(module: Any, scale: Any, shift: Any) -> None:
    """y -> scale * (y + shift), in the weights."""
    weight, dtype = module.weight.data, module.weight.dtype
    by_output = scale if not isinstance(module, nn.Linear) or isinstance(scale, float) else scale[:, None]
    module.weight.data = (weight.float() * by_output).to(dtype)
    bias = module._parameters.get("bias")
    if bias is not None or isinstance(shift, Tensor):
        moved = scale * ((0.0 if bias is None else bias.data.float()) + shift)
        module.bias = nn.Parameter(moved.to(dtype), requires_grad=False)
