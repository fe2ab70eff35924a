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

Written = Mapping[int, tuple[Tensor, Tensor, Tensor]]
"""By layer index: keys and values [G, S, D], gates [H]."""

NOTHING = -1e30
"""Score of a place that holds no prompt. Finite, so that a softmax over such places alone is no NaN."""

FEW = 8
"""Most tokens of an adapter in a step that are made one by one, and not a prompt being read."""


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


@dataclass(frozen=True)
class Heads:
    """What to look up for B blocks of m tokens and K prompts, with G key heads and H query heads.

    Attributes:
        pairs: rows of D numbers among the store's [R * 2 * G], in the order of [2, B, G, K].
        prompts: rows of the store, in the order of [B, G, K].
        queries: rows of D numbers among the queries' [T * H], in the order of [B, G, H / G, m].
        gates: where their gates lie among the store's [R * H].
        gives: as `queries`, without the slots that only fill a block up.
        held: which those are; None for all.
    """

    pairs: Tensor
    prompts: Tensor
    queries: Tensor
    gates: Tensor
    gives: Tensor
    held: Tensor | None


class Blocks:
    """Tokens of one step in blocks of m, each block of one adapter's.

    Args:
        tokens: of each adapter, where they are in the flat row.
        rows: of the store, for each adapter.
        longest: K, to which shorter adapters are filled up.
        device: where the store is.
    """

    def __init__(
        self, tokens: list[list[int]], rows: list[tuple[int, ...]], longest: int, device: torch.device
    ) -> None:
        width = _width([len(own) for own in tokens], longest)
        slots: list[list[int]] = []  # of each block, which tokens are there; if they are too few, its first again
        held: list[list[bool]] = []  # whether it is not such a repetition
        prompts: list[tuple[int, ...]] = []  # of each block
        for own, places in zip(tokens, rows, strict=True):
            for first in range(0, len(own), width):
                block = own[first : first + width]
                missing = width - len(block)
                slots.append(block + block[:1] * missing)
                held.append([True] * len(block) + [False] * missing)
                prompts.append(places + (0,) * (longest - len(places)))
        self.slots_Bm, self.held_Bm, self.prompts_BK = (torch.tensor(x, device=device) for x in (slots, held, prompts))
        self._heads: dict[tuple[int, int], Heads] = {}

    def add_to(
        self, out_THD: Tensor, store: LayerStore, full: bool, q_THD: Tensor, scaling: float, softcap: float | None
    ) -> None:
        """Adds what the prompts add to these tokens: equation 7, with the gate after the softmax.

        Here moving numbers costs more than multiplying them, and a softmax over the ten numbers of a row more than one
        over ten rows. So everything is looked up as the products want it, head by head, and scores lie with the prompts
        before the queries. `full`: no place of any block has to be masked.
        """
        (G, D), H, K = store.pairs.shape[2:], q_THD.shape[1], self.prompts_BK.shape[1]
        heads = self.heads(G, H)  # N = B * G
        k_NKD, v_NKD = store.pairs.view(-1, D).index_select(0, heads.pairs).view(2, -1, K, D)
        q_NMD = q_THD.flatten(0, 1).index_select(0, heads.queries).view(len(k_NKD), -1, D)
        scores_NKM = (k_NKD @ q_NMD.transpose(1, 2)).float() * scaling
        if softcap is not None:
            scores_NKM = softcap * torch.tanh(scores_NKM / softcap)
        if not full:
            scores_NKM += store.scores.index_select(0, heads.prompts).view(-1, K, 1)
        gate_N1M = store.gates.view(-1).index_select(0, heads.gates).view(len(k_NKD), 1, -1)
        probs_NKM = (scores_NKM.softmax(1) * gate_N1M).to(v_NKD.dtype)
        extra_RD = (probs_NKM.transpose(1, 2) @ v_NKD).view(-1, D)
        if heads.held is not None:
            extra_RD = extra_RD.index_select(0, heads.held)
        out_THD.flatten(0, 1).index_add_(0, heads.gives, extra_RD)

    def heads(self, G: int, H: int) -> Heads:
        """The same for all layers with so many heads."""
        if (G, H) not in self._heads:
            B, m = self.slots_Bm.shape
            key_G, both_2 = (torch.arange(n, device=self.slots_Bm.device) for n in (G, 2))
            head_GrO = torch.arange(H, device=self.slots_Bm.device).view(G, -1, 1)
            queries = (self.slots_Bm.view(B, 1, 1, m) * H + head_GrO).flatten()
            gates = (self.prompts_BK[:, :1, None, None] * H + head_GrO).expand(-1, -1, -1, m).flatten()
            held = self.held_Bm.view(B, 1, 1, m).expand(-1, G, H // G, -1).flatten().nonzero()[:, 0]
            prompts_BGK = self.prompts_BK[:, None].expand(-1, G, -1)
            pairs = ((prompts_BGK * 2 + both_2.view(-1, 1, 1, 1)) * G + key_G[:, None]).flatten()
            if len(held) < len(queries):
                found = Heads(pairs, prompts_BGK.flatten(), queries, gates, queries[held], held)
            else:
                found = Heads(pairs, prompts_BGK.flatten(), queries, gates, queries, None)
            self._heads[G, H] = found
        return self._heads[G, H]


def _width(counts: list[int], longest: int) -> int:
    """m: wide blocks waste slots, narrow ones look the same prompts up again and again."""
    widths = {*(1 << power for power in range(max(counts).bit_length())), max(counts)}
    return min(sorted(widths), key=lambda m: sum(-(-count // m) for count in counts) * (m + longest))


class Packing:
    """What the prompts of a step's adapters add to its tokens.

    Args:
        store: the prompts.
        places: of each request in the batch, None for the plain base.
        lengths: tokens of each request.
    """

    def __init__(self, store: PromptStore, places: Sequence[Placed | None], lengths: Sequence[int]) -> None:
        self.store = store
        self.layers = frozenset[int]().union(*(place.layers for place in places if place is not None))
        tokens: dict[Placed, list[int]] = {}  # of each adapter
        start = 0
        for place, length in zip(places, lengths, strict=True):
            if place is not None and place.rows:
                tokens.setdefault(place, []).extend(range(start, start + length))
            start += length
        longest = max((len(place.rows) for place in tokens), default=0)
        # Layers in which every place of every block holds a prompt, so that none has to be masked.
        even = all(len(place.rows) == longest for place in tokens)
        self.full = frozenset.intersection(*(place.full for place in tokens)) if tokens and even else frozenset()
        # A prompt that is read and a token that is made want blocks of other widths.
        few = [place for place, own in tokens.items() if len(own) <= FEW]
        many = [place for place, own in tokens.items() if len(own) > FEW]
        self.blocks = [
            Blocks([tokens[place] for place in some], [place.rows for place in some], longest, store.device)
            for some in (few, many)
            if some
        ]

    def add_to(
        self, out_THD: Tensor, layer: int, q_1HTD: Tensor, scaling: float, softcap: float | None = None
    ) -> Tensor:
        """Adds to the attention output [T, H, D], in place, what each token's adapter adds there."""
        if layer in self.layers:
            q_THD = q_1HTD[0].transpose(0, 1)
            for blocks in self.blocks:
                blocks.add_to(out_THD, self.store.layers[layer], layer in self.full, q_THD, scaling, softcap)
        return out_THD
