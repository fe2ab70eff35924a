"""Put encoded texts of different length into one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pad_text(examples: list[dict[str, Any]], pad_token_id: int, labels_per_token: bool) -> dict[str, Tensor]:
    """Pad on the right.

    Args:
        examples: each with `row`, `input_ids`, perhaps `token_type_ids`, and `labels`.
        pad_token_id: for `input_ids`.
        labels_per_token: `labels` are one per token, and padded with -100; else every example has as many.

    Returns:
        `input_ids`, `attention_mask` (and `token_type_ids`) [B, T], `labels`, and `rows` [B].
    """
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor([e[name] + [fill] * (longest - len(e["input_ids"])) for e in examples])

    batch = {
        "input_ids": padded("input_ids", pad_token_id),
        "attention_mask": torch.tensor([[int(i < len(e["input_ids"])) for i in range(longest)] for e in examples]),
        "rows": torch.tensor([example["row"] for example in examples]),
    }
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = padded("token_type_ids", 0)
    batch["labels"] = (
        padded("labels", -100) if labels_per_token else torch.tensor([example["labels"] for example in examples])
    )
    return batch
