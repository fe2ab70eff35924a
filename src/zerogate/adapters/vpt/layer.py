"""`VPTLayer`: the prompts that one encoder layer puts beside its tokens, and how many it takes off again.

An encoder without a mask does not care where in the sequence a token stands (places were added before), so prompts are
put at the end, where they are easily taken off. Deep: each layer puts its own on and takes them off. Shallow: the
first layer puts them on, and the last takes them off.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..hooked import HookedLayer


class VPTLayer(HookedLayer):
    """Prompts [K, C] per adapter, in fp32."""

    adapter_layer_names = ("prompt",)
    other_param_names = ("taken_off",)
    cannot_merge = (
        "Visual prompts cannot be merged: they are tokens, and no weight of the base stands for them. Keep the adapter "
        "beside the base; `unload()` gives the plain base back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        # An encoder layer has no tensors of its own; its parts know where it is.
        super().__init__(name, next(m for m in module.modules() if next(m.parameters(recurse=False), None) is not None))
        self.prompt = nn.ParameterDict()
        self.taken_off: dict[str, int] = {}
        self.handles.append(module.register_forward_pre_hook(self.before, with_kwargs=True))
        self.handles.append(module.register_forward_hook(self.after))

    def update_layer(self, adapter_name: str, length: int, width: int, patch: int, puts_on: bool, takes: bool) -> None:
        """Adds an adapter.

        Args:
            adapter_name: Its name.
            length: K.
            width: C.
            patch: Numbers in a patch of the picture, which the start's size goes by, as in the paper's code.
            puts_on: Whether this layer has prompts of its own.
            takes: Whether it takes prompts off after itself.
        """
        if puts_on:
            bound = math.sqrt(6 / (patch + width))
            prompt_KC = torch.empty(length, width, dtype=torch.float32, device=self.device).uniform_(-bound, bound)
            self.prompt[adapter_name] = nn.Parameter(prompt_KC)
        if takes:
            self.taken_off[adapter_name] = length

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the layer: puts the active adapters' prompts at the end of the sequence."""
        self.reached = True
        prompts = [] if self.disable_adapters else [self.prompt[n] for n in self.active_adapters if n in self.prompt]
        if not prompts:
            return None
        if kwargs.get("attention_mask") is not None:
            raise ValueError(f"{self.name} has an attention mask, into which visual prompts do not fit.")
        x_BTC: Tensor = args[0] if args else kwargs["hidden_states"]
        added = [p.to(x_BTC.dtype).expand(x_BTC.shape[0], -1, -1) for p in prompts]
        x_BTC = torch.cat([x_BTC, *added], dim=1)
        return ((x_BTC, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x_BTC})

    def after(self, module: nn.Module, args: tuple[Any, ...], y: Any) -> Any:
        """After the layer: takes prompts off."""
        count = 0 if self.disable_adapters else sum(self.taken_off.get(name, 0) for name in self.active_adapters)
        if not count:
            return None
        return (y[0][:, :-count], *y[1:]) if isinstance(y, tuple) else y[:, :-count]
