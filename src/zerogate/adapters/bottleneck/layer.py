"""`BottleneckLayer`: the bottlenecks on one Linear layer of the base, for every adapter attached to it.

                  series-input          series-output           parallel
                       x                      x                     x
                   +---|                      |               +-----|
                   f   |                   Linear             f  Linear
                   +-->+                  +---|               +---->+
                    Linear                f   |                     |
                       |                  +-->+                     y
                       y                      y

with f(x) = up(act(down(dropout(x)))) * scaling, all in fp32. Around a whole MLP, f is fed by the MLP's input and added
to the output of its last Linear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..hooked import HookedLayer

if TYPE_CHECKING:
    from .config import BottleneckConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "leakyrelu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


class BottleneckLayer(HookedLayer):
    """Down [size, in] and up [out, size] projections per adapter, in fp32, and a scale where it is learned."""

    adapter_layer_names = ("down", "up", "scale")
    other_param_names = ("configs", "positions", "sources")
    cannot_merge = (
        "A bottleneck adapter cannot be merged into its base: there is a non-linearity between its two matrices, and "
        "no weight matrix can stand for that. Keep it beside the base: `adapter_names` serves many adapters in one "
        "batch. `unload()` gives the plain base back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.down = nn.ModuleDict()
        self.up = nn.ModuleDict()
        self.scale = nn.ParameterDict()
        self.configs: dict[str, BottleneckConfig] = {}
        self.positions: dict[str, str] = {}
        self.sources: dict[str, str] = {}  # of adapters fed by another module's input: its name
        self.inputs: dict[str, Tensor] = {}  # what came into those modules, until it is used
        self.handles += [module.register_forward_pre_hook(self.before), module.register_forward_hook(self.after)]

    def update_layer(
        self,
        adapter_name: str,
        config: BottleneckConfig,
        position: str,
        widths: tuple[int, int],
        source: tuple[str, nn.Module] | None = None,
    ) -> None:
        """Adds an adapter with fresh parameters.

        Args:
            adapter_name: Its name.
            config: Its settings.
            position: Where it goes here.
            widths: Features of its input and of its output.
            source: For a parallel one around several layers: the name and the module whose input feeds it.
        """
        size = config.size(widths[0])
        make = partial(nn.Linear, bias=config.use_bias, device=self.device, dtype=torch.float32)
        down, up = make(widths[0], size), make(size, widths[1])
        if config.init_weights == "bert":
            nn.init.normal_(down.weight, std=0.02)
            nn.init.normal_(up.weight, std=0.02)
        else:
            nn.init.kaiming_uniform_(down.weight, a=5**0.5)
            nn.init.zeros_(up.weight)
        if config.use_bias:
            nn.init.zeros_(down.bias)
            nn.init.zeros_(up.bias)
        self.down[adapter_name], self.up[adapter_name] = down, up
        if config.scaling == "learned":
            self.scale[adapter_name] = nn.Parameter(torch.ones(1, dtype=torch.float32, device=self.device))
        self.configs[adapter_name] = config
        self.positions[adapter_name] = position
        if source is not None:
            if source[0] not in self.sources.values():
                keep = partial(self.keep, source[0])
                self.handles.append(source[1].register_forward_pre_hook(keep, prepend=True))
            self.sources[adapter_name] = source[0]

    # --- the formula -------------------------------------------------------------------------------------------------

    def bottleneck(self, adapter_name: str, x: Tensor) -> Tensor:
        """`up(act(down(dropout(x)))) * scaling` of one adapter: [..., in] to [..., out], in x's dtype."""
        config = self.configs[adapter_name]
        h = F.dropout(x.float(), config.dropout, self.training) if config.dropout else x.float()
        h = ACTIVATIONS[str(config.non_linearity)](self.down[adapter_name](h))
        scaling: Any = self.scale.get(adapter_name, config.scaling)
        return (self.up[adapter_name](h) * scaling).to(x.dtype)

    def added(self, position: str, x: Tensor, source: str | None = None) -> Tensor | None:
        """What the adapters in use add at a position, given what they are fed; None where there is none."""
        here = [n for n, at in self.positions.items() if at == position and self.sources.get(n) == source]
        if self.disable_adapters or not here:
            return None
        if self.rows is not None:
            return self.by_row(self.rows, x, here, self.bottleneck)  # type: ignore[no-any-return]
        parts = [self.bottleneck(name, x) for name in self.active_adapters if name in here]
        return sum(parts[1:], parts[0]) if parts else None

    # --- hooks -------------------------------------------------------------------------------------------------------

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Before the Linear: series-input."""
        extra = self.added("series-input", args[0])
        return None if extra is None else (args[0] + extra, *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor | None:
        """After the Linear: series-output and parallel."""
        self.reached = True
        inputs, self.inputs = self.inputs, {}  # first of all: recomputing for a checkpoint may end in the midst of this
        extras = [self.added("series-output", y), self.added("parallel", args[0])]
        extras += [self.added("parallel", x, source) for source, x in inputs.items()]
        for extra in extras:
            if extra is not None:
                y = y + extra
        return y

    def keep(self, source: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the layer that a bottleneck around several begins with: its input, for `after`."""
        if not self.disable_adapters:
            self.inputs[source] = args[0]

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return ", ".join(f"{name}: {at}" for name, at in self.positions.items())
