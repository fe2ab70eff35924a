"""A batch's images on the layers of a model: for one pass, and again where a part of that pass runs again.

A layer looks for images in its field `images`. Activation checkpointing runs layers again in the backward pass; by then
that field is empty, or another pass is under way. So what is checkpointed while images are shown takes them along.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .image import Images
from .layer import ZeroInitLayer

Shown = list[tuple[ZeroInitLayer, dict[str, Images]]]

_CHECKPOINTS = ("_gradient_checkpointing_func", "checkpoint_fn")
"""Where a module has the function that it is checkpointed with: transformers' layers, torch's `CheckpointWrapper`."""


def put(shown: Shown) -> Shown:
    """Gives layers these images; returns what they had before."""
    before = []
    for layer, images in shown:
        before.append((layer, layer.images))
        layer.images = images
    return before


def take_along(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """From here on what is checkpointed takes along the images that its layers have now; `put_back` ends that."""
    replaced = []
    for module in list(model.modules()):
        for name in _CHECKPOINTS:
            checkpoint = vars(module).get(name)
            if checkpoint is None:
                continue
            if shown := [(m, m.images) for m in module.modules() if isinstance(m, ZeroInitLayer)]:
                replaced.append((module, name, checkpoint))
                setattr(module, name, _TakesAlong(checkpoint, shown))
    return replaced


def put_back(checkpoints: list[tuple[nn.Module, str, Any]]) -> None:
    """Ends what `take_along` began, for what runs from here on."""
    for module, name, checkpoint in checkpoints:
        setattr(module, name, checkpoint)


class _TakesAlong:
    """Stands in for a checkpointing function: what it is given runs with these images, now and later."""

    def __init__(self, checkpoint: Callable[..., Any], shown: Shown) -> None:
        self.checkpoint, self.shown = checkpoint, shown
        self.keywords = getattr(checkpoint, "keywords", {})  # of a partial: `hooks.py` and others read its settings

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # what is compiled holds on to tensors, not to the layers' fields
            return self.checkpoint(function, *args, **kwargs)
        return self.checkpoint(partial(_run_with, self.shown, function), *args, **kwargs)


def _run_with(shown: Shown, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    before = put(shown)
    try:
        return function(*args, **kwargs)
    finally:
        put(before)
