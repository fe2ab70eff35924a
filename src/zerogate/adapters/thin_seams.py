"""Seams for the few families whose attention does not go through transformers' interface: GPT-J, BLOOM, Falcon, MPT.

GPT-J has one method, `_attn`, that is an attention function in all but name: it is wrapped on the instance. The
others compute attention in the middle of their forward, between a fused projection and an output projection: hooks
take the queries from the first and add the gated prompts to the input of the second. Either way the mathematics is
the adapter's own (`ZeroInitLayer.attend` or `.contribution`); nothing of it is repeated here. What is put on a module
are objects and their bound methods, not closures: a deep copy or a pickle of the model gets a seam of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .attention import CHILD, add

if TYPE_CHECKING:
    from .layouts import Layout

Remove = Callable[[], None]


def _gptj_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> Any:
    out_BHTD, weights = type(module)._attn(module, query, key, value, mask)
    return out_BHTD.transpose(1, 2), weights


_gptj_attention.__name__ = "eager_attention_forward"  # it takes an additive mask, as those do


class _AroundAttn:
    """Stands in for GPT-J's `_attn` on one module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        module.__dict__["_attn"] = self

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> Any:
        module: Any = self.module
        out_BTHD, weights = module._modules[CHILD].attend(
            _gptj_attention, module, query, key, value, attention_mask, scaling=1.0 / module.scale_attn
        )
        return out_BTHD.transpose(1, 2), weights

    def remove(self) -> None:
        del self.module.__dict__["_attn"]  # the class's own method shows again


def _gptj(module: nn.Module, layout: Layout) -> Remove:
    return _AroundAttn(module).remove


class _Between:
    """Hooks around an attention that stands between a fused projection and an output projection."""

    def __init__(self, module: nn.Module, layout: Layout, *, output: str, scaling: str, rotate: bool = False) -> None:
        self.module, self.layout, self.scaling = module, layout, scaling
        self.query: Tensor | None = None  # both are handed from hook to hook within one forward pass
        self.positions: tuple[Tensor, Tensor] | None = None
        self.handles = [
            attrgetter(layout.fused or "")(module).register_forward_hook(self.keep_query),
            attrgetter(output)(module).register_forward_pre_hook(self.add_prompts),
        ]
        if rotate:
            self.handles.append(module.register_forward_pre_hook(self.keep_positions, with_kwargs=True))

    def keep_positions(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.positions = kwargs["position_embeddings"] if kwargs["alibi"] is None else None

    def keep_query(self, _: nn.Module, args: tuple[Tensor, ...], qkv: Tensor) -> None:
        if qkv.dim() == 3:  # the prompts themselves, [K, C], pass through the same projection
            self.query = self.layout.split(self.module, qkv)[0].transpose(1, 2)

    def add_prompts(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        q_BHTD, positions = self.query, self.positions
        self.query = self.positions = None
        if positions is not None:
            apply_rotary_pos_emb = sys.modules[type(self.module).__module__].apply_rotary_pos_emb
            q_BHTD, _k = apply_rotary_pos_emb(q_BHTD, q_BHTD, *positions)
        layer: Any = self.module._modules[CHILD]
        extra_BTHD = layer.contribution(self.module, q_BHTD, attrgetter(self.scaling)(self.module))
        return args if extra_BTHD is None else (add(args[0], extra_BTHD.flatten(2)), *args[1:])

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _between(module: nn.Module, layout: Layout, **paths: Any) -> Remove:
    return _Between(module, layout, **paths).remove


THIN_SEAMS: dict[str, Callable[[nn.Module, Layout], Remove]] = {
    "gptj": _gptj,
    "bloom": partial(_between, output="dense", scaling="inv_norm_factor"),
    "falcon": partial(_between, output="dense", scaling="inv_norm_factor", rotate=True),
    "mpt": partial(_between, output="out_proj", scaling="softmax_scale"),
}

SAME_SOFTMAX = {"interface", "gptj"}
"""Seams that see keys and values, so that prompts can join the text's own softmax (`attention="vanilla"`)."""
