"""`AffineLayer`: the scale and shift of one layer of the base, for every adapter attached to it.

A linear layer's output y becomes s * (y + b), with s from 1 and b from 0; a norm's becomes s * y, which is training its
gain (LLaMA-Adapter V2, arXiv 2304.15010, equation 2). Parameters are stored as s - 1 and b, so that an adapter of zeros
changes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..hooked import HookedLayer


class AffineLayer(HookedLayer):
    """A scale [n] and a shift [n] per adapter, either or both, in fp32."""

    adapter_layer_names = ("scale", "shift")
    other_param_names = ()
    cannot_merge = (
        "A scale and a shift are merged for good or not at all: merge_and_unload() puts them into the base's weights "
        "and gives the plain model back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.scale = nn.ParameterDict()
        self.shift = nn.ParameterDict()
        self.handles.append(module.register_forward_hook(self.after))

    def update_layer(self, adapter_name: str, width: int, scale: bool, shift: bool) -> None:
        """Adds an adapter that changes nothing yet."""
        for wanted, values in ((scale, self.scale), (shift, self.shift)):
            if wanted:
                values[adapter_name] = nn.Parameter(torch.zeros(width, dtype=torch.float32, device=self.device))

    @property
    def here(self) -> list[str]:
        """The adapters with a part in this layer."""
        return list(dict.fromkeys([*self.scale, *self.shift]))

    def terms(self, adapter_name: str) -> tuple[Tensor | float, Tensor | float]:
        """s and b of an adapter, [n] each or the number that stands for nothing."""
        return 1 + self.scale.get(adapter_name, 0.0), self.shift.get(adapter_name, 0.0)

    def after(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor | None:
        """After the layer: scales and shifts, one active adapter after the other."""
        self.reached = True
        if self.disable_adapters:
            return None
        if self.rows is not None:
            change = self.by_row(self.rows, y, self.here, lambda name, some: self._applied(name, some) - some)
            return None if change is None else y + change
        active = [name for name in self.active_adapters if name in self.here]
        for name in active:
            y = self._applied(name, y)
        return y if active else None

    def _applied(self, adapter_name: str, y: Tensor) -> Tensor:
        scale, shift = self.terms(adapter_name)
        # In fp32: 1 + a small change is 1 in bf16.
        changed: Tensor = scale * (y.float() + shift)
        return changed.to(y.dtype)
