"""`ContextLayer`: what is learned at one place of a model of pictures and texts, and how it gets into the sequence.

Texts have words in the context's places, which the learned vectors replace; so places, masks and the position of the
last token stay as they are. Pictures have no such words: prompts go to the end, where the next layer replaces them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..hooked import HookedLayer

Role = Literal["words", "text", "picture"]


class ContextLayer(HookedLayer):
    """Context [M, C] per adapter at the word embeddings and in text layers; in picture layers a map from it; fp32.

    Attributes:
        source: of a picture's layer, the text encoder's context that its prompts are made of.
        condition: [N, F], the picture's features for each text of a batch, while CoCoOp reads.
    """

    adapter_layer_names = ("context", "coupling", "meta")
    other_param_names = ("start", "below", "taken_off")
    cannot_merge = (
        "Learned context cannot be merged: it stands in the place of words, and no weight of the base stands for it. "
        "Keep the adapter beside the base; `unload()` gives the plain base back."
    )

    def __init__(self, name: str, module: nn.Module) -> None:
        # An encoder layer has no tensors of its own; its parts know where it is.
        super().__init__(name, next(m for m in module.modules() if next(m.parameters(recurse=False), None) is not None))
        self.context = nn.ParameterDict()
        self.coupling = nn.ModuleDict()
        self.meta = nn.ModuleDict()
        self.start: dict[str, int] = {}
        self.below: dict[str, int] = {}  # prompts that the sequence brings along from the layer below
        self.taken_off: dict[str, int] = {}  # prompts that end with this layer, the last
        self.source: dict[str, list[ContextLayer]] = {}
        self.condition: Tensor | None = None
        if isinstance(module, nn.Embedding):
            self.handles.append(module.register_forward_hook(self.after_words))
        else:
            self.handles.append(module.register_forward_pre_hook(self.before, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self.after))

    def add_context(self, adapter_name: str, initial_MC: Tensor, start: int) -> None:
        """Context for words or a text layer, from its first values."""
        self.context[adapter_name] = nn.Parameter(initial_MC.to(self.device, torch.float32))
        self.start[adapter_name] = start

    def add_meta(self, adapter_name: str, features: int, width: int) -> None:
        """CoCoOp's small network: [F] -> [C] by way of F / 16."""
        hidden = max(features // 16, 1)
        network = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.meta[adapter_name] = network.to(self.device, torch.float32)

    def add_coupling(self, adapter_name: str, source: ContextLayer, width: int, below: int) -> None:
        """MaPLe's map from a text layer's context to prompts [M, width]; `below`: how many the sequence has already."""
        self.coupling[adapter_name] = nn.Linear(source.context[adapter_name].shape[1], width).to(self.device)
        self.source[adapter_name] = [source]  # a list, so that it is no child of this one
        self.below[adapter_name] = below

    def after_words(self, module: nn.Module, args: tuple[Any, ...], x_NTC: Tensor) -> Tensor:
        """After the word embeddings: the context takes its places."""
        self.reached = True
        return self._placed(x_NTC)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before an encoder layer: the context takes its places, or prompts are put on."""
        self.reached = True
        x_NTC: Tensor = args[0] if args else kwargs["hidden_states"]
        y_NTC = self._placed(x_NTC)
        for name in self._active(self.coupling):
            prompt_MC = self.coupling[name](self.source[name][0].context[name]).to(x_NTC.dtype)
            kept = y_NTC[:, : y_NTC.shape[1] - self.below[name]]
            y_NTC = torch.cat([kept, prompt_MC.expand(x_NTC.shape[0], -1, -1)], dim=1)
        if y_NTC is x_NTC:
            return None
        return ((y_NTC, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": y_NTC})

    def after(self, module: nn.Module, args: tuple[Any, ...], y: Any) -> Any:
        """After the last layer of the picture's encoder: prompts are taken off."""
        count = sum(self.taken_off[name] for name in self._active(self.taken_off))
        if not count:
            return None
        return (y[0][:, :-count], *y[1:]) if isinstance(y, tuple) else y[:, :-count]

    def _active(self, table: Any) -> list[str]:
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in table]

    def _placed(self, x_NTC: Tensor) -> Tensor:
        for name in self._active(self.context):
            context = self.context[name]
            start, end = self.start[name], self.start[name] + context.shape[0]
            if x_NTC.shape[1] < end:
                raise ValueError(f"The text of {x_NTC.shape[1]} tokens is shorter than the learned context: {end}.")
            if self.condition is not None and name in self.meta:
                context = context + self.meta[name](self.condition.float())[:, None]
            placed = context.to(x_NTC.dtype).expand(x_NTC.shape[0], -1, -1)
            x_NTC = torch.cat([x_NTC[:, :start], placed, x_NTC[:, end:]], dim=1)
        return x_NTC
