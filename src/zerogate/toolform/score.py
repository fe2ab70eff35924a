"""Log probabilities of chosen tokens, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zerogate.bases.loss import IGNORE, learned_logits, output_head
from zerogate.data.collate import Collator

POSITIONS = 8192
"""Positions per forward pass, padding included."""

NUMBERS = 2**27
"""Probabilities per forward pass: a large vocabulary has fewer positions."""


class Row(NamedTuple):
    """A sequence of which some tokens are scored.

    Attributes:
        ids: the sequence; the first token is never scored.
        start, end: the tokens that are.
    """

    ids: Sequence[int]
    start: int
    end: int


@torch.no_grad()
def log_probs(model: nn.Module, rows: Sequence[Row], pad_token_id: int, positions: int = POSITIONS) -> list[Tensor]:
    """For each row the log probability, in nats, of each of its chosen tokens given what stands before it.

    Args:
        model: a causal language model in eval mode.
        rows: each at least two tokens long.
        pad_token_id: what to pad with.
        positions: per forward pass.
    """
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for indices, logits_SV, targets_S in _logits(model, rows, pad_token_id, positions):
        chosen_S = torch.log_softmax(logits_SV.float(), -1).gather(-1, targets_S[:, None])[:, 0].cpu()
        for index, part in zip(indices, chosen_S.split([rows[i].end - rows[i].start for i in indices]), strict=True):
            found[index] = part
    return found


@torch.no_grad()
def token_log_probs(
    model: nn.Module, rows: Sequence[Row], token: int, pad_token_id: int, positions: int = POSITIONS
) -> list[Tensor]:
    """As `log_probs`, of one and the same token in the place of each of the chosen ones."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for indices, logits_SV, _ in _logits(model, rows, pad_token_id, positions):
        chosen_S = torch.log_softmax(logits_SV.float(), -1)[:, token].cpu()
        for index, part in zip(indices, chosen_S.split([rows[i].end - rows[i].start for i in indices]), strict=True):
            found[index] = part
    return found


def _logits(
    model: nn.Module, rows: Sequence[Row], pad_token_id: int, positions: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    head = output_head(model)
    device = next(head.parameters()).device
    collate = Collator(pad_token_id)
    vocabulary: int = next(head.parameters()).shape[0]
    positions = min(positions, max(1, NUMBERS // vocabulary))
    for batch in _batches([len(row.ids) for row in rows], positions):
        items = []
        for index in batch:
            row = rows[index]
            if not 1 <= row.start <= row.end <= len(row.ids):
                raise ValueError(f"tokens {row.start} to {row.end} of {len(row.ids)} cannot be scored")
            labels = [IGNORE] * row.start + list(row.ids[row.start : row.end]) + [IGNORE] * (len(row.ids) - row.end)
            items.append({"input_ids": list(row.ids), "labels": labels, "row": index})
        inputs = {name: tensor.to(device) for name, tensor in collate(items).items() if name != "rows"}
        yield batch, *learned_logits(model, head, inputs)


def _batches(lengths: Sequence[int], positions: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > positions:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
