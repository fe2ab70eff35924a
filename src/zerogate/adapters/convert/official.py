"""The official LLaMA-Adapter v1 checkpoint (`.pth`), read to and written from a `PromptAdapter`.

    adapter_query.weight        [L*K, C]      row block j belongs to layer N-L+j; K is not stored
    layers.{i}.attention.gate   [1, H, 1, 1]  for all N layers; (1,) in the first release

flat, or as `model` in a training checkpoint {model, optimizer, epoch, scaler, args}, where the base's own weights may
lie beside them. What a gate means is not in the file: the official fine-tuning code multiplies by tanh(gate), the root
inference code by the gate itself, and both save the same names and shapes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import cast, read_pickle, tensors_only, to_bytes, write_file
from .prompts import Base, PromptAdapter, spans

QUERY = "adapter_query.weight"
_GATE = re.compile(r"layers\.(\d+)\.attention\.gate")
_BASE_WEIGHT = re.compile(
    r"(tok_embeddings|norm|output)\.weight|rope\.freqs"
    r"|layers\.\d+\.(attention\.w[qkvo]\.weight|feed_forward\.w[123]\.weight|(attention|ffn)_norm\.weight"
    r"|attention\.inner_attention\.rope\.freqs)"
)
_IMAGE = re.compile(r"(visual_query|visual_proj|visual_proj_norm|visual_blocks|clip_proj|clip_proj_norm|clip|llama)\.")

WHICH_GATES = (
    "The file does not say how its gates multiply, and guessing wrong gives another model. Say it with "
    "gate_activation (--gate-activation): 'tanh' for what the official v1 fine-tuning code trained (also the 65B "
    "chat and multimodal code); 'identity' if you want what the official root inference code computes with this "
    "file, which leaves the tanh out."
)


def is_official(content: Any) -> bool:
    """Whether the content of a `.pth` is an official checkpoint, flat or from training, v1 or multimodal."""
    if not isinstance(content, dict):
        return False
    state = content.get("model", content)
    return isinstance(state, dict) and any(key == QUERY or _GATE.search(str(key)) for key in state)


def read_official(
    path: str | Path,
    *,
    gate_activation: str | None = None,
    prompt_length: int | None = None,
    base: Base | None = None,
) -> PromptAdapter:
    """Reads an official v1 checkpoint, flat or from training.

    Args:
        path: The `.pth` file.
        gate_activation: `tanh` or `identity`: how the code that this file is for uses its gates. May be left out only
            where the shape tells, which is the first release's single gate (identity).
        prompt_length: K. Default: what the training arguments in the file say, else 10.
        base: Checked against, where it is given; else LLaMA's module names are taken.

    Raises:
        ValueError: Not such a checkpoint, or a multimodal or V2 one; the activation is not clear; the rows cannot be
            divided into layers of K; the file does not fit `base`.
    """
    path = Path(path)
    content = read_pickle(path)
    if not is_official(content):
        raise ValueError(f"{path} is no official checkpoint: it has neither {QUERY} nor layers.N.attention.gate.")
    trained_with = content.get("args") if "model" in content else None
    state = _only_v1(tensors_only(content.get("model", content), path), path)
    gates = _gates(state, path)
    N = len(gates)
    if gate_activation is None:
        if gates[0].dim() > 1:
            raise ValueError(f"{path}: {WHICH_GATES}")
        gate_activation = "identity"  # the only code that has this shape knows no tanh

    query_RC = state[QUERY]
    K, where = _prompt_length(prompt_length, trained_with, path)
    L, rest = divmod(query_RC.shape[0], K)
    if rest or not 1 <= L <= N:
        fits = [
            k for k in range(1, query_RC.shape[0] + 1) if query_RC.shape[0] % k == 0 and query_RC.shape[0] // k <= N
        ]
        raise ValueError(
            f"{path}: {QUERY} has {query_RC.shape[0]} rows, which cannot be L <= {N} layers of K={K} prompts "
            f"({where}). K could be {', '.join(map(str, fits[:8]))}: give the right one with prompt_length "
            "(--prompt-length)."
        )
    adapted = range(N - L, N)
    notes = _doubts(gates, adapted, K)
    if base is not None and len(base.modules) != N:
        raise ValueError(f"{path} was made for a base of N={N} layers, and the base has {len(base.modules)}.")
    adapter = PromptAdapter(
        modules={i: base.modules[i] if base else f"model.layers.{i}.self_attn" for i in adapted},
        prompts_LKC=query_RC.float().reshape(L, K, -1).clone(),
        gates_LH=torch.stack([gates[i].float().flatten() for i in adapted]),
        activation=gate_activation,
        topmost=True,
        base_name=base.name if base else None,
        notes=notes,
    )
    if base is not None:
        base.check(adapter, str(path))
    return adapter


def write_official(
    adapter: PromptAdapter,
    path: str | Path,
    base: Base,
    *,
    gate_activation: str = "identity",
    dtype: str = "float32",
    overwrite: bool = False,
) -> PromptAdapter:
    """Writes a flat official v1 checkpoint, whole or not at all. Layers without prompts get gates of zero.

    Args:
        adapter: What to write. A layer's single gate is given to all its heads.
        path: The new `.pth` file.
        base: The LLaMA it is for.
        gate_activation: `identity` stores effective gates, for the official root inference code; `tanh` stores what
            its tanh turns into them, for the fine-tuning code.
        dtype: `float32` or `bfloat16`.
        overwrite: Replace a file that is there already.

    Returns:
        What was written.

    Raises:
        ValueError: The base is not a LLaMA as the official code knows it; the layers are not the topmost; gates of 1
            or more with `tanh`; something is there already.
        OSError: The disk is full, or may not be written to.
    """
    path = Path(path)
    base.check(adapter, "the adapter")
    if base.model_type != "llama" or base.kv_heads != base.heads or base.heads * base.head_dim != base.width:
        raise ValueError(
            "the official v1 code knows only the first LLaMA's shape (C = H * D, a key/value head for each query "
            f"head), and this base is {base.model_type!r} with H={base.heads}, G={base.kv_heads}, D={base.head_dim}, "
            f"C={base.width}."
        )
    start = base.start(adapter, "an official checkpoint")
    ready = adapter.with_gates(gate_activation).with_gate_per_head(base.heads)
    gates_NH = torch.cat([torch.zeros(start, base.heads), ready.gates_LH])
    state = {QUERY: cast(ready.prompts_LKC.flatten(0, 1), dtype)}
    for i, gate_H in enumerate(gates_NH):
        state[f"layers.{i}.attention.gate"] = cast(gate_H.reshape(1, -1, 1, 1), dtype)
    write_file(path, to_bytes(state), overwrite=overwrite)
    return ready


def _only_v1(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """`state`, made sure to hold prompts, gates and perhaps the base's own weights."""
    if image := [key for key in state if _IMAGE.match(key)]:
        raise ValueError(
            f"{path} is an official multimodal checkpoint (it has {image[0]}): its prompts work together with image "
            "features, biases and norms, which a text adapter cannot hold. Converting these is not supported yet; "
            "text checkpoints (v1) are."
        )
    if QUERY not in state:
        raise ValueError(f"{path} has gates but no {QUERY}: the file is incomplete.")
    if state[QUERY].dim() != 2:
        raise ValueError(f"{path}: {QUERY} is {list(state[QUERY].shape)}, and must be [L*K, C].")
    # A training checkpoint may hold the whole frozen LLaMA. Norms without it are trained ones: V2.
    whole = "layers.0.attention.wq.weight" in state
    strange = [k for k in state if k != QUERY and not _GATE.fullmatch(k) and not (whole and _BASE_WEIGHT.fullmatch(k))]
    if strange:
        raise ValueError(
            f"{path} also holds {strange[0]} and {len(strange) - 1} more that are neither prompts nor gates nor "
            "LLaMA's own weights: trained norms, biases, scales or LoRA of LLaMA-Adapter V2, without which the "
            "prompts do not work as trained. Only v1 is supported."
        )
    return state


def _gates(state: dict[str, Tensor], path: Path) -> dict[int, Tensor]:
    """The gates of all N layers, bottom up, each as stored."""
    gates = dict(sorted((int(m[1]), state[key]) for key in state if (m := _GATE.fullmatch(key))))
    if not gates:
        raise ValueError(f"{path} has prompts but no layers.N.attention.gate: the file is incomplete.")
    if list(gates) != list(range(len(gates))):
        raise ValueError(
            f"{path} has gates for {spans(list(gates))}, and an official checkpoint has one for each layer from 0."
        )
    gate_shapes = {tuple(gate.shape) for gate in gates.values()}
    shape = next(iter(gate_shapes))
    if len(gate_shapes) > 1 or not (shape == (1,) or (len(shape) == 4 and shape == (1, shape[1], 1, 1))):
        raise ValueError(
            f"{path} has gates of shape {sorted(map(list, gate_shapes))}; official ones are [1, H, 1, 1], or [1] in "
            "the first release."
        )
    return gates


def _prompt_length(asked: int | None, trained_with: Any, path: Path) -> tuple[int, str]:
    """(K, where it comes from)."""
    stored = vars(trained_with).get("adapter_len") if isinstance(trained_with, argparse.Namespace) else None
    if asked is not None and asked < 1:
        raise ValueError(f"the prompt length K must be at least 1, not {asked}.")
    if stored is not None and asked not in (None, stored):
        raise ValueError(
            f"{path} was trained with adapter_len={stored} (in its own arguments), and prompt length {asked} was "
            "asked for."
        )
    if asked is not None:
        return asked, "as asked for"
    if isinstance(stored, int) and stored > 0:
        return stored, "from the training arguments in the file"
    return 10, "assumed: the file does not say"


def _doubts(gates: dict[int, Tensor], adapted: range, K: int) -> tuple[str, ...]:
    """Gates tell which layers were trained: untrained ones are exactly zero. Says what does not agree with K."""
    trained = [i for i, gate in gates.items() if gate.any()]
    below = [i for i in trained if i not in adapted]
    if below:
        return (
            f"{spans(below)} have gates that are not zero but no prompts with K={K}; ignored. If K is smaller, say so "
            "(--prompt-length).",
        )
    if trained and trained[0] > adapted.start:
        return (
            f"gates are zero below layer {trained[0]}, but with K={K} prompts begin at layer {adapted.start}. If K is "
            "larger, say so (--prompt-length).",
        )
    return ()
