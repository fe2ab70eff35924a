"""The prompts of every adapter in memory, in one store, and what a mixed batch of requests adds to its attention.

A served adapter is only its prompt keys, prompt values and gates, written out once (`ZeroInitModel.written_out`). They
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

Written = Mapping[int, tuple[Tensor, Tensor, Tensor]]
"""By layer index: keys and values [G, S, D], gates [H]."""

NOTHING = -1e30
"""Score of a place that holds no prompt. Finite, so that a softmax over such places alone is no NaN."""

NARROW, FEW_HEADS = 8, 8
"""Most tokens of a block, and most key heads, for which queries are spread out (`_spread`)."""


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


@dataclass
class LayerStore:
    """The prompts of one layer, row by row.

    Attributes:
        pairs: keys and values, [R, 2, G, D].
        gates: of the adapter a row belongs to, [R, H], in fp32.
        scores: 0, or `NOTHING` where a row holds no prompt, [R].
    """

    pairs: Tensor
    gates: Tensor
    scores: Tensor

    @classmethod
    def empty(cls, rows: int, G: int, D: int, H: int, dtype: torch.dtype, device: torch.device) -> LayerStore:
        """No prompts yet."""
        return cls(
            torch.zeros(rows, 2, G, D, dtype=dtype, device=device),
            torch.zeros(rows, H, device=device),
            torch.full((rows,), NOTHING, device=device),
        )

    def grown(self, rows: int) -> LayerStore:
        """The same, with more room."""
        _, _, G, D = self.pairs.shape
        wider = LayerStore.empty(rows, G, D, self.gates.shape[1], self.pairs.dtype, self.pairs.device)
        for new, old in ((wider.pairs, self.pairs), (wider.gates, self.gates), (wider.scores, self.scores)):
            new[: len(old)] = old
        return wider


class PromptStore:
    """The prompts of many adapters. Only the thread that runs the batches may change it.

    Args:
        device: where the model is.
        dtype: of its queries.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.size = 1  # row 0 holds nothing: it fills up
        self.free: list[int] = []
        self.layers: dict[int, LayerStore] = {}

    def put(self, written: Written) -> Placed:
        """Take in what an adapter adds; its layers may have different numbers of prompts."""
        longest = max((k_GSD.shape[1] for k_GSD, _, _ in written.values()), default=0)
        self._reserve(longest)
        rows = tuple(self.free.pop() for _ in range(longest))
        everywhere = torch.tensor(rows, device=self.device)
        for layer, (k_GSD, v_GSD, gate_H) in written.items():
            if layer not in self.layers:
                G, _, D = k_GSD.shape
                self.layers[layer] = LayerStore.empty(self.size, G, D, len(gate_H), self.dtype, self.device)
            store, index = self.layers[layer], everywhere[: k_GSD.shape[1]]
            store.pairs[index] = torch.stack([k_GSD, v_GSD]).permute(2, 0, 1, 3).to(self.device, self.dtype)
            store.gates[everywhere] = gate_H.to(self.device)
            store.scores[index] = 0.0
        full = frozenset(layer for layer, (k_GSD, _, _) in written.items() if k_GSD.shape[1] == longest)
        return Placed(rows, frozenset(written), full)

    def drop(self, placed: Placed) -> None:
        """Forget an adapter's prompts."""
        if not placed.rows:
            return
        index = torch.tensor(placed.rows, device=self.device)
        for layer in placed.layers:
            store = self.layers[layer]
            store.pairs[index], store.gates[index], store.scores[index] = 0.0, 0.0, NOTHING
        self.free += placed.rows

    def _reserve(self, rows: int) -> None:
        if len(self.free) >= rows:
            return
        grown = max(64, 2 * self.size, self.size + rows)
        self.free += range(grown - 1, self.size - 1, -1)
        self.layers = {layer: store.grown(grown) for layer, store in self.layers.items()}
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
        firsts: list[int] = []  # and the first of them, which knows the gates
        slot_of: dict[int, int] = {}  # of each token
        for name, own in tokens.items():
            for first in range(0, len(own), self.width):
                block = own[first : first + self.width]
                slot_of |= zip(block, range(len(slots), len(slots) + len(block)), strict=True)
                slots += block + block[:1] * (self.width - len(block))
                firsts.append(rows[name][0])
                index += rows[name] + (0,) * (self.longest - len(rows[name]))
        to = store.device
        self.slots, self.index = torch.tensor(slots, device=to), torch.tensor(index, device=to)
        self.firsts = torch.tensor(firsts, device=to)
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
        store = self.store.layers[layer]
        pairs_BK2GD = store.pairs.index_select(0, self.index).unflatten(0, (-1, self.longest))
        k_BKGD, v_BKGD = pairs_BK2GD.unbind(2)
        gate_BH = store.gates.index_select(0, self.firsts)
        mask_BK = None
        if layer not in self.full:
            mask_BK = store.scores.index_select(0, self.index).unflatten(0, (-1, self.longest))
        q_BmHD = q_1HTD[0].transpose(0, 1).index_select(0, self.slots).unflatten(0, (-1, self.width))
        if softcap is None and self.width <= NARROW and k_BKGD.shape[2] <= FEW_HEADS:
            extra_BmHD = _spread(q_BmHD, k_BKGD, v_BKGD, gate_BH, mask_BK, scaling)
        else:
            r = gate_BH.shape[1] // k_BKGD.shape[2]
            v_BHKD = (v_BKGD.repeat_interleave(r, 2).float() * gate_BH[:, None, :, None]).to(v_BKGD.dtype)
            q_BHmD, k_BGKD, v_BHKD = (x.transpose(1, 2) for x in (q_BmHD, k_BKGD, v_BHKD))
            extra_BmHD = prompt_attention(q_BHmD, k_BGKD, v_BHKD, scaling, softcap, mask_BK)
        extra_THD = extra_BmHD.flatten(0, 1).index_select(0, self.takes)
        return out_THD.add_(extra_THD) if self.back is None else out_THD.index_add_(0, self.back, extra_THD)


def _spread(
    q_BmHD: Tensor, k_BKGD: Tensor, v_BKGD: Tensor, gate_BH: Tensor, mask_BK: Tensor | None, scaling: float
) -> Tensor:
    """`prompt_attention` for many small blocks: [B, m, H, D].

    Here moving numbers costs more than multiplying them. So keys and values stay as they were looked up, all heads
    beside each other, and each query is spread out with zeros in the other heads' places. And a softmax over the ten
    numbers of a row is slow, one over ten rows is not: scores lie with the prompts before the queries.
    """
    (m, H, D), G = q_BmHD.shape[1:], k_BKGD.shape[2]
    own_GG = torch.eye(G, dtype=q_BmHD.dtype, device=q_BmHD.device)
    q_BmGrGD = q_BmHD.unflatten(2, (G, H // G))[..., None, :] * own_GG[:, None, :, None]
    q_BMF = q_BmGrGD.reshape(-1, m * H, G * D)
    scores_BKM = (k_BKGD.flatten(2) @ q_BMF.transpose(1, 2)).float() * scaling
    if mask_BK is not None:
        scores_BKM += mask_BK[:, :, None]
    probs_BKM = scores_BKM.softmax(dim=1).unflatten(2, (m, H)) * gate_BH[:, None, None]
    out_BMF = probs_BKM.flatten(2).to(v_BKGD.dtype).transpose(1, 2) @ v_BKGD.flatten(2)
    out_BmGrGD = out_BMF.unflatten(1, (m, G, H // G)).unflatten(4, (G, D))
    return out_BmGrGD.diagonal(dim1=2, dim2=4).movedim(-1, 2).flatten(2, 3)
