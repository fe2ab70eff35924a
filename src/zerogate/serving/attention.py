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


_CACHED = 2**19
"""Numbers of keys that a group looks at, on a CPU: read once, they are still in its cache when they are used."""

_MOST_GROUPS = 8
"""Most key heads for which products over all of them at once are worth their zeros (`_all_heads`)."""


class Group:
    """Requests of one step that attend in one call.

    Args:
        tokens: positions of their queries in the flat row [n * q].
        starts, lengths: where the keys of each request begin among those of the step, and how many they are.
        queries: q, of each request.
        window: how far back a query sees, or None.
        read: where the step's keys lie in the cache; empty where they are those of the step itself.
    """

    def __init__(
        self, tokens: list[int], starts: list[int], lengths: list[int], queries: int, window: int | None, read: Tensor
    ) -> None:
        device = read.device
        self.n, self.q, self.keys = len(starts), queries, max(lengths)
        self.tokens = torch.tensor(tokens, device=device)
        lengths_N1 = torch.tensor(lengths, device=device)[:, None]
        place_NS = torch.arange(self.keys, device=device)[None].minimum(lengths_N1 - 1)  # past the end: the last again
        self.order = (torch.tensor(starts, device=device)[:, None] + place_NS).flatten()
        self.index = read.index_select(0, self.order) if read.numel() else self.order
        # The last query of a request is at its last key.
        at_NQ1 = (lengths_N1 - queries + torch.arange(queries, device=device))[:, :, None]
        key_S = torch.arange(self.keys, device=device)
        self.sees_N1QS = (key_S <= at_NQ1)[:, None]
        if window is not None:
            self.sees_N1QS &= (key_S > at_NQ1 - window)[:, None]
        self.plain = bool(self.sees_N1QS.all())
        self.bias_N1S: Tensor | None = None
        if queries == 1 and not self.plain:
            self.bias_N1S = torch.zeros(self.n, 1, self.keys, device=device).masked_fill(
                ~self.sees_N1QS[:, 0], -torch.inf
            )

    def attend(self, q_THD: Tensor, keys: Tensor, values: Tensor, scaling: float, softcap: float | None) -> Tensor:
        """[n * q, H, D], from the group's own keys and values [n * keys, G, D]."""
        G, H = keys.shape[1], q_THD.shape[1]
        q_NQHD = q_THD.index_select(0, self.tokens).unflatten(0, (self.n, self.q))
        k_NSGD, v_NSGD = (x.unflatten(0, (self.n, self.keys)) for x in (keys, values))
        if self.q == 1 and softcap is None and not keys.is_cuda and 1 < G <= _MOST_GROUPS:
            return _all_heads(q_NQHD[:, 0], k_NSGD, v_NSGD, self.bias_N1S, scaling)
        r = H // G
        # The r query heads of one group are as many queries of its one key head: nothing is copied r times.
        q_NGMD = q_NQHD.unflatten(2, (G, r)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        k, v = k_NSGD.transpose(1, 2), v_NSGD.transpose(1, 2)
        mask = None if self.plain else self.sees_N1QS.repeat(1, 1, r, 1)
        if softcap is None:
            out_NGMD = F.scaled_dot_product_attention(q_NGMD, k, v, attn_mask=mask, scale=scaling)
        else:
            scores = softcap * torch.tanh((q_NGMD @ k.transpose(-1, -2)).float() * scaling / softcap)
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            out_NGMD = scores.softmax(-1).to(v.dtype) @ v
        out = out_NGMD.unflatten(2, (r, self.q)).permute(0, 3, 1, 2, 4)  # [n, q, G, r, D]
        return out.reshape(self.n * self.q, H, v.shape[-1])


def _all_heads(q_NHD: Tensor, k_NSGD: Tensor, v_NSGD: Tensor, bias_N1S: Tensor | None, scaling: float) -> Tensor:
    """Attention of one query per request, [n, H, D], on a CPU.

    Keys come from the cache token by token, all heads beside each other. Taking the heads apart costs more than the
    products; so queries are spread out with zeros for the other heads, and all is one product of whole rows.
    """
    (N, H, D), G = q_NHD.shape, k_NSGD.shape[2]
    own_GG = torch.eye(G, dtype=q_NHD.dtype)
    q_NHF = (q_NHD.unflatten(1, (G, -1))[:, :, :, None] * own_GG[:, None, :, None]).reshape(N, H, G * D)
    scores_NHS = (q_NHF @ k_NSGD.flatten(2).transpose(1, 2)).float() * scaling
    if bias_N1S is not None:
        scores_NHS += bias_N1S
    out_NHF = scores_NHS.softmax(-1).to(v_NSGD.dtype) @ v_NSGD.flatten(2)
    return (
        out_NHF.unflatten(1, (G, -1)).unflatten(3, (G, -1)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).flatten(1, 2)
    )


class Step:
    """One step of the batch, for the attention of all layers.

    Args:
        lengths: per request, how many tokens it brings.
        ends: by layer type, where each request's keys end in the row of all keys.
        packing: the prompts of its adapters; None where all run on the plain base, or on an adapter in the model.
    """

    def __init__(self, lengths: list[int], ends: dict[str, list[int]], packing: Packing | None) -> None:
        self.lengths, self.ends, self.packing = lengths, ends, packing
        self.groups: dict[str, list[Group]] = {}  # by layer type

    def grouped(self, kind: str, read: Tensor, window: int | None, width: int) -> list[Group]:
        """The groups for layers of one type, whose keys have so many numbers per token."""
        if kind not in self.groups:
            ends = self.ends[kind]
            singles: dict[int, list[tuple[int, int, int]]] = {}
            groups, start = [], 0
            for count, first, end in zip(self.lengths, [0, *ends], ends, strict=False):
                if count == 1:
                    # Of like lengths, so that little is padding: up to 64, 128, 256, ...
                    singles.setdefault(max(6, (end - first - 1).bit_length()), []).append((start, first, end - first))
                else:
                    tokens = list(range(start, start + count))
                    groups.append(Group(tokens, [first], [end - first], count, window, read))
                start += count
            for power, found in singles.items():
                most = len(found) if read.is_cuda else max(1, _CACHED // (width << power))
                for at in range(0, len(found), most):
                    tokens, starts, lengths = (list(column) for column in zip(*found[at : at + most], strict=True))
                    groups.append(Group(tokens, starts, lengths, 1, None, read))  # one token sees all that is kept
            self.groups[kind] = groups
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
    read, write = kwargs["read_index"][allocator.index], kwargs["write_index"][allocator.index]
    k_TGD, v_TGD = key[0].transpose(0, 1), value[0].transpose(0, 1)
    groups = step.grouped(kind, read, getattr(allocator, "sliding_window", None), k_TGD[0].numel())
    if kind == FULL_ATTENTION and read.numel():
        # Written as transformers writes them; read group by group, while what was read is at hand.
        allocator.update(k_TGD, v_TGD, layer, read[:0], write)
        keys, values = (pages.flatten(0, 1) for pages in allocator.get_cache_for_block_table(layer))
        where = [group.index for group in groups]
    else:
        keys, values = allocator.update(k_TGD, v_TGD, layer, read, write)
        where = [group.order for group in groups]
    q_THD = query[0].transpose(0, 1)
    out_THD = q_THD.new_empty(*q_THD.shape[:2], values.shape[-1])
    for group, index in zip(groups, where, strict=True):
        part = group.attend(q_THD, keys.index_select(0, index), values.index_select(0, index), scaling, softcap)
        out_THD.index_copy_(0, group.tokens, part)
    if step.packing is not None:
        out_THD = step.packing.add_to(out_THD, layer, query, scaling, softcap)
    return out_THD[None], None


AttentionInterface.register(NAME, paged_attention)
