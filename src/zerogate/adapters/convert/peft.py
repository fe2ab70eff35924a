"""PEFT's AdaptionPrompt folder, read to and written from a `PromptAdapter`.

    base_model.model.model.layers.{i}.self_attn.adaption_prompt   [1, K, C]   i is absolute
    base_model.model.model.layers.{i}.self_attn.adaption_gate     [1]         multiplies as it is, without tanh

PEFT has one gate per layer, so what has one per head fits only where all heads of a layer agree.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .files import read_pickle, read_tensors, tensors_only
from .folder import PREFIX, WEIGHTS, by_layer, read_config, write_peft_folder
from .prompts import Base, PromptAdapter

PEFT_TYPE = "ADAPTION_PROMPT"
_FAMILIES = ("llama", "mistral")


def read_peft(path: str | Path, *, base: Base | None = None) -> PromptAdapter:
    """Reads an AdaptionPrompt folder. Gates stay one per layer, as they were trained.

    Args:
        path: The folder; its weights are `adapter_model.safetensors`, or `adapter_model.bin` (read with weights_only).
        base: Checked against, where it is given.

    Raises:
        ValueError: Not such a folder, tensors that do not agree with its configuration, GPT-2 or another base whose
            arithmetic differs in PEFT, or it does not fit `base`.
    """
    path = Path(path)
    raw = read_config(path)
    if raw["peft_type"] != PEFT_TYPE:
        raise ValueError(
            f"{path} holds a PEFT adapter of type {raw['peft_type']}, and only {PEFT_TYPE} has adaption prompts."
        )
    pickled = path / "adapter_model.bin"
    if (path / WEIGHTS).is_file():
        state = read_tensors(path / WEIGHTS)
    elif pickled.is_file():
        state = tensors_only(read_pickle(pickled), pickled)
    else:
        raise ValueError(f"{path} has no {WEIGHTS}.")
    modules, pairs = by_layer(state, "adaption_prompt", "adaption_gate", path)
    shapes = {(tuple(prompt.shape), tuple(gate.shape)) for prompt, gate in pairs}
    prompt_shape, gate_shape = next(iter(shapes))
    said = (raw.get("adapter_layers"), raw.get("adapter_len"))
    if len(prompt_shape) != 3 or prompt_shape[0] != 1 or gate_shape != (1,) or said != (len(pairs), prompt_shape[1]):
        raise ValueError(
            f"{path}: {len(pairs)} layers of prompts {list(prompt_shape)} and gates {list(gate_shape)} do not agree "
            f"with adapter_layers={said[0]}, adapter_len={said[1]} in its configuration: expected [1, adapter_len, C] "
            "and [1] in adapter_layers layers."
        )
    if raw.get("target_modules") == "attn" or next(iter(modules.values())).endswith(".attn"):
        raise ValueError(
            f"{path} is an AdaptionPrompt for GPT-2, where PEFT adds the prompts' attention after the output "
            "projection instead of before it. No gate or prompt of ours gives the same function, so it is not "
            "converted."
        )
    adapter = PromptAdapter(
        modules=modules,
        prompts_LKC=torch.cat([prompt.float() for prompt, _ in pairs]),
        gates_LH=torch.stack([gate.float() for _, gate in pairs]),
        topmost=True,
        base_name=raw.get("base_model_name_or_path"),
    )
    if base is not None:
        base.check(adapter, str(path))
        _same_arithmetic(base)
    return adapter


def write_peft(
    adapter: PromptAdapter,
    path: str | Path,
    base: Base,
    *,
    lossy: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> PromptAdapter:
    """Writes an AdaptionPrompt folder, whole or not at all. It stores effective gates: PEFT knows no tanh.

    Args:
        adapter: What to write.
        path: The new folder.
        base: The model it is for.
        lossy: `mean` allows gates that differ between heads to become their mean (see `PromptAdapter.with_one_gate`).
        dtype: `float32` or `bfloat16`. Loaded in PEFT, they take the base's dtype.
        overwrite: Replace an adapter folder that is there already.

    Returns:
        What was written, with a note where something was lost.

    Raises:
        ValueError: Gates differ between heads and `lossy` is None; the layers are not the topmost; PEFT cannot do this
            base, or does it differently; something is there already.
        OSError: The disk is full, or may not be written to.
    """
    from peft import AdaptionPromptConfig

    base.check(adapter, "the adapter")
    _same_arithmetic(base)
    base.start(adapter, "an AdaptionPrompt")
    ready = adapter.with_gates("identity").with_one_gate(lossy)
    config = AdaptionPromptConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name or adapter.base_name,
        inference_mode=True,
        target_modules="self_attn",
        adapter_len=ready.prompt_length,
        adapter_layers=len(ready.modules),
    )
    state = {}
    for module, prompt_KC, gate_1 in zip(ready.modules.values(), ready.prompts_LKC, ready.gates_LH, strict=True):
        state[f"{PREFIX}{module}.adaption_prompt"] = prompt_KC[None]
        state[f"{PREFIX}{module}.adaption_gate"] = gate_1
    write_peft_folder(Path(path), config, state, dtype, overwrite)
    return replace(ready, base_name=config.base_model_name_or_path)


def _same_arithmetic(base: Base) -> None:
    """Raises ValueError for bases where PEFT's AdaptionPrompt fails, or computes something else than equation 7."""
    if base.model_type not in _FAMILIES:
        raise ValueError(
            f"PEFT's AdaptionPrompt knows {' and '.join(_FAMILIES)} as we do, and this base is {base.model_type!r}."
        )
    if base.heads * base.head_dim != base.width:
        raise ValueError(
            "PEFT's AdaptionPrompt fails on bases whose hidden size is not heads * head_dim, and here "
            f"C={base.width}, H={base.heads}, D={base.head_dim}."
        )
    if base.output_bias:
        raise ValueError(
            "this base's output projection has a bias, which PEFT's AdaptionPrompt adds twice and zero-init "
            "attention once: the same numbers give different outputs, so they are not converted."
        )
