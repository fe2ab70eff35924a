"""`SideLayer`: the side network and the mix, for every adapter of one backbone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..hooked import HookedLayer
from .config import SideConfig


class SideLayer(HookedLayer):
    """Three convolutions, a projection, and a number whose sigmoid is the base's share (1/2 at first), in fp32.

    Each convolution halves the picture and is normed over that picture alone, so that a batch's pictures do not depend
    on each other; the last one's average is projected to the base's width.
    """

    adapter_layer_names = ("conv1", "conv2", "conv3", "project", "mix")
    other_param_names = ()
    cannot_merge = (
        "Side-tuning cannot be merged: its network sees the picture itself. Keep the adapter beside the base; "
        "`unload()` gives the plain base back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        # A backbone has no tensors of its own; its parts know where it is.
        super().__init__(name, next(m for m in module.modules() if next(m.parameters(recurse=False), None) is not None))
        self.conv1, self.conv2, self.conv3, self.project = (nn.ModuleDict() for _ in range(4))
        self.mix = nn.ParameterDict()
        self.handles.append(module.register_forward_hook(self.after, with_kwargs=True))

    def update_layer(self, adapter_name: str, config: SideConfig, colours: int, width: int) -> None:
        """Adds an adapter: `colours` channels of the picture in, `width` features out."""
        c = config.channels
        where: dict[str, Any] = {"device": self.device, "dtype": torch.float32}
        self.conv1[adapter_name] = nn.Conv2d(colours, c, 3, stride=2, padding=1, **where)
        self.conv2[adapter_name] = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, **where)
        self.conv3[adapter_name] = nn.Conv2d(2 * c, 4 * c, 3, stride=2, padding=1, **where)
        self.project[adapter_name] = nn.Linear(4 * c, width, **where)
        self.mix[adapter_name] = nn.Parameter(torch.zeros((), **where))

    def features(self, adapter_name: str, pixels_BCHW: Tensor) -> Tensor:
        """What the side network makes of pictures, [B, width]."""
        x = pixels_BCHW.float()
        for conv in (self.conv1, self.conv2, self.conv3):
            x = conv[adapter_name](x)
            x = F.gelu(F.group_norm(x, 1))
        return self.project[adapter_name](x.mean((2, 3)))  # type: ignore[no-any-return]

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the backbone: mixes the active adapters' features into its own."""
        self.reached = True
        if self.disable_adapters:
            return None
        pixels_BCHW: Tensor = args[0] if args else kwargs["pixel_values"]
        for name in self.active_adapters:
            if name in self.mix:
                base_share = self.mix[name].sigmoid()
                side_BC = (1 - base_share) * self.features(name, pixels_BCHW)
                output = _mixed(output, base_share, side_BC)
        return output


def _mixed(output: Any, base_share: Tensor, side_BC: Tensor) -> Any:
    """The backbone's output with every feature mixed: of all tokens [B, T, C], and of the pooled one [B, C]."""
    changed = {}
    for key in ("last_hidden_state", "pooler_output"):
        features = output.get(key)
        if features is not None:
            side = side_BC[:, None] if features.dim() == 3 else side_BC
            changed[key] = (base_share * features.float() + side).to(features.dtype)
    return type(output)(**{**output, **changed})
