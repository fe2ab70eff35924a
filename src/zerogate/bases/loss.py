"""The loss over the learned positions only. Prompts fill most of an instruction record; nothing is computed for
them past the last layer.

A hook narrows what the model's head is given to the positions whose next token is learned, so the `[B, T, V]`
logits never exist. The model's own forward runs otherwise unchanged (also inside DDP), with whatever scaling or
soft cap it puts on its logits. Where even the learned positions' logits are many (long batches, large vocabularies),
the loss and its gradient are computed some positions at a time, so that they never all exist either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

IGNORE = -100
"""The label of a token that is not learned, as torch and transformers have it."""


def learned_logits(model: nn.Module, head: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and targets of the learned positions of a batch.

    Args:
        model: a causal language model, possibly wrapped by PEFT or DDP.
        head: its output embeddings, the module that turns hidden states into logits.
        batch: `input_ids`, `attention_mask` and `labels`, each [B, T]; labels are not shifted, -100 is not learned.
            Packed sequences have `position_ids` in place of the mask. With images also `image_features` and
            `image_mask`, for an adapter that takes them.

    Returns:
        logits_SV of the S learned positions, in the model's dtype, and their targets_S, int64.
    """
    learned_BT, targets_S = _learned(batch)
    with _narrowed(head, learned_BT, whole=True):
        logits_SV = _forward(model, batch)
    return logits_SV, targets_S


def summed_loss(model: nn.Module, head: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy in nats summed over the learned tokens of a batch, in fp32, and how many there are."""
    learned_BT, targets_S = _learned(batch)
    rows = max(1, _LOGITS // _width(head))
    frozen = not any(parameter.requires_grad for parameter in head.parameters())
    if len(targets_S) <= rows or not frozen or not _ENDS.get(head, True):
        with _narrowed(head, learned_BT, whole=True):
            logits_SV = _forward(model, batch)
        return F.cross_entropy(logits_SV.float(), targets_S, reduction="sum"), len(targets_S)
    with _narrowed(head, learned_BT, whole=False) as kept:
        logits_1V = _forward(model, batch)
    if head not in _ENDS:
        with torch.no_grad():
            _ENDS[head] = torch.equal(head(kept[0][:1]).float(), logits_1V.float())
        if not _ENDS[head]:
            return summed_loss(model, head, batch)
    return _InParts.apply(kept[0], targets_S, head, rows), len(targets_S)


_LOGITS = 2**24
"""So many logits at a time: 64 MB in fp32."""

_ENDS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a head's output is the model's logits, where that has been looked at. Some models scale or cap them
afterwards; then only their own forward can compute them."""


class _InParts(torch.autograd.Function):
    """Summed cross-entropy of a frozen head's logits; the gradient of the hidden states is made along with it."""

    @staticmethod
    def forward(ctx: Any, hidden_SC: Tensor, targets_S: Tensor, head: nn.Module, rows: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_SC.device)
        grad_SC = torch.empty_like(hidden_SC) if hidden_SC.requires_grad else None
        for at in range(0, len(hidden_SC), rows):
            part_RC = hidden_SC[at : at + rows].detach().requires_grad_(grad_SC is not None)
            with torch.set_grad_enabled(grad_SC is not None):
                loss = F.cross_entropy(head(part_RC).float(), targets_S[at : at + rows], reduction="sum")
            total += loss.detach()
            if grad_SC is not None:
                (grad_SC[at : at + rows],) = torch.autograd.grad(loss, part_RC)
        ctx.save_for_backward(grad_SC)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (grad_SC,) = ctx.saved_tensors
        return grad_SC * grad.to(grad_SC.dtype), None, None, None


def _learned(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which positions' next tokens are learned, [B, T], and those tokens [S]."""
    targets_BT = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    learned_BT = targets_BT != IGNORE
    return learned_BT, targets_BT[learned_BT]


@contextmanager
def _narrowed(head: nn.Module, learned_BT: Tensor, whole: bool) -> Iterator[list[Tensor]]:
    """Inside, the head sees the learned positions' hidden states, or (not `whole`) the first of them; all are kept."""
    kept: list[Tensor] = []

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BTC = args[0]
        # Prompt and prefix tuning put virtual tokens before the text; none of them predicts a label.
        virtual = hidden_BTC.shape[1] - learned_BT.shape[1]
        kept.append(hidden_BTC[:, virtual:][learned_BT])
        return (kept[0] if whole else kept[0][:1], *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield kept
    finally:
        handle.remove()


def _forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    names = ("input_ids", "attention_mask", "position_ids", "image_features", "image_mask")
    logits: Tensor = model(**{name: batch[name] for name in names if name in batch}, use_cache=False).logits
    return logits


def _width(head: nn.Module) -> int:
    """The vocabulary's size, where the head says so."""
    return int(vars(head).get("out_features", 1))


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits.

    Raises:
        ValueError: the model has none.
    """
    while not isinstance(model, PreTrainedModel):
        model = model.get_base_model() if "get_base_model" in dir(type(model)) else model.module  # type: ignore[operator,assignment]
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings, so it is no language model")
    return head
