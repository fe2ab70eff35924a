"""Where each model family keeps what the seam needs: its attention blocks and its key and value projections.

What differs between families is data. A `Layout` names, for one class of attention module, the paths to head counts
and projections; `LAYOUTS` is the table, by class name. A class that is not in the table is tried against `STANDARD`,
which fits every module with separate projections that goes through transformers' attention interface and has no part
unknown to us: most of the families in transformers. Anything else is an error that says how to register it:

    from zerogate.adapters import Layout, register_layout

    register_layout("MyAttention", Layout(key="wk", value="wv", heads="n_head", kv_heads="n_head", head_dim="d_head"))
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .attention import uses_interface


@dataclass(frozen=True)
class Layout:
    """How to get prompt keys and values out of one class of attention module. Strings are paths on the module.

    Attributes:
        key, value: The projections, where they are separate.
        fused: The one projection for queries, keys and values, where there is one; `order` says how it is laid out.
        order: "blocks": [all q | all k | all v]. "groups": [q .. q k v] for each key/value head (one q where each query
            head has its own, all of them where there is a single one).
        key_norm: A norm on the keys (QK-norm), applied to the prompt keys as the model does to its own.
        heads, kv_heads, head_dim, width: Query heads H, key/value heads G, head size D, hidden size C.
        clip: Bound on what the projections give (MPT, OLMo; after the key norm where there is one), or None.
        key_scale: What the keys are multiplied by (Falcon-H1), or None.
        seam: "interface", or the name of a thin seam in `thin_seams.py` for families that do not use the interface.
    """

    key: str = "k_proj"
    value: str = "v_proj"
    fused: str | None = None
    order: str | None = None
    key_norm: str | None = None
    heads: str = "config.num_attention_heads"
    kv_heads: str = "config.num_key_value_heads"
    head_dim: str = "head_dim"
    width: str = "config.hidden_size"
    clip: str | None = None
    key_scale: str | None = None
    seam: str = "interface"

    def shape(self, module: nn.Module) -> tuple[int, int, int, int]:
        """(query heads H, key/value heads G, head size D, hidden size C) of `module`."""
        H, G, D, C = (attrgetter(path)(module) for path in (self.heads, self.kv_heads, self.head_dim, self.width))
        return int(H), int(G or H), int(D), int(C)

    def projections(self, module: nn.Module) -> list[nn.Module]:
        """The frozen modules that prompt keys and values pass through."""
        names = [self.fused] if self.fused else [self.key, self.value]
        return [attrgetter(name)(module) for name in [*names, self.key_norm] if name]

    def keys_values(self, module: nn.Module, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
        """The frozen layer's own keys and values of the prompt: no layer norm before, no RoPE after.

        Returns:
            Keys and values, each [G, K, D].
        """
        _, G, D, _ = self.shape(module)
        K = prompt_KC.shape[0]
        if self.fused:
            _, k_KGD, v_KGD = self.split(module, attrgetter(self.fused)(module)(prompt_KC))
        else:
            k_KGD = attrgetter(self.key)(module)(prompt_KC)
            v_KGD = attrgetter(self.value)(module)(prompt_KC)
        if self.key_norm:
            norm = attrgetter(self.key_norm)(module)
            # Some families norm each head (with one weight for all, or one each), some all heads at once.
            per_head = norm.weight.numel() == D or norm.weight.dim() > 1
            k_KGD = norm(k_KGD.reshape(K, G, D) if per_head else k_KGD.reshape(K, G * D))
        if not self.fused:  # `split` has clipped the fused ones
            k_KGD, v_KGD = self._clipped(module, k_KGD), self._clipped(module, v_KGD)
        if self.key_scale:
            k_KGD = k_KGD * attrgetter(self.key_scale)(module)
        return k_KGD.reshape(K, G, D).transpose(0, 1), v_KGD.reshape(K, G, D).transpose(0, 1)

    def linear(self, module: nn.Module) -> bool:
        """Whether keys and values are linear in the prompt: no key norm, nothing clipped."""
        return self.key_norm is None and not (self.clip and attrgetter(self.clip)(module))

    def split(self, module: nn.Module, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Splits a fused projection's output [..., F] into q [..., H, D], k and v [..., G, D]."""
        H, G, D, _ = self.shape(module)
        lead = qkv.shape[:-1]
        qkv = self._clipped(module, qkv)
        if self.order == "blocks":
            q, k, v = qkv.split([H * D, G * D, G * D], dim=-1)
            return q.reshape(*lead, H, D), k.reshape(*lead, G, D), v.reshape(*lead, G, D)
        parts = qkv.reshape(*lead, G, H // G + 2, D)
        return parts[..., :-2, :].reshape(*lead, H, D), parts[..., -2, :], parts[..., -1, :]

    def _clipped(self, module: nn.Module, x: Tensor) -> Tensor:
        bound = attrgetter(self.clip)(module) if self.clip else None
        return x.clamp(-bound, bound) if bound else x

    def check(self, module: nn.Module, name: str) -> None:
        """Raises ValueError where the projections of `module` (its full name is `name`) have not the right sizes."""
        H, G, D, C = self.shape(module)
        expected = {self.fused: (H + 2 * G) * D} if self.fused else {self.key: G * D, self.value: G * D}
        for path, width in expected.items():
            projection = attrgetter(path)(module)
            if isinstance(projection, nn.Linear):
                found = (projection.in_features, projection.out_features)
            elif isinstance(projection, Conv1D):
                found = (projection.nx, projection.nf)
            else:
                continue  # a quantised or wrapped projection: its sizes are its own affair
            if found != (C, width) or H % G:
                raise ValueError(
                    f"{name}.{path} ({type(module).__name__}) maps {found[0]} to {found[1]} features, and its layout "
                    f"says {C} to {width}: {H} query heads, {G} key/value heads of size {D}. Register a layout that "
                    f'fits: `zerogate.adapters.register_layout("{type(module).__name__}", Layout(...))` '
                    "(docs/families.md)."
                )
        if self.key_norm:
            weight = getattr(attrgetter(self.key_norm)(module), "weight", None)
            if weight is None or weight.numel() not in (D, G * D):
                raise ValueError(
                    f"{name}.{self.key_norm} ({type(module).__name__}) is no norm with a weight over heads of size "
                    f"{D}, or over {G} of them. Register a layout without key_norm to leave prompt keys as they are."
                )


_ENCODER = Layout(kv_heads="config.num_attention_heads")
_OWN_HEADS = Layout(heads="num_heads", kv_heads="num_heads", width="embed_dim")
_BERT = Layout(
    key="key",
    value="value",
    kv_heads="num_attention_heads",
    heads="num_attention_heads",
    head_dim="attention_head_size",
)
STANDARD = Layout()

LAYOUTS: dict[str, Layout] = {
    "Phi3Attention": Layout(fused="qkv_proj", order="blocks"),
    "GPT2Attention": Layout(
        fused="c_attn", order="blocks", heads="num_heads", kv_heads="num_heads", width="embed_dim"
    ),
    "GPTNeoXAttention": Layout(
        fused="query_key_value", order="groups", kv_heads="config.num_attention_heads", head_dim="head_size"
    ),
    "BertSelfAttention": _BERT,
    "RobertaSelfAttention": _BERT,
    "XLMRobertaSelfAttention": _BERT,
    "ElectraSelfAttention": _BERT,
    "OPTAttention": _OWN_HEADS,
    "CLIPAttention": _OWN_HEADS,
    "SiglipAttention": _OWN_HEADS,
    "WhisperAttention": _OWN_HEADS,
    "ViTAttention": _ENCODER,
    "Dinov2Attention": _ENCODER,
    "OlmoAttention": Layout(clip="config.clip_qkv"),
    "OlmoeAttention": Layout(key_norm="k_norm", clip="config.clip_qkv"),
    "FalconH1Attention": Layout(key_scale="key_multiplier"),
    "GPTJAttention": Layout(
        heads="num_attention_heads", kv_heads="num_attention_heads", width="embed_dim", seam="gptj"
    ),
    "BloomAttention": Layout(
        fused="query_key_value", order="groups", heads="num_heads", kv_heads="num_heads", width="hidden_size",
        seam="bloom",
    ),
    "FalconAttention": Layout(
        fused="query_key_value", order="groups", heads="num_heads", kv_heads="num_kv_heads", width="hidden_size",
        seam="falcon",
    ),
    "MptAttention": Layout(
        fused="Wqkv", order="blocks", heads="n_heads", kv_heads="n_heads", width="hidden_size", clip="clip_qkv",
        seam="mpt",
    ),
}  # fmt: skip

# What a standard attention module may hold besides its projections without our missing something of its mathematics.
_KNOWN_PARTS = {
    "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "dense", "q_norm", "k_norm", "rotary_emb", "dropout",
    "attn_dropout", "resid_dropout", "zero_init",
}  # fmt: skip

# Names in the forward of an attention module that do something to its keys and values besides projecting and norming.
_FURTHER_STEPS = {"clip_qkv", "key_multiplier", "head_dim_padding", "v_scale", "v_head_dim", "sequence_reduction"}

_CROSS_ATTENTION = re.compile(
    r"(encoder_attn|cross_attn|cross_attention|crossattention|EncDecAttention|encoder_decoder_attn)$"
)


def register_layout(class_name: str, layout: Layout) -> None:
    """Teaches zerogate an attention class. `class_name` is `type(module).__name__` of the attention module."""
    LAYOUTS[class_name] = layout


def _standard(module: nn.Module) -> Layout | None:
    """The layout of a class outside the table, if it has the standard parts and no part that we do not know."""
    parts = {name for name, _ in module.named_children()}
    fits = {"q_proj", "k_proj", "v_proj"} <= parts <= _KNOWN_PARTS and {"config", "head_dim"} <= module.__dict__.keys()
    if not fits or not uses_interface(module):
        return None
    if _FURTHER_STEPS & set(inspect.unwrap(type(module).forward).__code__.co_names):
        return None
    # Encoder-decoders have two head counts in their config, so a count of the module's own comes first.
    heads = "num_heads" if "num_heads" in module.__dict__ else "config.num_attention_heads"
    config: Any = module.config
    return Layout(
        heads=heads,
        kv_heads="config.num_key_value_heads" if "num_key_value_heads" in config.to_dict() else heads,
        key_norm="k_norm" if "k_norm" in parts else None,
    )


def layout_of(module: nn.Module) -> Layout | None:
    """The layout of an attention module, or None where `module` is not one that we know."""
    return LAYOUTS.get(type(module).__name__) or _standard(module)


@dataclass(frozen=True)
class Block:
    """One self-attention module of a model: its full name, stack ("model.layers"), index there, and its layout."""

    name: str
    stack: str
    index: int
    layout: Layout


def find_blocks(model: nn.Module) -> list[Block]:
    """All self-attention modules of `model` that a layout fits, in the order of the model.

    Raises:
        ValueError: Modules of one class and stack of which only some fit: the others would silently be left out.
    """
    blocks = []
    left_out = {}
    for name, module in model.named_modules():
        place = re.match(r"(.*?)\.(\d+)\.", f"{name}.")
        if place is None or _CROSS_ATTENTION.search(name):
            continue
        layout = layout_of(module)
        if layout is not None:
            blocks.append(Block(name, place[1], int(place[2]), layout))
        else:
            left_out[name] = module
    kinds = {(block.stack, type(model.get_submodule(block.name))): block.name for block in blocks}
    for name, module in left_out.items():
        stack = name[: re.search(r"\.\d+(\.|$)", name).start()]  # type: ignore[union-attr]
        if (fits := kinds.get((stack, type(module)))) is not None:
            raise ValueError(
                f"Of {stack}'s {type(module).__name__} modules {fits} is one that zerogate knows and {name} is not: it "
                "has other parts. Register a layout for the class (docs/families.md) if one serves both."
            )
    return blocks


def unknown_family(model: nn.Module) -> str:
    """The message for a model in which `find_blocks` finds nothing: what was looked at, and how to register it."""
    seen = sorted({type(m).__name__ for _, m in model.named_modules() if "attention" in type(m).__name__.lower()})
    looked = (
        f"Its attention-like classes are {', '.join(seen)}." if seen else "It has no attention-like modules at all."
    )
    return (
        f"{type(model).__name__} has no attention module that zerogate knows: none is in the table of layouts, "
        "and none has q_proj, k_proj and v_proj, goes through transformers' attention interface and has no unknown "
        f"part. {looked} If one of them is the self-attention, say where its projections are: "
        '`from zerogate.adapters import Layout, register_layout; register_layout("ItsClass", Layout(key=..., '
        "value=..., heads=..., kv_heads=..., head_dim=..., width=...))` (docs/families.md)."
    )
