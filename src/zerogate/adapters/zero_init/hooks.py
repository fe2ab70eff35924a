"""Hooks of a zero-init model besides its layers: a check that the seam is in the path, and the cut below the first."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..attention import CHILD
from .layer import ZeroInitLayer


class SeamCheck:
    """After the first pass through each adapted attention module, makes sure that its seam was reached, or raises."""

    def __init__(self, model: nn.Module) -> None:
        self.handles = {
            name: module.register_forward_hook(partial(self.check, name))
            for name, module in model.named_modules()
            if isinstance(module._modules.get(CHILD), ZeroInitLayer)
        }

    def check(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Runs once for each module, after its first pass that is not being compiled."""
        if torch.compiler.is_compiling():
            return
        layer: Any = module._modules[CHILD]
        if not layer.reached:
            raise RuntimeError(
                f"The adapter is attached but the attention of {name} never came through zerogate's seam, so it would "
                "silently do nothing. Choose another attn_implementation for the base, and please report the model "
                "family."
            )
        self.handles.pop(name).remove()

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self.handles.values():
            handle.remove()


class Cut:
    """Runs the layers below the first adapted one without autograd.

    A frozen base records no graph there anyway, except when someone made the embeddings' output require gradients, as
    PEFT, TRL and Trainer do for activation checkpointing. Then hidden states are detached before the first layer,
    unless gradients are wanted for something else too: a trained norm below, or embeddings from outside of the model.
    Reentrant checkpointing needs an input with gradients: it gets one where the first adapted layer begins.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        stacks: dict[str, tuple[int, nn.ModuleList]] = {}
        for name, module in model.named_modules():
            if isinstance(module, ZeroInitLayer):
                stack, index = place(name)
                if stack not in stacks or index < stacks[stack][0]:
                    stacks[stack] = (index, model.get_submodule(stack))  # type: ignore[assignment]
        embedded = _Embedded()
        self.handles = [module.register_forward_hook(embedded) for module in _input_embeddings(model)]
        for first, layers in stacks.values():
            if first > 0:
                detach = _Detach(model, list(layers)[first:], embedded)
                self.handles.append(layers[0].register_forward_pre_hook(detach, with_kwargs=True))
                self.handles.append(layers[first].register_forward_pre_hook(_restart, with_kwargs=True))

    def remove(self) -> None:
        """Takes the hooks off the model."""
        for handle in self.handles:
            handle.remove()


def place(name: str) -> tuple[str, int]:
    """The stack and layer index that a module name lies in: "model.layers.3.self_attn" -> ("model.layers", 3)."""
    parts = name.split(".")
    at = next(i for i, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[:at]), int(parts[at])


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any], change: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


def _input_embeddings(model: nn.Module) -> list[nn.Module]:
    """The modules whose output transformers' `enable_input_require_grads` makes require gradients."""
    found = {}
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            try:
                embeddings = module.get_input_embeddings()
            except NotImplementedError:
                continue
            if isinstance(embeddings, nn.Module):
                found[id(embeddings)] = embeddings
    return list(found.values())


class _Embedded:
    """Remembers which tensors came out of the input embeddings, for as long as they live."""

    def __init__(self) -> None:
        self.outputs: list[weakref.ref[Tensor]] = []

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.outputs = [ref for ref in self.outputs if ref() is not None] + [weakref.ref(output)]

    def __getstate__(self) -> dict[str, Any]:
        return {"outputs": []}

    def explains(self, hidden: Tensor) -> bool:
        """Whether all that makes `hidden` require gradients is that outputs of the embeddings were told to."""
        ours = [ref() for ref in self.outputs]
        nodes, seen = [hidden.grad_fn], set()
        if hidden.grad_fn is None:
            return any(hidden is x for x in ours)
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)  # only the nodes of leaves have one
            if leaf is not None and not any(leaf is x for x in ours):
                return False
            nodes += [n for n, _ in node.next_functions]
        return True


class _Detach:
    def __init__(self, model: nn.Module, above: list[nn.Module], embedded: _Embedded) -> None:
        self.model, self.above, self.embedded = model, above, embedded

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if torch.compiler.is_compiling() or not hidden.requires_grad:
            return None
        above = {id(p) for layer in self.above for p in layer.parameters()}
        if any(p.requires_grad and id(p) not in above for p in self.model.parameters()):
            return None  # something else is trained too, perhaps below: leave the graph whole
        return _hidden(args, kwargs, Tensor.detach) if self.embedded.explains(hidden) else None


def _restart(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    checkpoint = getattr(module, "_gradient_checkpointing_func", None)
    reentrant = checkpoint is not None and getattr(checkpoint, "keywords", {}).get("use_reentrant", False)
    if not (module.training and reentrant and torch.is_grad_enabled()):
        return None
    return _hidden(args, kwargs, lambda x: x if x.requires_grad else x.detach().requires_grad_())
