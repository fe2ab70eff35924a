"""`ZeroInitLayer`: the adaption prompts and gates of one attention module, for every adapter attached to it.

It sits on the attention module as a child named `zero_init` and is called by the seam (`adapters/attention.py`) or by
a thin seam (`adapters/thin_seams.py`). It owns the parameters and their life; what they add to the module's attention
is in `contribution.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .. import fused, fused_choice
from ..attention import AttentionFunction, add, join_prompts
from ..bank import RowAdapters
from ..layouts import Layout
from ..prompt_cache import PromptCache
from .config import ZeroInitConfig
from .contribution import Contribution
from .image import ImageProjector, Images


class ZeroInitLayer(Contribution, BaseTunerLayer):
    """Prompts [K, C] and gates [H] (or [1]) per adapter, in fp32; K may differ between adapters.

    The lowest layer of an adapter that takes images also holds its projector.
    """

    adapter_layer_names = ("prompt", "gate", "projector")
    other_param_names = ("configs",)

    def __init__(self, layout: Layout, module: nn.Module) -> None:
        super().__init__()
        self.layout = layout
        self.num_heads, _, _, self.width = layout.shape(module)
        self.device = torch.device("cpu")  # of the projections, where new parameters and those read from files belong
        self.prompt = nn.ParameterDict()
        self.gate = nn.ParameterDict()
        self.projector = nn.ModuleDict()
        self.configs: dict[str, ZeroInitConfig] = {}
        self.images: dict[str, Images] = {}  # by adapter; set around one forward pass or generation (model.py)
        self.rows: RowAdapters | None = None  # set around one forward pass or generation (model.py)
        self.goes_on = False  # whether this pass brings one more token of sequences whose others are in a cache
        self.held: dict[Any, Any] | None = None  # set around one generation (model.py), in which nothing changes
        self.reached = False  # whether the seam has ever come by: checked after the first forward pass (model.py)
        self.cache = PromptCache()
        self.merged_adapters: list[str] = []

    def update_layer(
        self, adapter_name: str, config: ZeroInitConfig, device: torch.device, prompts: bool = True
    ) -> None:
        """Adds an adapter with fresh parameters: prompts N(0, std), gates 0. Early fusion has gates alone."""
        self.device = device
        if prompts:
            prompt_KC = torch.empty(config.prompt_length, self.width, dtype=torch.float32, device=device)
            self.prompt[adapter_name] = nn.Parameter(nn.init.normal_(prompt_KC, std=config.prompt_init_std))
        if config.attention == "zero_init":
            gates = self.num_heads if config.gate_per == "head" else 1
            self.gate[adapter_name] = nn.Parameter(torch.zeros(gates, dtype=torch.float32, device=device))
        self.configs[adapter_name] = config

    def add_projector(self, adapter_name: str, config: ZeroInitConfig) -> None:
        """Gives this layer the projector of an adapter that takes images."""
        assert isinstance(config.image_layers, list) and config.image_channels is not None  # check_images saw to it
        self.projector[adapter_name] = ImageProjector(
            len(config.image_layers),
            config.image_channels,
            config.image_hidden,
            self.width,
            self.device,
            config.image_tokens,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ZeroInitLayer:
        """`.to`, `.cuda`, `.half` and their like: prompts and gates move with the model, and stay fp32 unrounded."""
        self.cache.forget()  # the base's weights have moved or were rounded too

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        self.device = next((parameter.device for parameter in self.parameters()), self.device)
        return self

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT asks for this after `low_cpu_mem_usage=True`: what came from the file becomes fp32, whatever it was."""
        for values in (self.prompt, self.gate):
            if adapter_name in values and not values[adapter_name].is_meta:
                read = values[adapter_name]
                moved = read.detach().to(device or self.device, torch.float32)
                values[adapter_name] = nn.Parameter(moved, requires_grad=read.requires_grad)
        if adapter_name in self.projector:
            projector = self.projector[adapter_name]
            for parameter in projector.parameters():
                parameter.data = parameter.data.to(device or self.device, torch.float32)

    def attend(
        self,
        fn: AttentionFunction,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention function of an adapted module: `fn` on the text, plus the gated prompts (equation 7)."""
        if not self.reached:  # an assignment would have to be compiled
            self.reached = True
        if self.held and (one_token := self.held.get(query.shape)) and not torch.compiler.is_compiling():
            out_BTHD, weights = fn(module, query, key, value, attention_mask, *args, **kwargs)
            return one_token(out_BTHD, query), weights
        joined = None if self.disable_adapters or self.rows else self._vanilla()
        if joined is not None:
            prompts = self.keys_values(joined, module, query.dtype)
            return join_prompts(fn, module, query, key, value, attention_mask, *prompts, *args, **kwargs)
        out_BTHD, weights = fn(module, query, key, value, attention_mask, *args, **kwargs)
        if not torch.compiler.is_compiling():
            self.goes_on = query.shape[2] == 1 < key.shape[2]
        scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
        only = self._only_set(module, query) if query.device.type in fused_choice.DEVICES else None
        if only is not None and fused_choice.serves(out_BTHD, query, *only[:2], softcap):
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            return fused.add_prompt_attention(out_BTHD, query, *only, scaling, softcap), weights
        if (one_token := self._one_token(module, query, scaling, softcap)) is not None:
            return one_token(out_BTHD, query), weights
        extra_BTHD = self.contribution(module, query, scaling, softcap)
        return (out_BTHD if extra_BTHD is None else add(out_BTHD, extra_BTHD)), weights

    def _vanilla(self) -> str | None:
        """The active adapter whose prompts join the text's own softmax, if there is one."""
        names = [name for name in self.active_adapters if name in self.prompt and name not in self.gate]
        return names[0] if names else None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Never possible: see `ZeroInitModel.merge_and_unload`."""
        raise ValueError(CANNOT_MERGE)

    def unmerge(self) -> None:
        """Never needed, since nothing is ever merged."""
        raise ValueError(CANNOT_MERGE)

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter and what was remembered of it."""
        super().delete_adapter(adapter_name)
        self.cache.forget(adapter_name)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No: gated attention over prompts is not a change of any weight matrix."""
        return False

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        sizes = ", ".join(f"{name}: K={prompt.shape[0]}" for name, prompt in self.prompt.items())
        return f"heads={self.num_heads}, width={self.width}, {sizes}"


CANNOT_MERGE = (
    "A zero-init adapter cannot be merged into its base: its gated softmax over the prompts depends on every query, "
    "and no weight matrix can stand for it. Keep it beside the base: `save_pretrained` stores about 5 MB at 7B, prompt "
    "keys and values are computed once, and `adapter_names` serves many adapters in one batch. `unload()` gives the "
    "plain base back."
)
