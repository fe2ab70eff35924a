"""The model's side of an evaluation: a batch of questions in, its responses out; here or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.bases import load_adapted, load_base
from zerogate.bases.decode import context_length, decode_batch
from zerogate.vision.adapter_encoders import AdapterEncoders, active_adapter, arguments
from zerogate.vision.source import ImageSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Asked:
    """A question as the model reads it."""

    row: int
    prompt: list[int]
    images: tuple[ImageSource, ...]


@dataclass(frozen=True)
class Batch:
    """Questions by their place in the test set, and how they are answered."""

    asked: dict[int, Asked]
    num_beams: int
    max_new_tokens: int


Responses = dict[int, str]


def answering(
    base: str, adapters: Mapping[str, Path], options: Mapping[str, Any], device: str
) -> Callable[[Batch], Responses]:
    """Load a model as `load_adapted` does; returns what answers a batch with it. For processes of their own."""
    model: Any
    options = {**options, "device": device}
    model, tokenizer = load_adapted(base, adapters, **options) if adapters else load_base(base, **options)
    encoders = AdapterEncoders(model)
    return lambda batch: respond(model, tokenizer, encoders, batch)


def questions_of(batch: Batch) -> str:
    """What a message calls a batch."""
    rows = [asked.row for asked in batch.asked.values()] or [0]  # one without room for an answer is in no batch
    return f"question {rows[0]}" if len(rows) == 1 else f"questions {rows[0]} to {rows[-1]}"


def respond(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoders: AdapterEncoders, batch: Batch
) -> Responses:
    """The responses of the adapter that is active."""
    adapter, found = active_adapter(model), Responses()
    for group in _groups(batch, context_length(model)):
        shown = [batch.asked[n].images for n in group]
        ids = decode_batch(
            model, tokenizer, [batch.asked[n].prompt for n in group],
            max_new_tokens=batch.max_new_tokens, num_beams=batch.num_beams,
            **arguments(encoders.features([adapter] * len(group), shown)),
        )  # fmt: skip
        found |= dict(zip(group, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
    return found


def _groups(batch: Batch, limit: int | None) -> Iterator[list[int]]:
    """Rows that can share a pass. A prompt that nearly fills the context goes alone: it would shorten the others."""
    lengths = {n: len(asked.prompt) for n, asked in batch.asked.items()}
    alone = [n for n in lengths if limit is not None and lengths[n] + batch.max_new_tokens > limit]
    together = [n for n in lengths if n not in alone]
    yield from ([together] if together else [])
    yield from ([n] for n in alone)
