"""`BitFitLayer`: how far the bias of one layer has moved, for every adapter attached to it.

A layer with a bias gives `g(x) + b`. Training `b` alone is training what is added to it: `g(x) + b + shift`, with the
shift from zero. So a trained bias is an adapter like others: saved beside the base, switched, one per row of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..hooked import HookedLayer


class BitFitLayer(HookedLayer):
    """A shift [n] of a bias [n] per adapter, in fp32."""

    adapter_layer_names = ("shift",)
    other_param_names = ()
    cannot_merge = (
        "BitFit's shifts are merged for good or not at all: merge_and_unload() adds them to the base's biases and "
        "gives the plain model back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.shift = nn.ParameterDict()
        bias: Any = module.bias
        self.shape = tuple(bias.shape)
        self.spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else 0  # dimensions after the channels
        self.channels_first = isinstance(module, nn.LayerNorm) and data_format(module) == "channels_first"
        self.handles.append(module.register_forward_hook(self.after))

    def update_layer(self, adapter_name: str, width: int) -> None:
        """Adds an adapter: shifts from 0."""
        self.shift[adapter_name] = nn.Parameter(torch.zeros(width, dtype=torch.float32, device=self.device))

    def total(self, dtype: torch.dtype) -> Tensor | None:
        """The sum of the active adapters' shifts, in the bias's shape; None where there are none."""
        shifts = [self.shift[name] for name in self.active_adapters if name in self.shift]
        return sum(shifts[1:], shifts[0]).to(dtype).view(self.shape) if shifts else None

    def after(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor | None:
        """After the layer: adds the shift."""
        self.reached = True
        if self.disable_adapters:
            return None
        if self.rows is not None:
            extra = self.by_row(self.rows, y, list(self.shift), lambda n, some: self._like(self.shift[n], some))
            return None if extra is None else y + extra
        total = self.total(y.dtype)
        return None if total is None else y + self._like(total, y)

    def _like(self, shift: Tensor, y: Tensor) -> Tensor:
        behind = y.dim() - 2 if self.channels_first else self.spatial
        return shift.to(y.dtype).view(*self.shape, *[1] * behind).expand_as(y)


def data_format(norm: nn.LayerNorm) -> str | None:
    """Where a norm says that its channels are (ConvNeXt's do), such as `channels_first`; None: it does not say."""
    said = vars(norm).get("data_format")
    return said if isinstance(said, str) else None
