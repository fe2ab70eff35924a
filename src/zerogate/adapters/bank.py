"""Many adapters in one batch: the prompts of each row's adapter, stacked, so that one pass serves them all.

Prompt keys and values are tiny beside a layer's weights, so a batch of B rows with B adapters costs what a batch with
one adapter costs. A row named `__base__`, or whose adapter does not reach a layer, gets zero values there: it adds
exactly 0.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

Stacked = tuple[Tensor, Tensor, Tensor | None]

BASE = "__base__"
"""The adapter name of a row that runs on the plain base (PEFT's convention)."""


class RowAdapters:
    """Which adapter each row of a batch runs with, for the length of one forward pass or generation.

    Args:
        names: One adapter name or `__base__` per row.
        expand: How many times each row is repeated behind the caller's back (beams, several returned sequences).
    """

    def __init__(self, names: list[str], expand: int = 1) -> None:
        self.given, self.expand = names, expand
        self.adapters = sorted({name for name in names if name != BASE})
        self.stacked: dict[tuple[int, ...], tuple[tuple[Tensor, ...], Stacked]] = {}  # what `stack_prompts` remembers

    def names(self, rows: int) -> list[str]:
        """The adapter name of each of a batch's rows, as they were given, or repeated (an encoder's never are).

        Raises:
            ValueError: There is not one name per row.
        """
        if rows == len(self.given):
            return self.given
        if rows != len(self.given) * self.expand:
            raise ValueError(
                f"adapter_names has {len(self.given)} entries for a batch of {rows // self.expand} rows. "
                f'Give one adapter name, or "{BASE}", per row.'
            )
        return [name for name in self.given for _ in range(self.expand)]

    def names_of(self, x: Tensor) -> list[str]:
        """The adapter name of each row of hidden states: [B, ..., C]; or [B T, C], as OPT has them in its MLP.

        Raises:
            ValueError: There is not one name per row.
        """
        if x.dim() > 2:
            return self.names(x.shape[0])
        each, rest = divmod(x.shape[0], len(self.given))
        if rest or not each:
            raise ValueError(f"adapter_names has {len(self.given)} entries, which {len(x)} positions cannot be of.")
        return [name for name in self.given for _ in range(each)]


def stack_prompts(rows: RowAdapters, batch: int, prompts: dict[str, tuple[Tensor, Tensor]]) -> Stacked:
    """Keys, gated values and mask, row by row.

    Args:
        rows: The adapter of each row.
        batch: B, the number of rows.
        prompts: Keys [G, K, D] and gated values [H, K, D] of the adapters that reach this layer; K may differ.

    Returns:
        Keys [B, G, K, D], values [B, H, K, D] and an additive mask [B, K], or None where all adapters have the same K.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _stack(rows.names(batch), prompts)
    # By storage, not by object: a remembered tensor is handed out as a new alias each time. Keeping the tensors keeps
    # their storage from being given to others.
    tensors = tuple(t for pair in prompts.values() for t in pair)
    key = (batch, *(t.data_ptr() for t in tensors))
    if key not in rows.stacked:
        rows.stacked[key] = (tensors, _stack(rows.names(batch), prompts))
    return rows.stacked[key][1]


def _stack(names: list[str], prompts: dict[str, tuple[Tensor, Tensor]]) -> Stacked:
    k_GKD, v_HKD = next(iter(prompts.values()))
    longest = max(k.shape[-2] for k, _ in prompts.values())
    place = {name: i for i, name in enumerate(prompts, start=1)}  # place 0 is the plain base
    keys = k_GKD.new_zeros(len(prompts) + 1, k_GKD.shape[0], longest, k_GKD.shape[2])
    values = v_HKD.new_zeros(len(prompts) + 1, v_HKD.shape[0], longest, v_HKD.shape[2])
    mask = torch.zeros(len(prompts) + 1, longest, dtype=torch.float32, device=k_GKD.device)
    for name, (k, v) in prompts.items():
        keys[place[name], :, : k.shape[-2]] = k
        values[place[name], :, : v.shape[-2]] = v
        mask[place[name], k.shape[-2] :] = -torch.inf
    index_B = torch.tensor([place.get(name, 0) for name in names], device=k_GKD.device)
    same_length = all(k.shape[-2] == longest for k, _ in prompts.values())
    return keys[index_B], values[index_B], None if same_length else mask[index_B]


def asked_rows(
    names: Any,
    known: Collection[str],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> RowAdapters:
    """The rows of a forward pass or generation for which a caller gave `adapter_names`.

    Args:
        names: What the caller gave.
        known: The adapters there are.
        model: The adapted model; its own generation config counts too.
        args, kwargs: What the pass is called with, where beams and returned sequences are said.

    Raises:
        TypeError: `names` is no list of names.
        ValueError: The model is training, or an adapter is unknown.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"adapter_names must be a list with one adapter name per row, not {names!r}.")
    if model.training:
        raise ValueError("adapter_names is for inference: call model.eval() first. In training, one adapter is active.")
    unknown = sorted(set(names) - set(known) - {BASE})
    if unknown:
        raise ValueError(f"No adapter named {', '.join(unknown)}. There are: {', '.join([BASE, *known])}.")
    return RowAdapters(list(names), expand=repeats_of_rows(model, args, kwargs))


def repeats_of_rows(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many times `generate(*args, **kwargs)` repeats each row before the decoder's first forward pass.

    It does so for beams and returned sequences, which the call, a generation config or the model's own may ask for.
    """
    configs = [arg for arg in args if isinstance(arg, GenerationConfig)]
    own = [kwargs.get("generation_config"), getattr(model, "generation_config", None)]
    configs += [config for config in own if config is not None]
    repeats = [1]
    for name in ("num_beams", "num_return_sequences"):
        said = [kwargs.get(name), *(getattr(config, name) for config in configs)]
        repeats.append(next((n for n in said if n), 1))
    return max(repeats)
