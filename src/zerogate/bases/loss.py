"""The loss over the learned positions only. Prompts fill most of an instruction record; nothing is computed for
them past the last layer.

A hook narrows what the model's head is given to the positions whose next token is learned, so the `[B, T, V]`
logits never exist. The model's own forward runs otherwise unchanged (also inside DDP), with whatever scaling or
soft cap it puts on its logits.
"""

from typing import Any

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
            With images also `image_features` and `image_mask`, for an adapter that takes them.

    Returns:
        logits_SV of the S learned positions, in the model's dtype, and their targets_S, int64.
    """
    labels_BT = batch["labels"]
    targets_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
    learned_BT = targets_BT != IGNORE

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_BTC = args[0]
        # Prompt and prefix tuning put virtual tokens before the text; none of them predicts a label.
        virtual = hidden_BTC.shape[1] - learned_BT.shape[1]
        return (hidden_BTC[:, virtual:][learned_BT], *args[1:])

    images = {name: batch[name] for name in ("image_features", "image_mask") if name in batch}
    handle = head.register_forward_pre_hook(narrow)
    try:
        logits_SV = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **images
        ).logits
    finally:
        handle.remove()
    return logits_SV, targets_BT[learned_BT]


def summed_loss(model: nn.Module, head: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """Cross-entropy in nats summed over the learned tokens of a batch, in fp32, and how many there are."""
    logits_SV, targets_S = learned_logits(model, head, batch)
    return F.cross_entropy(logits_SV.float(), targets_S, reduction="sum"), targets_S.numel()


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
