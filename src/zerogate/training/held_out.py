"""Held-out loss: mean cross-entropy per learned token, exact whatever the batching. With no adapter it is the
base's own.

result = held_out_loss(model, data.held_out, tokenizer.pad_token_id)
with model.disable_adapter():
    base = held_out_loss(model, data.held_out, tokenizer.pad_token_id)
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from zerogate.bases.loss import learned_logits, output_head
from zerogate.data.collate import Collator
from zerogate.data.encode import Encoded

# Positions per forward pass, padding included: batches of short sequences hold more of them.
_POSITIONS = 8192


@dataclass(frozen=True)
class HeldOut:
    """A measurement.

    Attributes:
        loss: nats per learned token.
        accuracy: share of learned tokens that are the model's first choice, each given the true text before it.
        tokens: how many learned tokens.
    """

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """e to the loss."""
        return math.exp(self.loss)


@torch.no_grad()
def held_out_loss(model: nn.Module, encoded: Encoded, pad_token_id: int, *, rank: int = 0, world: int = 1) -> HeldOut:
    """Measure a model on encoded data; draws nothing from any random generator.

    Args:
        model: a causal language model, possibly with an adapter.
        encoded: what to measure on.
        pad_token_id: what to pad with.
        rank, world: with several processes, which of how many this is; the sums are then added over all of them.
    """
    head = output_head(model)
    device = next(head.parameters()).device
    collate = Collator(pad_token_id, encoded.features)
    was_training = model.training
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    try:
        for batch_indices in _batches(encoded.lengths)[rank::world]:
            items = collate([encoded.item(i) for i in batch_indices])
            batch = {name: tensor.to(device) for name, tensor in items.items()}
            logits_SV, targets_S = learned_logits(model, head, batch)
            loss = nn.functional.cross_entropy(logits_SV.float(), targets_S, reduction="sum")
            right = (logits_SV.argmax(-1) == targets_S).sum()
            sums += torch.stack([loss.double(), right.double(), torch.tensor(float(targets_S.numel()))]).cpu()
    finally:
        model.train(was_training)
    if world > 1:
        torch.distributed.all_reduce(sums_on := sums.to(device))
        sums = sums_on.cpu()
    loss_sum, right_sum, tokens = sums.tolist()
    return HeldOut(loss=loss_sum / tokens, accuracy=right_sum / tokens, tokens=int(tokens))


def _batches(lengths: np.ndarray) -> list[list[int]]:
    """Group indices of like length so that no batch has more than `_POSITIONS` positions; every index once."""
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(lengths, kind="stable").tolist():
        longest = max(longest, int(lengths[index]))
        if not batches or (len(batches[-1]) + 1) * longest > _POSITIONS:
            batches.append([])
            longest = int(lengths[index])
        batches[-1].append(index)
    return batches
