"""Pad sequences of one batch on the right and remember which rows they are."""

from typing import Any

import torch

from zerogate.bases.loss import IGNORE


class Collator:
    """Turn dataset items into a batch.

    Args:
        pad_token_id: what to pad with. Padded positions are masked from attention and from the loss, so any id does.
        features: of all images, [images, F]; an item's `shown` says which are its own. None: there are no images.

    The batch holds `input_ids`, `attention_mask` and `labels` of shape [B, T], int64, and `rows` [B]: the source
    row of each sequence. With images also `image_features` [B, N, F] and `image_mask` [B, N], N at least 1.
    """

    def __init__(self, pad_token_id: int, features: torch.Tensor | None = None) -> None:
        self.pad_token_id, self.features = pad_token_id, features

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate items with `input_ids`, `labels` and `row`, and `shown` where there are features."""
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
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT, "rows": rows_B}
        return batch if self.features is None else {**batch, **self._images([item["shown"] for item in items])}

    def _images(self, shown: list[list[int]]) -> dict[str, torch.Tensor]:
        assert self.features is not None
        most = max(1, max(map(len, shown)))
        features_BNF = self.features.new_zeros(len(shown), most, self.features.shape[1])
        mask_BN = torch.zeros(len(shown), most, dtype=torch.bool)
        for b, places in enumerate(shown):
            features_BNF[b, : len(places)] = self.features[places]
            mask_BN[b, : len(places)] = True
        return {"image_features": features_BNF, "image_mask": mask_BN}
