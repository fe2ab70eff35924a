"""The prompts of every adapter in memory, in one store, and what a mixed batch of requests adds to its attention.

A served adapter is only its prompt keys and gated prompt values, written out once (`ZeroInitModel.written_out`). They
lie row by row in one tensor per layer, wherever there was room, as the cache of the text does in its pages. So a step
with a hundred adapters costs what a step with one costs: two look-ups, two small products. A request that shows images
has a set of its own for as long as it runs.

The tokens of a step come as one flat row. They are put into blocks of m tokens of one adapter each, and those blocks
are the rows of equation 7, as in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerogate.adapters.attention import prompt_attention

Written = Mapping[int, tuple[Tensor, Tensor]]
"""By layer index: keys [G, S, D] and gated values [H, S, D]."""

NOTHING = -1e30
"""Score of a place that holds no prompt. Finite, so that a softmax over such places alone is no NaN."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Where one adapter's prompts lie.

    Attributes:
        rows: of the store, one per prompt position.
        layers: which layers they add to.
        full: those in which every row holds a prompt.
    """

    rows: tuple[int, ...]
    layers: frozenset[int]
    full: frozenset[int]


class PromptStore:
    """Prompt keys and values of many adapters, by layer. Only the thread that runs the batches may change it.

    Args:
        device: where the model is.
        dtype: of its queries.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.size = 1  # row 0 holds nothing: the base's, and what fills up
        self.free: list[int] = []
        self.layers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # keys [R, G, D], values [R, H, D], scores [R]

    def put(self, written: Written) -> Placed:
        """Take in what an adapter adds; its layers may have different numbers of prompts."""
        longest = max((k_GSD.shape[1] for k_GSD, _ in written.values()), default=0)
        self._reserve(longest)
        rows = tuple(self.free.pop() for _ in range(longest))
        for layer, (k_GSD, v_HSD) in written.items():
            if layer not in self.layers:
                self.layers[layer] = self._empty(self.size, k_GSD, v_HSD)
            index = torch.tensor(rows[: k_GSD.shape[1]], device=self.device)
            keys, values, scores = self.layers[layer]
            keys[index] = k_GSD.transpose(0, 1).to(self.device, self.dtype)
            values[index] = v_HSD.transpose(0, 1).to(self.device, self.dtype)
            scores[index] = 0.0
        full = frozenset(layer for layer, (k_GSD, _) in written.items() if k_GSD.shape[1] == longest)
        return Placed(rows, frozenset(written), full)

    def drop(self, placed: Placed) -> None:
        """Forget an adapter's prompts."""
        if not placed.rows:
            return
        index = torch.tensor(placed.rows, device=self.device)
        for layer in placed.layers:
            keys, values, scores = self.layers[layer]
            keys[index], values[index], scores[index] = 0.0, 0.0, NOTHING
        self.free += placed.rows

    def _empty(self, size: int, k_GSD: Tensor, v_HSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (G, _, D), H = k_GSD.shape, v_HSD.shape[0]
        keys = torch.zeros(size, G, D, dtype=self.dtype, device=self.device)
        values = torch.zeros(size, H, v_HSD.shape[-1], dtype=self.dtype, device=self.device)
        return keys, values, torch.full((size,), NOTHING, dtype=torch.float32, device=self.device)

    def _reserve(self, rows: int) -> None:
        if len(self.free) >= rows:
            return
        grown = max(64, 2 * self.size, self.size + rows)
        self.free += range(grown - 1, self.size - 1, -1)
        for layer, (keys, values, scores) in self.layers.items():
            wider = self._empty(grown, keys.transpose(0, 1), values.transpose(0, 1))
            for new, old in zip(wider, (keys, values, scores), strict=True):
                new[: self.size] = old
            self.layers[layer] = wider
        self.size = grown


class Packing:
    """The tokens of one step in blocks, each of one adapter's.

    Args:
        store: the prompts.
        places: of each request in the batch, None for the plain base.
        lengths: tokens of each request.
    """

    def __init__(self, store: PromptStore, places: Sequence[Placed | None], lengths: Sequence[int]) -> None:
        self.store = store
        self.layers = frozenset[int]().union(*(place.layers for place in places if place is not None))
        tokens: dict[int, list[int]] = {}  # of each adapter
        rows: dict[int, tuple[int, ...]] = {}
        start = 0
        for place, length in zip(places, lengths, strict=True):
            if place is not None and place.rows:
                tokens.setdefault(id(place), []).extend(range(start, start + length))
                rows[id(place)] = place.rows
            start += length
        used = [place for place in places if place is not None and place.rows]
        self.longest = max((len(place.rows) for place in used), default=0)
        # Layers in which every place of every block holds a prompt, so that none has to be masked.
        even = all(len(place.rows) == self.longest for place in used)
        self.full = frozenset.intersection(*(place.full for place in used)) if used and even else frozenset()
        self.width = self._width([len(t) for t in tokens.values()])
        slots: list[int] = []  # block by block, which token is there; a block that is not full repeats its first
        index: list[int] = []  # block by block, the rows of its prompts
        slot_of: dict[int, int] = {}  # of each token
        for name, own in tokens.items():
            for first in range(0, len(own), self.width):
                block = own[first : first + self.width]
                slot_of |= zip(block, range(len(slots), len(slots) + len(block)), strict=True)
                slots += block + block[:1] * (self.width - len(block))
                index += rows[name] + (0,) * (self.longest - len(rows[name]))
        to = store.device
        self.slots, self.index = torch.tensor(slots, device=to), torch.tensor(index, device=to)
        back = sorted(slot_of)
        self.takes = torch.tensor([slot_of[token] for token in back], device=to)
        self.back = None if len(back) == start else torch.tensor(back, device=to)  # None: all of them

    def _width(self, counts: list[int]) -> int:
        """m: wide blocks waste slots, narrow ones look the same prompts up again and again."""
        if not counts:
            return 1
        widths = [1 << power for power in range(max(counts).bit_length() + 1)]
        return min(widths, key=lambda m: sum(-(-count // m) for count in counts) * (m + self.longest))

    def add_to(
        self, out_THD: Tensor, layer: int, q_1HTD: Tensor, scaling: float, softcap: float | None = None
    ) -> Tensor:
        """Adds to the attention output [T, H, D], in place, what each token's adapter adds there."""
        if layer not in self.layers:
            return out_THD
        keys, values, scores = self.store.layers[layer]
        k_BKGD, v_BKHD = (x.index_select(0, self.index).unflatten(0, (-1, self.longest)) for x in (keys, values))
        mask_BK = None
        if layer not in self.full:
            mask_BK = scores.index_select(0, self.index).unflatten(0, (-1, self.longest))
        q_BmHD = q_1HTD[0].transpose(0, 1).index_select(0, self.slots).unflatten(0, (-1, self.width))
        if softcap is None:
            extra_BmHD = _few_keys(q_BmHD, k_BKGD, v_BKHD, mask_BK, scaling)
        else:
            q_BHmD, k_BGKD, v_BHKD = (x.transpose(1, 2) for x in (q_BmHD, k_BKGD, v_BKHD))
            extra_BmHD = prompt_attention(q_BHmD, k_BGKD, v_BHKD, scaling, softcap, mask_BK)
        extra_THD = extra_BmHD.flatten(0, 1).index_select(0, self.takes)
        return out_THD.add_(extra_THD) if self.back is None else out_THD.index_add_(0, self.back, extra_THD)


def _few_keys(q_BmHD: Tensor, k_BKGD: Tensor, v_BKHD: Tensor, mask_BK: Tensor | None, scaling: float) -> Tensor:
    """`prompt_attention` for many small blocks, [B, m, H, D]: scores lie with the prompts before the queries.

    A softmax over the ten numbers of a row is slow, one over ten rows is not: the whole takes less than half the time.
    """
    m, H, G = *q_BmHD.shape[1:3], k_BKGD.shape[2]
    q_BGMD = q_BmHD.unflatten(2, (G, H // G)).transpose(1, 2).flatten(2, 3)  # a group's heads: M = m H/G queries
    scores_BGKM = (k_BKGD.transpose(1, 2) @ q_BGMD.transpose(2, 3)).float() * scaling
    if mask_BK is not None:
        scores_BGKM += mask_BK[:, None, :, None]
    probs_BGKM = scores_BGKM.softmax(dim=2).to(v_BKHD.dtype)
    probs_BHmK = probs_BGKM.unflatten(3, (m, H // G)).permute(0, 1, 4, 3, 2).flatten(1, 2)
    return (probs_BHmK @ v_BKHD.transpose(1, 2)).transpose(1, 2)
