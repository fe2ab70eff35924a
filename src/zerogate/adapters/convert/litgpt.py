"""LitGPT's adapter file (`lit_model.pth.adapter`), read to and written from a `PromptAdapter`.

    {"model": {transformer.h.{i}.attn.adapter_wte.weight   [K, C]         i is absolute
               transformer.h.{i}.attn.gating_factor        [1, 1, H, 1]   ([1, H, 1, 1] in old files), without tanh}}

The file has LitGPT's own module names, so the base must be known to give them transformers' names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import cast, read_pickle, tensors_only, to_bytes, write_file
from .prompts import Base, PromptAdapter

FILE = "lit_model.pth.adapter"
_KEY = re.compile(r"transformer\.h\.(\d+)\.attn\.(adapter_wte\.weight|gating_factor)")

SINCE_0_5_5 = (
    "LitGPT 0.5.5 and later take prompt keys and values from the wrong rows of their fused projection (except in "
    "models with a single key/value head), so this adapter acts as equation 7 says here and in LitGPT up to 0.5.4, "
    "and differently there."
)


def is_litgpt(content: Any) -> bool:
    """Whether the content of a `.pth` is a LitGPT adapter."""
    state = content.get("model") if isinstance(content, dict) else None
    return isinstance(state, dict) and any(_KEY.fullmatch(str(key)) for key in state)


def read_litgpt(path: str | Path, base: Base) -> PromptAdapter:
    """Reads a LitGPT adapter file, with gates of either shape.

    Args:
        path: The file, or the folder that holds `lit_model.pth.adapter`.
        base: The transformers model that LitGPT's base was made from.

    Raises:
        ValueError: Not such a file, an adapter V2, or it does not fit `base`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    content = read_pickle(path)
    if not is_litgpt(content):
        raise ValueError(f"{path} is no LitGPT adapter: it has no model with transformer.h.N.attn.adapter_wte.weight.")
    state = tensors_only(content["model"], path)
    if strange := [key for key in state if not _KEY.fullmatch(key)]:
        raise ValueError(
            f"{path} also holds {strange[0]} and {len(strange) - 1} more that are neither prompts nor gates: trained "
            "norms, biases and scales of LitGPT's adapter V2, or a whole model. Only its first adapter method is "
            "supported."
        )
    layers = sorted({int(match[1]) for key in state if (match := _KEY.fullmatch(key))})
    pairs: list[tuple[Tensor, Tensor]] = []
    modules = {}
    for i in layers:
        names = [f"transformer.h.{i}.attn.{end}" for end in ("adapter_wte.weight", "gating_factor")]
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"{path} has no {missing[0]}: the file is incomplete.")
        if i not in base.modules:
            raise ValueError(f"{path} adapts layer {i}, and the base has {len(base.modules)} layers.")
        prompt_KC, gate = (state[name] for name in names)
        if prompt_KC.dim() != 2 or prompt_KC.shape != state[f"transformer.h.{layers[0]}.attn.adapter_wte.weight"].shape:
            raise ValueError(
                f"{path}: {names[0]} is {list(prompt_KC.shape)}, and must be [K, C] as in every other layer."
            )
        if tuple(gate.shape) not in ((1, 1, base.heads, 1), (1, base.heads, 1, 1)):
            raise ValueError(
                f"{path}: {names[1]} is {list(gate.shape)}, and must be [1, 1, {base.heads}, 1] for this base of "
                f"H={base.heads} heads."
            )
        modules[i] = base.modules[i]
        pairs.append((prompt_KC.float(), gate.float().flatten()))
    adapter = PromptAdapter(
        modules=modules,
        prompts_LKC=torch.stack([prompt_KC for prompt_KC, _ in pairs]),
        gates_LH=torch.stack([gate_H for _, gate_H in pairs]),
        topmost=True,
        base_name=base.name,
        notes=_differs_since_0_5_5(base),
    )
    base.check(adapter, str(path))
    _same_arithmetic(base)
    base.start(adapter, "a LitGPT adapter")
    return adapter


def write_litgpt(
    adapter: PromptAdapter, path: str | Path, base: Base, *, dtype: str = "float32", overwrite: bool = False
) -> PromptAdapter:
    """Writes a LitGPT adapter file, whole or not at all. It stores effective gates: LitGPT knows no tanh.

    In LitGPT it needs `adapter_prompt_length=K` and `adapter_start_layer=N-L`.

    Args:
        adapter: What to write. A layer's single gate is given to all its heads.
        path: The new file; LitGPT looks for the name `lit_model.pth.adapter`.
        base: The transformers model it is for.
        dtype: `float32` or `bfloat16`.
        overwrite: Replace a file that is there already.

    Returns:
        What was written.

    Raises:
        ValueError: The layers are not the topmost; the base has QK-norm; something is there already.
        OSError: The disk is full, or may not be written to.
    """
    base.check(adapter, "the adapter")
    _same_arithmetic(base)
    base.start(adapter, "a LitGPT adapter")
    ready = adapter.with_gates("identity").with_gate_per_head(base.heads)
    state = {}
    for i, prompt_KC, gate_H in zip(ready.modules, ready.prompts_LKC, ready.gates_LH, strict=True):
        state[f"transformer.h.{i}.attn.adapter_wte.weight"] = cast(prompt_KC, dtype)
        state[f"transformer.h.{i}.attn.gating_factor"] = cast(gate_H.reshape(1, 1, -1, 1), dtype)
    write_file(Path(path), to_bytes({"model": state}), overwrite=overwrite)
    return replace(ready, notes=tuple(dict.fromkeys([*ready.notes, *_differs_since_0_5_5(base)])))


def _differs_since_0_5_5(base: Base) -> tuple[str, ...]:
    return () if base.kv_heads == 1 else (SINCE_0_5_5,)


def _same_arithmetic(base: Base) -> None:
    if base.key_norm:
        raise ValueError(
            f"this base ({base.model_type!r}) norms its keys (QK-norm). LitGPT leaves that norm out for prompt keys "
            "and zero-init attention here applies it: the same numbers give different outputs, so they are not "
            "converted."
        )
