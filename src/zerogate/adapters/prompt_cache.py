"""Prompt keys and values, computed once for as long as nothing they depend on has changed.

A frozen layer makes the same keys and values of a prompt at every step until the prompt changes: once per optimiser
step in training (whatever the number of micro-batches, and under activation checkpointing), once per adapter in
inference. The danger of remembering them is known: LitGPT kept what a validation pass had computed without gradients,
and the prompts silently stopped training. Here that cannot happen, because what is kept is never put into a graph as
it is. With gradients on, values pass through `_Remembered`, whose backward runs a small graph that was built from the
prompt for this very purpose.

Nor can it be stale: an entry holds for one version and storage of the prompt, gate and projections, one dtype, one
state of autocast, one count of optimiser steps (8-bit optimisers raise no version) and, except on a GPU in training,
for the very numbers (an edit through `.data`, as weight averaging makes it, raises no version either).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

Compute = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class _Entry:
    key: tuple[Any, ...]
    inputs: list[Tensor | None]  # copies of the prompt and gate it was made from: leaves of its small graph
    k: Tensor
    v: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """Those inputs that take gradients: copies of the parameters that did when the entry was made."""
        return [x for x in self.inputs if x is not None and x.requires_grad]


class _Remembered(torch.autograd.Function):
    """Hands out remembered keys and values; gradients go to the prompt and gate through the entry's own small graph."""

    @staticmethod
    def forward(ctx: Any, entry: _Entry, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.entry = entry
        k, v = entry.k.detach(), entry.v.detach()
        if not entry.k.requires_grad:  # the gate is trained alone
            ctx.mark_non_differentiable(k)
        return k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        entry = ctx.entry
        outputs, grad_outputs = [entry.v], [grad_v]
        if entry.k.requires_grad:
            outputs, grad_outputs = [entry.k, entry.v], [grad_k, grad_v]
        grads = torch.autograd.grad(outputs, entry.leaves, grad_outputs, retain_graph=True, allow_unused=True)
        return (None, *grads)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor.detach()  # else what a graph keeps would keep the graph, for ever


_steps = 0


def _count_step(*_: Any) -> None:
    """Runs after each step of any optimiser: some write to parameters behind autograd's back."""
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


def _state(tensor: Tensor) -> tuple[int, int, int, bool]:
    version = -1 if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.data_ptr(), tensor.requires_grad


def _autocast(device: torch.device) -> torch.dtype | None:
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def _parameters_of(module: nn.Module) -> Iterable[Tensor]:
    if module._modules:  # a wrapped projection, with LoRA for instance
        return module.parameters()
    return [p for p in module._parameters.values() if p is not None]  # many times cheaper, at each layer of each token


class PromptCache:
    """One entry per adapter of one layer."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def forget(self, adapter_name: str | None = None) -> None:
        """Drops what is remembered of an adapter, or of all."""
        if adapter_name is None:
            self._entries.clear()
        else:
            self._entries.pop(adapter_name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}  # a copy or a pickle begins empty: graphs cannot be copied

    def get(
        self,
        adapter_name: str,
        prompt_KC: Tensor,
        gate: Tensor | None,
        dtype: torch.dtype,
        projections: list[nn.Module],
        compute: Compute,
        goes_on: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of `compute(prompt_KC, gate)`, remembered where that is sound.

        Args:
            projections: The modules that `compute` passes the prompt through. Where one of them is being trained (or
                the call is being compiled) nothing is remembered and autograd sees everything.
            goes_on: A sequence goes on from a pass that looked at everything. Its keys and values were made with what
                held then; only versions are looked at, not numbers or projections.
        """
        parameters = [prompt_KC] if gate is None else [prompt_KC, gate]
        if torch.compiler.is_compiling():
            return compute(prompt_KC, gate)
        if goes_on and not torch.is_grad_enabled() and (known := self._entries.get(adapter_name)) is not None:
            states = (dtype, _autocast(prompt_KC.device), _steps, *map(_state, parameters))
            if known.key[: len(states)] == states:
                return known.k.detach(), known.v.detach()
        frozen = [p for module in projections for p in _parameters_of(module)]
        if torch.is_grad_enabled() and any(p.requires_grad for p in frozen):
            return compute(prompt_KC, gate)

        wants_grad = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        key = (dtype, _autocast(prompt_KC.device), _steps, *map(_state, parameters), *map(_state, frozen))
        entry = self._entries.get(adapter_name)
        if entry is None or entry.key != key or self._edited(entry, prompt_KC, gate):
            # Whoever trains will want a graph: build it at the first pass of a step, with or without gradients.
            entry = self._entries[adapter_name] = self._make(key, prompt_KC, gate, compute)
        if not wants_grad:
            return entry.k.detach(), entry.v.detach()
        return _Remembered.apply(entry, *(p for p in parameters if p.requires_grad))

    @staticmethod
    def _edited(entry: _Entry, prompt_KC: Tensor, gate: Tensor | None) -> bool:
        """Whether the numbers changed behind autograd's back. In training on a GPU the look would cost too much."""
        if prompt_KC.is_meta or (torch.is_grad_enabled() and prompt_KC.is_cuda):
            return False
        now = (prompt_KC, gate)
        return any(
            x is not None and p is not None and not torch.equal(x, p) for x, p in zip(entry.inputs, now, strict=True)
        )

    @staticmethod
    def _make(key: tuple[Any, ...], prompt_KC: Tensor, gate: Tensor | None, compute: Compute) -> _Entry:
        # What this graph saves is its own: under activation checkpointing it would otherwise be dropped and counted as
        # the layer's, and the recomputation, which finds the entry made, would not save it again.
        own = torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is)
        with torch.inference_mode(False), torch.enable_grad(), own:
            prompt_copy = prompt_KC.detach().clone().requires_grad_(prompt_KC.requires_grad)
            gate_copy = None if gate is None else gate.detach().clone().requires_grad_(gate.requires_grad)
            return _Entry(key, [prompt_copy, gate_copy], *compute(prompt_copy, gate_copy))
