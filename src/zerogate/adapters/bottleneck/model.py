"""`BottleneckModel`: the PEFT tuner that puts bottlenecks on a frozen model's Linear layers, and takes them off again.

PEFT drives it, through `adapters/hooked.py`. What is ours: which Linear layers a config means, and where on each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers, check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..hooked import HookedModel, names_of
from .config import BottleneckConfig
from .layer import BottleneckLayer
from .placements import lookup, resolve


@dataclass(frozen=True)
class Place:
    """One Linear layer to adapt: the position there, the features in and out, and what feeds it if not its input."""

    position: str
    widths: tuple[int, int]
    source: tuple[str, nn.Module] | None


class BottleneckModel(HookedModel):
    """A model with bottleneck adapters on its Linear layers (arXiv 2304.01933)."""

    layer_class = BottleneckLayer
    child = "bottleneck"
    prefix = "bottleneck."

    def choose(self, config: BottleneckConfig, model: nn.Module) -> dict[str, Place]:
        """The Linear layers that `config` means.

        Raises:
            ValueError: Names that match no Linear layer (those that exist are listed), layers that do not exist, a
                position that is not said, or a layer whose output nobody asks it for.
        """
        resolve(config, self.get_model_config(model).get("model_type"))
        _maybe_include_all_linear_layers(config, model)
        linears = linear_layers(model)
        if isinstance(config.target_modules, (set, list)):
            config.target_modules = sorted(config.target_modules)
            for ending in config.target_modules:  # a wrong one among right ones would go unnoticed
                if not any(name == ending or name.endswith(f".{ending}") for name in linears):
                    raise ValueError(_matches_nothing(config, model, ending))
        matcher = names_of(config, config.target_modules or [])
        names = [name for name in linears if check_target_module_exists(matcher, name)]
        if not names:
            raise ValueError(_matches_nothing(config, model))
        names = _in_layers(names, config)
        return {name: _place(name, config, linears, model) for name in names}

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        layer.update_layer(adapter_name, config, chosen.position, chosen.widths, chosen.source)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The base's Linear layers by full name: Conv1D and quantised ones too, those of adapters not."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    return {
        name: module
        for name, module in model.named_modules()
        if name and not name.startswith(inside) and _widths(module) is not None
    }


def _widths(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    # Quantised layers of many makers have these two names in common, and nothing else.
    if isinstance(module, nn.Linear) or {"in_features", "out_features"} <= vars(module).keys():
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    return None


def _place(name: str, config: BottleneckConfig, linears: dict[str, nn.Module], model: nn.Module) -> Place:
    assert config.position is not None  # resolved
    position = config.position if isinstance(config.position, str) else lookup(config.position, name)
    if position is None:
        raise ValueError(f"position={config.position!r} says nothing of {name}, which target_modules matches.")
    holder = name.rpartition(".")[0]
    if isinstance(model.get_submodule(holder), nn.MultiheadAttention):
        raise ValueError(
            f"{name} is part of a torch.nn.MultiheadAttention, which reads its weights without calling it, so a "
            "bottleneck there would silently do nothing. Leave it out: exclude_modules=[...]."
        )
    widths = _widths(linears[name])
    assert widths is not None  # it is one of the Linear layers
    into, out = widths
    source = None
    if position == "parallel" and config.fed_by and (wanted := lookup(config.fed_by, name)):
        source = _nearest(name, wanted, linears)
        fed = _widths(source[1])
        assert fed is not None
        into = fed[0]
    widths = {"series-input": (into, into), "series-output": (out, out), "parallel": (into, out)}[position]
    return Place(position, widths, source)


def _nearest(name: str, wanted: str, linears: dict[str, nn.Module]) -> tuple[str, nn.Module]:
    """The Linear layer called `wanted` that is closest to `name` in the tree of modules."""
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        pattern = (re.escape(parent) + r"\." if parent else "") + wanted
        for candidate, module in linears.items():
            if re.fullmatch(pattern, candidate):
                return candidate, module
    raise ValueError(f"fed_by names {wanted!r} to feed {name}, and there is no such Linear layer beside it.")


def _in_layers(names: list[str], config: BottleneckConfig) -> list[str]:
    if config.layers_to_transform is None:
        return names
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    place = rf"(?:.*?\.)??(?:{'|'.join(patterns)})\.(\d+)\..*" if patterns else r"(?:.*?\.)??(\d+)\..*"
    index = {name: int(found[1]) for name in names if (found := re.fullmatch(place, name))}
    wanted = {int(i) for i in config.layers_to_transform}  # type: ignore[union-attr]
    if missing := sorted(wanted - set(index.values())):
        there = f"are in layers {min(index.values())} to {max(index.values())}" if index else "are in no such list"
        raise ValueError(f"layers_to_transform names layers {missing}, and the matching Linear layers {there}.")
    return [name for name in names if index.get(name) in wanted]


def _matches_nothing(config: BottleneckConfig, model: nn.Module, ending: str | None = None) -> str:
    what = f"target_modules={config.target_modules!r}" if ending is None else f"{ending!r} in target_modules"
    others = [] if ending is None else [m for n, m in model.named_modules() if n == ending or n.endswith(f".{ending}")]
    why = f" ({type(others[0]).__name__} is none)" if others else ""
    left_out = f" after exclude_modules={config.exclude_modules!r}" if config.exclude_modules else ""
    return f"{what} matches no Linear layer of {type(model).__name__}{left_out}{why}. There are: {list_linears(model)}."


def list_linears(model: nn.Module) -> str:
    """The names of the base's Linear layers for a message, those of all layers in one, as `model.layers.*.fc1`."""
    kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in linear_layers(model)))
    return (", ".join(kinds[:40]) or "none") + (f" and {len(kinds) - 40} more" if len(kinds) > 40 else "")
