"""Segments to token ids and labels, many at a time, with the length policy and a count of everything left out.

Each segment is tokenised on its own and the ids are joined. So the loss mask starts at a token border, always, and
the ids of a prompt are those a user's prompt gets in `prompt_ids`. Tokenising prompt and answer as one text would
merge tokens across that border.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from zerogate.bases.loss import IGNORE
from zerogate.data.records import Record, Turn
from zerogate.data.templates import Segment, TemplateName, prompt_segments, segment_record
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource


@dataclass
class EncodeReport:
    """What became of the records. Lists hold row numbers.

    Attributes:
        records: how many were read.
        too_long: sequences over the limit.
        truncated: those of them that were cut from the right.
        dropped: those of them that were left out whole.
        nothing_to_learn: rows without any answer text, or whose prompt alone fills the limit.
    """

    records: int = 0
    too_long: int = 0
    truncated: int = 0
    dropped: int = 0
    nothing_to_learn: list[int] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in words, one line each, nothing for what did not happen."""
        lines = []
        if self.too_long:
            lines.append(
                f"{self.too_long:,} sequences over the length limit: {self.truncated:,} truncated from the right, "
                f"{self.dropped:,} dropped"
            )
        if self.nothing_to_learn:
            lines.append(
                f"{len(self.nothing_to_learn):,} rows with nothing to learn left out: {_some(self.nothing_to_learn)}"
            )
        return lines


@dataclass
class Encoded:
    """Token ids ready for training.

    Attributes:
        input_ids: one int32 array per sequence.
        labels: the same shape; `-100` where nothing is learned. Not shifted.
        rows: the row each sequence came from.
        report: what was left out.
        images: what each sequence shows, aligned with `rows`; empty tuples for text alone.
        features: what a vision encoder makes of all images, [images, F]; None while nobody has looked (`see`).
        seen: for each sequence, which rows of `features` are its images.
    """

    input_ids: list[np.ndarray]
    labels: list[np.ndarray]
    rows: list[int]
    report: EncodeReport
    images: list[tuple[ImageSource, ...]] = field(default_factory=list)
    features: Tensor | None = None
    seen: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Sequences that came without images show none."""
        if not self.images:
            self.images = [()] * len(self.rows)

    def __len__(self) -> int:
        return len(self.input_ids)

    def see(self, features: dict[str, Tensor]) -> None:
        """Give every sequence the features of its images, by digest. One image is kept once, whoever shows it."""
        index = {digest: place for place, digest in enumerate(features)}
        self.features = torch.stack(list(features.values()))
        self.seen = [[index[source.digest] for source in images] for images in self.images]

    def item(self, place: int) -> dict[str, Any]:
        """One sequence as `Collator` takes it."""
        item = {"input_ids": self.input_ids[place], "labels": self.labels[place], "row": self.rows[place]}
        return item if self.features is None else {**item, "shown": self.seen[place]}

    def columns(self) -> dict[str, list[Any]]:
        """All sequences as columns, for a data set whose rows `Collator` takes."""
        columns: dict[str, list[Any]] = {"input_ids": self.input_ids, "labels": self.labels, "row": self.rows}
        return columns if self.features is None else {**columns, "shown": self.seen}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per sequence, int64."""
        return np.fromiter((len(ids) for ids in self.input_ids), dtype=np.int64, count=len(self))

    @property
    def learned(self) -> np.ndarray:
        """Tokens per sequence that count in the loss, int64. A first token has nothing before it and never counts."""
        return np.fromiter(((labels[1:] != IGNORE).sum() for labels in self.labels), dtype=np.int64, count=len(self))


def encode_records(
    records: list[Record],
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateName,
    max_length: int,
    too_long: Literal["truncate", "drop"] = "truncate",
    nothing_to_learn: Literal["refuse", "drop"] = "refuse",
    source: str = "data",
) -> Encoded:
    """Tokenise records.

    Args:
        records: what to tokenise.
        tokenizer: the base's.
        template: how to word a record.
        max_length: most tokens in a sequence.
        too_long: cut longer sequences from the right, or leave them out.
        nothing_to_learn: stop at rows with no answer to learn (an empty answer, or a prompt that fills the limit),
            or leave them out.
        source: what to call the file in errors.

    Raises:
        UserError: no EOS token, rows with nothing to learn under `refuse`, or nothing left at all.
    """
    report = EncodeReport(records=len(records))
    sequences: list[list[Segment]] = []
    origins: list[Record] = []
    for record in records:
        cut = segment_record(record, template, tokenizer)
        cut = [sequence for sequence in cut if any(segment.learn for segment in sequence)]
        if not cut:
            report.nothing_to_learn.append(record.row)
        sequences += cut
        origins += [record] * len(cut)

    encoded = Encoded([], [], [], report)
    for record, (ids, labels) in zip(origins, _encode(sequences, tokenizer), strict=True):
        if len(ids) > max_length:
            report.too_long += 1
            if too_long == "drop":
                report.dropped += 1
                continue
            ids, labels = ids[:max_length], labels[:max_length]
            if not (labels[1:] != IGNORE).any():
                report.nothing_to_learn.append(record.row)
                continue
            report.truncated += 1
        encoded.input_ids.append(ids)
        encoded.labels.append(labels)
        encoded.rows.append(record.row)
        encoded.images.append(record.images)

    if report.nothing_to_learn and nothing_to_learn == "refuse":
        raise UserError(
            f"{source}: {len(report.nothing_to_learn)} rows have nothing to learn (an empty answer, or a prompt that "
            f"fills max_length={max_length}): "
            f"rows {_some(report.nothing_to_learn)}. Mend them, or set data.nothing_to_learn=drop to leave them out"
        )
    if not encoded.rows:
        raise UserError(f"{source}: no record is left to learn from: " + "; ".join(report.lines()))
    return encoded


def prompt_ids(
    turns: tuple[Turn, ...] | list[Turn],
    template: TemplateName,
    tokenizer: PreTrainedTokenizerBase,
    tools: tuple[dict[str, Any], ...] = (),
) -> list[int]:
    """Token ids to generate an answer from: the very ids that training put before that answer."""
    segments = prompt_segments(tuple(turns), template, tokenizer, tools)
    return next(_encode([segments], tokenizer))[0].tolist()


def _encode(sequences: list[list[Segment]], tokenizer: PreTrainedTokenizerBase) -> Any:
    """Yield (ids, labels) of each sequence, from two calls of the tokenizer: opening segments, and all others."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError("the tokenizer has no EOS token, so no answer could ever end; set one on the base's tokenizer")
    flat = [segment for sequence in sequences for segment in sequence]
    opening = iter(_tokenise([s.text for s in flat if s.start], tokenizer, opening=True))
    inner = iter(_tokenise([s.text for s in flat if not s.start], tokenizer, opening=False))
    for sequence in sequences:
        ids: list[int] = []
        labels: list[int] = []
        for segment in sequence:
            piece = list(next(opening) if segment.start else next(inner))
            if segment.end:
                piece.append(eos)
            ids += piece
            labels += piece if segment.learn else [IGNORE] * len(piece)
        yield np.asarray(ids, dtype=np.int32), np.asarray(labels, dtype=np.int32)


def _tokenise(texts: list[str], tokenizer: PreTrainedTokenizerBase, opening: bool) -> list[list[int]]:
    if not texts:
        return []
    batch = tokenizer(texts, add_special_tokens=opening, return_attention_mask=False, verbose=False)["input_ids"]
    if opening:
        return [_open(ids, tokenizer) for ids in batch]
    return batch


def _open(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Begin with BOS, where the tokenizer has one of its own, and stay open at the end, where some put EOS."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if len(ids) > 1 and ids[-1] == eos:
        ids = ids[:-1]
    return [bos, *ids] if bos is not None and bos != eos and ids[:1] != [bos] else ids


def _some(rows: list[int], most: int = 10) -> str:
    shown = ", ".join(map(str, rows[:most]))
    return shown + (f" and {len(rows) - most:,} more" if len(rows) > most else "")
