"""The zerogate adapter folder (a PEFT folder of type ZERO_INIT), read to and written from a `PromptAdapter`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..zero_init.config import ZeroInitConfig
from .files import cast, check_dtype, read_tensors, write_folder
from .prompts import Base, PromptAdapter

PREFIX = "base_model.model."
"""What PEFT puts before a module's name in the keys of a saved adapter."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def read_zerogate(path: str | Path, *, base: Base | None = None) -> PromptAdapter:
    """Reads an adapter folder that zerogate or PEFT saved.

    Args:
        path: The folder.
        base: Checked against, where it is given.

    Raises:
        ValueError: Not such a folder; no gates (`attention="vanilla"`); trained modules beside the prompts; prompts in
            several stacks; or it does not fit `base`. The message says which and why that cannot be converted.
    """
    path = Path(path)
    raw = read_config(path)
    if raw["peft_type"] != ZeroInitConfig.peft_name:
        raise ValueError(f"{path} holds an adapter of type {raw['peft_type']}, not {ZeroInitConfig.peft_name}.")
    config = ZeroInitConfig.from_peft_type(**raw)
    if config.attention == "vanilla":
        raise ValueError(
            f'{path} was trained with attention="vanilla": its prompts share the text\'s softmax and it has no gates, '
            "which no other format can express."
        )
    state = read_tensors(path / WEIGHTS)
    modules, pairs = by_layer(state, "zero_init.prompt", "zero_init.gate", path)
    if len(stacks := {re.sub(r"\d+", "#", module) for module in modules.values()}) > 1:
        raise ValueError(
            f"{path} adapts several kinds of modules ({', '.join(sorted(stacks))}), and other formats know one."
        )
    adapter = PromptAdapter(
        modules=modules,
        prompts_LKC=torch.stack([prompt.float() for prompt, _ in pairs]),
        gates_LH=torch.stack([gate.float() for _, gate in pairs]),
        activation=config.gate_activation,
        scale=config.gate_scale,
        topmost=config.layers_to_transform is None and config.target_modules is None,
        base_name=config.base_model_name_or_path,
        target_modules=config.target_modules,
    )
    if base is not None:
        base.check(adapter, str(path))
    return adapter


def to_zero_init(adapter: PromptAdapter, base: Base | None = None) -> tuple[ZeroInitConfig, dict[str, Tensor]]:
    """The adapter as a configuration and a state dict, as `save_pretrained` would write them: for use without files.

    config, state = to_zero_init(adapter)
    model = get_peft_model(base_model, config)
    set_peft_model_state_dict(model, state)
    """
    topmost = adapter.topmost
    if base is not None:
        topmost = list(adapter.modules) == list(base.modules)[-len(adapter.modules) :]
    layers: dict[str, Any] = (
        {"num_layers": len(adapter.modules)} if topmost else {"layers_to_transform": list(adapter.modules)}
    )
    config = ZeroInitConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=(base.name if base else None) or adapter.base_name,
        inference_mode=True,
        prompt_length=adapter.prompt_length,
        target_modules=adapter.target_modules,
        gate_activation=adapter.activation,
        gate_scale=adapter.scale,
        gate_per="layer" if adapter.one_gate else "head",
        **layers,
    )
    state = {}
    for module, prompt_KC, gate_H in zip(adapter.modules.values(), adapter.prompts_LKC, adapter.gates_LH, strict=True):
        state[f"{PREFIX}{module}.zero_init.prompt"] = prompt_KC.clone()
        state[f"{PREFIX}{module}.zero_init.gate"] = gate_H.clone()
    return config, state


def write_zerogate(
    adapter: PromptAdapter,
    path: str | Path,
    base: Base | None = None,
    *,
    dtype: str = "float32",
    overwrite: bool = False,
) -> PromptAdapter:
    """Writes an adapter folder, whole or not at all. Gates keep the activation and scale they have.

    Args:
        adapter: What to write.
        path: The new folder.
        base: Checked against and recorded, where it is given.
        dtype: `float32` or `bfloat16`.
        overwrite: Replace an adapter folder that is there already.

    Returns:
        What was written.

    Raises:
        ValueError: Something is there already, or the adapter does not fit `base`.
        OSError: The disk is full, or may not be written to.
    """
    if base is not None:
        base.check(adapter, "the adapter")
    check_dtype(dtype)
    config, state = to_zero_init(adapter, base)
    config = replace(config, save_dtype=dtype)
    write_peft_folder(Path(path), config, state, dtype, overwrite)
    return replace(adapter, base_name=config.base_model_name_or_path)


def read_config(path: Path) -> dict[str, Any]:
    """The `adapter_config.json` of a PEFT folder.

    Raises:
        ValueError: No folder, no such file, or not the JSON of an adapter.
    """
    file = path / CONFIG
    if not file.is_file():
        raise ValueError(
            f"{path} is no adapter folder: it has no {CONFIG}." if path.is_dir() else f"{path} is no folder."
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(raw, dict) or "peft_type" not in raw:
        raise ValueError(f"{file} has no peft_type, so it is not the configuration of a PEFT adapter.")
    return raw


def by_layer(
    state: dict[str, Tensor], prompt_key: str, gate_key: str, path: Path
) -> tuple[dict[int, str], list[tuple[Tensor, Tensor]]]:
    """Pairs up the prompts and gates of a PEFT state dict: modules by layer, bottom up, and (prompt, gate) of each.

    Raises:
        ValueError: There is none, something else is among them, one of a pair is missing, or shapes differ between
            layers.
    """
    found: dict[int, tuple[str, Tensor, Tensor]] = {}
    ends = (f".{prompt_key}", f".{gate_key}")
    for key in state:
        end = next((end for end in ends if key.endswith(end)), "")
        name = key.removesuffix(end)
        layer = re.search(r"\.(\d+)\.", f"{name}.")
        if not end or not key.startswith(PREFIX) or layer is None:
            raise ValueError(
                f"{path} also holds {key} {list(state[key].shape)}: what was trained besides prompts and gates "
                "(modules_to_save, norms, biases) has no place in other formats. Convert an adapter that has prompts "
                "and gates only."
            )
        pair = [f"{name}{end}" for end in ends]
        if missing := [other for other in pair if other not in state]:
            raise ValueError(f"{path} has {key} but not {missing[0]}: the file is incomplete.")
        module = name.removeprefix(PREFIX)
        if found.setdefault(int(layer[1]), (module, state[pair[0]], state[pair[1]]))[0] != module:
            raise ValueError(f"{path} has several adapted modules in layer {layer[1]}, and other formats know one.")
    if not found:
        raise ValueError(f"{path} holds no tensors.")
    ordered = dict(sorted(found.items()))
    for which, what in ((1, "prompts"), (2, "gates")):
        shapes = {tuple(entry[which].shape) for entry in ordered.values()}  # type: ignore[union-attr]
        if len(shapes) > 1:
            raise ValueError(f"{path} has {what} of different shapes in different layers: {sorted(shapes)}.")
    return {i: entry[0] for i, entry in ordered.items()}, [(entry[1], entry[2]) for entry in ordered.values()]


def write_peft_folder(path: Path, config: Any, state: dict[str, Tensor], dtype: str, overwrite: bool) -> None:
    """A PEFT folder of `config` and `state`, whole or not at all."""
    as_dict = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    files = {
        CONFIG: (json.dumps(as_dict, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: save({key: cast(tensor, dtype) for key, tensor in state.items()}, metadata={"format": "pt"}),
    }
    write_folder(path, files, overwrite=overwrite)
