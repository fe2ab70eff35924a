"""What is before the calls of a text is computed once: the calls at all its places go on from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from zerogate.bases.decode import padding_tells

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def shared_cache(
    model: PreTrainedModel, prefixes: Sequence[Sequence[int]], texts: Sequence[int], pad_token_id: int
) -> dict[str, Any]:
    """Keys and values of rows of a left-padded batch, of which several begin the same text.

    Args:
        model: in eval mode.
        prefixes: what each row begins with. One of several rows of a text is the beginning of another.
        texts: which text a row is of.
        pad_token_id: what to pad with.

    Returns:
        `past_key_values` for `generate`, or nothing for models whose layers keep something else than keys and values of
        all positions (sliding windows, states) and for methods that put a cache of their own there.
    """
    kinds = DynamicCache(config=model.config).layers
    own = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    if own or padding_tells(model) or any(type(kind) is not DynamicLayer for kind in kinds):
        return {}
    longest: dict[int, Sequence[int]] = {}
    for text, prefix in zip(texts, prefixes, strict=True):
        longest[text] = max(longest.get(text, ()), prefix, key=len)
    places = {text: place for place, text in enumerate(longest)}
    width = max(map(len, longest.values()))
    ids_NT = torch.full((len(longest), width), pad_token_id, dtype=torch.long)
    mask_NT = torch.zeros_like(ids_NT)
    for text, ids in longest.items():
        ids_NT[places[text], : len(ids)] = torch.as_tensor(ids)
        mask_NT[places[text], : len(ids)] = 1
    computed = model(
        input_ids=ids_NT.to(model.device), attention_mask=mask_NT.to(model.device), use_cache=True, logits_to_keep=1
    ).past_key_values
    cache = DynamicCache(config=model.config)
    for number, layer in enumerate(computed.layers):
        aligned = []
        for kept_NHTD in (layer.keys, layer.values):
            new_BHTD = kept_NHTD.new_zeros((len(prefixes), *kept_NHTD.shape[1:]))
            for row, prefix in enumerate(prefixes):
                new_BHTD[row, :, width - len(prefix) :] = kept_NHTD[places[texts[row]], :, : len(prefix)]
            aligned.append(new_BHTD)
        cache.update(*aligned, number)
    return {"past_key_values": cache}
