"""Attention of a flat batch over the paged cache: each request attends to its own keys, and only to those.

transformers' continuous batching hands sdpa all tokens of all requests as one row, with a mask in which every token
sees the keys of its own request and minus infinity everywhere else. With N requests of length L that is N * N * L
scores of which N * L are wanted: for 200 streams, 99.5 % of the work is thrown away (flash-attention's kernels for
ragged batches know better, and need a GPU). So the paged cache stays transformers', and this function takes its place
under a name of its own: requests with one new token go together, grouped by length and padded within a group;
those with more (prompts being read) one by one. At its end come the adapters' prompts (`prompts.py`).

What a step looks like is worked out once (`Step`) and serves all layers. It travels in the cache object, which
transformers passes to every attention call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION

from zerogate.serving.prompts import Packing

NAME = "zerogate_paged"


class Group:
    """Requests of one step that attend in one call.

    Args:
        tokens: positions of their queries in the flat row [n * q].
        starts, lengths: where the keys of each request begin among those of the step, and how many they are.
        queries: q, of each request.
        window: how far back a query sees, or None.
    """

    def __init__(
        self, tokens: list[int], starts: list[int], lengths: list[int], queries: int, window: int | None, device: Any
    ) -> None:
        self.n, self.q, self.keys = len(starts), queries, max(lengths)
        self.tokens = torch.tensor(tokens, device=device)
        lengths_N1 = torch.tensor(lengths, device=device)[:, None]
        place_NS = torch.arange(self.keys, device=device)[None].minimum(lengths_N1 - 1)  # past the end: the last again
        self.index = (torch.tensor(starts, device=device)[:, None] + place_NS).flatten()
        # The last query of a request is at its last key.
        at_NQ1 = (lengths_N1 - queries + torch.arange(queries, device=device))[:, :, None]
        key_S = torch.arange(self.keys, device=device)
        self.sees_N1QS = (key_S <= at_NQ1)[:, None]
        if window is not None:
            self.sees_N1QS &= (key_S > at_NQ1 - window)[:, None]
        self.plain = bool(self.sees_N1QS.all())

    def attend(self, q_THD: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """[n * q, H, D], from the step's keys and values [keys, G, D] of this group."""
        G, (_, H, D) = keys.shape[1], q_THD.shape
        r = H // G
        q = q_THD.index_select(0, self.tokens).unflatten(0, (self.n, self.q))
        # The r query heads of one group are as many queries of its one key head: nothing is copied r times.
        q_NGMD = q.unflatten(2, (G, r)).permute(0, 2, 3, 1, 4).reshape(self.n, G, r * self.q, D)
        k, v = (x.unflatten(0, (self.n, self.keys)).transpose(1, 2) for x in (keys, values))
        mask = None if self.plain else self.sees_N1QS.repeat(1, 1, r, 1)
        if softcap is None:
            out_NGMD = F.scaled_dot_product_attention(q_NGMD, k, v, attn_mask=mask, scale=scaling)
        else:
            scores = softcap * torch.tanh((q_NGMD @ k.transpose(-1, -2)).float() * scaling / softcap)
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            out_NGMD = scores.softmax(-1).to(v.dtype) @ v
        out = out_NGMD.unflatten(2, (r, self.q)).permute(0, 3, 1, 2, 4)  # [n, q, G, r, D]
        return out.reshape(self.n * self.q, H, v.shape[-1])


class Step:
    """One step of the batch, for the attention of all layers.

    Args:
        lengths: per request, how many tokens it brings.
        ends: by layer type, where each request's keys end in the row of all keys.
        packing: the prompts of its adapters; None where all run on the plain base, or on an adapter in the model.
    """

    def __init__(self, lengths: list[int], ends: dict[str, list[int]], packing: Packing | None) -> None:
        self.lengths, self.ends, self.packing = lengths, ends, packing
        self.groups: dict[str, tuple[list[Group], Tensor]] = {}  # by layer type, with the index of all its reads

    def grouped(self, kind: str, read: Tensor, window: int | None) -> tuple[list[Group], Tensor]:
        """The groups for layers of one type, and where their keys are read, one group after the other."""
        if kind not in self.groups:
            device, ends = read.device, self.ends[kind]
            singles: dict[int, list[tuple[int, int, int]]] = {}
            groups, start = [], 0
            for count, first, end in zip(self.lengths, [0, *ends], ends, strict=False):
                if count == 1:
                    # Of like lengths, so that little is padding: up to 64, 128, 256, ...
                    singles.setdefault(max(6, (end - first - 1).bit_length()), []).append((start, first, end - first))
                else:
                    tokens = list(range(start, start + count))
                    groups.append(Group(tokens, [first], [end - first], count, window, device))
                start += count
            for found in singles.values():
                tokens, starts, lengths = (list(column) for column in zip(*found, strict=True))
                groups.append(Group(tokens, starts, lengths, 1, None, device))  # a single token sees all that is kept
            index = torch.cat([group.index for group in groups])
            self.groups[kind] = groups, read.index_select(0, index) if read.numel() else index
        return self.groups[kind]


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers calls an attention function: query [1, H, T, D], key and value [1, G, T, D]; gives [1, T, H, D].

    Raises:
        ValueError: called without the cache of a running batch.
    """
    step: Step | None = getattr(cache, "step", None)  # transformers calls every attention function with what it has
    if step is None:
        raise ValueError(f"{NAME} runs inside of zerogate's server only; set another attn_implementation")
    layer: Any = module.layer_idx
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    allocator = cache.layer_to_allocator[layer]
    kind = allocator.layer_type
    given, write = kwargs["read_index"][allocator.index], kwargs["write_index"][allocator.index]
    window = getattr(allocator, "sliding_window", None)  # only allocators of sliding layers have one
    groups, read = step.grouped(kind, given, window)
    k_TGD, v_TGD = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if kind == FULL_ATTENTION and given.numel():
        keys, values = allocator.update(k_TGD, v_TGD, layer, read, write)  # in the order of the groups at once
    else:
        keys, values = allocator.update(k_TGD, v_TGD, layer, given, write)
        order = torch.cat([group.index for group in groups])
        keys, values = keys.index_select(0, order), values.index_select(0, order)
    q_THD = query[0].transpose(0, 1)
    out_THD = q_THD.new_empty(*q_THD.shape[:2], values.shape[-1])
    start = 0
    for group in groups:
        end = start + group.n * group.keys
        part = group.attend(q_THD, keys[start:end], values[start:end], scaling, softcap)
        out_THD.index_copy_(0, group.tokens, part)
        start = end
    if step.packing is not None:
        out_THD = step.packing.add_to(out_THD, layer, query, scaling, softcap)
    return out_THD[None], None


AttentionInterface.register(NAME, paged_attention)
