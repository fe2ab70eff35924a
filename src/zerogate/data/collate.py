"""Pad sequences of one batch on the right and remember which rows they are."""

from typing import Any

import torch

from zerogate.data.encode import IGNORE


class Collator:
    """Turn dataset items into a batch.

    Args:
        pad_token_id: what to pad with. Padded positions are masked from attention and from the loss, so any id does.

    The batch holds `input_ids`, `attention_mask` and `labels` of shape [B, T], int64, and `rows` [B]: the source
    row of each sequence.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate items with `input_ids`, `labels` and `row`."""
        longest = max(len(item["input_ids"]) for item in items)
        ids_BT = torch.full((len(items), longest), self.pad_token_id, dtype=torch.int64)
        labels_BT = torch.full_like(ids_BT, IGNORE)
        mask_BT = torch.zeros_like(ids_BT)
        for b, item in enumerate(items):
            length = len(item["input_ids"])
            ids_BT[b, :length] = torch.as_tensor(item["input_ids"])
            labels_BT[b, :length] = torch.as_tensor(item["labels"])
            mask_BT[b, :length] = 1
        rows_B = torch.tensor([item["row"] for item in items])
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT, "rows": rows_B}
