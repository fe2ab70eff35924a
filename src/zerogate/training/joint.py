"""Joint training of captions and instructions with parameters of their own (LLaMA-Adapter V2, arXiv 2304.15010,
section 3.2): batches with images train what lets images in, batches of text alone train the rest.

The two kinds of records have different jobs. Millions of captions, mixed in without this, would teach the prompts to
answer in captions' words; so what follows instructions learns from text, and what sees learns from pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from zerogate.adapters.zero_init.image import ImageProjector
from zerogate.adapters.zero_init.layer import ZeroInitLayer
from zerogate.data.batching import epoch_order
from zerogate.errors import UserError


class Apart:
    """The trained parameters of a model in two parts.

    Args:
        model: with a zero-init adapter that takes images.

    Attributes:
        seeing: the projector, and the gates of layers that images alone enter (early fusion).
        other: all others.
    """

    def __init__(self, model: nn.Module) -> None:
        found: set[nn.Parameter] = set()
        for module in model.modules():
            if isinstance(module, ImageProjector):
                found.update(module.parameters())
            if isinstance(module, ZeroInitLayer):
                found.update(gate for name, gate in module.gate.items() if name not in module.prompt)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.seeing = [parameter for parameter in trained if parameter in found]
        self.other = [parameter for parameter in trained if parameter not in found]
        if not self.seeing:
            raise UserError("train.joint needs an adapter that takes images (adapter.image_encoder)")

    @contextmanager
    def learning(self, images: bool) -> Iterator[None]:
        """Inside, gradients reach one part only: of a batch with images what sees, else the rest."""
        resting = self.other if images else self.seeing
        kept = [parameter.grad for parameter in resting]
        for parameter in resting:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, grad in zip(resting, kept, strict=True):
                parameter.grad = grad


def order_apart(
    lengths: Sequence[int], shows: Sequence[bool], batch_size: int, seed: int, epoch: int, group_by_length: bool
) -> list[int]:
    """As `epoch_order`, with every batch of one kind: with images, or of text alone.

    What is left of both kinds after full batches shares the last places: if one batch is left, the larger rest has it
    and the smaller waits for the next epoch's shuffle; if two are, the larger is filled up with records of its kind.

    Args:
        lengths: tokens per sequence.
        shows: whether each shows an image.
        batch_size, seed, epoch, group_by_length: as for `epoch_order`.
    """
    full, rests = [], []
    for kind in (True, False):
        members = [index for index, one in enumerate(shows) if one is kind]
        order = epoch_order([lengths[index] for index in members], batch_size, seed, epoch, group_by_length)
        order = [members[index] for index in order]
        whole = len(order) - len(order) % batch_size
        full += [order[at : at + batch_size] for at in range(0, whole, batch_size)]
        rests.append((order[whole:], order))
    # A shuffle that both the kinds and the seed have a part in: their batches alternate at random.
    mixed = epoch_order([1] * len(full), 1, seed, epoch, False)
    batches = [full[index] for index in mixed]
    larger, smaller = sorted(rests, key=lambda rest: -len(rest[0]))
    if larger[0] and len(larger[0]) + len(smaller[0]) > batch_size:
        rest, members = larger
        filled = [*rest, *(index for index in members if index not in rest)]
        while len(filled) < batch_size:
            filled += rest
        batches += [filled[:batch_size], smaller[0]]
    elif larger[0]:
        batches.append(larger[0])
    return [index for batch in batches for index in batch]
