"""Sentences with a BIO tag for each word: CoNLL columns, JSON lines with columns, and PropBank frames.

    Dennis  B-Peop             one word per line, an empty line (or #doc, -DOCSTART-) between sentences; which
    DeConcini  I-Peop          column holds the word is seen from the file; the last column of tags is learned
    {"tokens": ["Dennis"], "ner_tags": ["B-Peop"]}
    {"words": ["Where", "is", "it"], "frames": [{"predicate": 1, "tags": ["B-ARG2", "B-V", "B-ARG1"]}]}

A sentence with frames becomes one per frame, its predicate between two asterisks, whose tags are not asked for; the
predicate's own tag (V) neither, as it is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows, read_text
from zerogate.errors import UserError

MARK = "*"
"""What stands before and after a predicate."""

_TAG = re.compile(r"O|[BI]-\S+")
_DOCUMENT = "-DOCSTART-"
_JSON = {".json", ".jsonl", ".ndjson", ".parquet"}


@dataclass(frozen=True)
class Sentence:
    """A sentence and its tags.

    Attributes:
        words: as the model sees them.
        tags: BIO, one per word; None for words that are not asked about.
        unmarked: of a sentence asked about a predicate, the words without its marks; else empty.
    """

    words: tuple[str, ...]
    tags: tuple[str | None, ...]
    unmarked: tuple[str, ...] = ()

    @property
    def text(self) -> tuple[str, ...]:
        """The words as the file has them: the same for all predicates of a sentence."""
        return self.unmarked or self.words

    def asked(self) -> list[str]:
        """The tags that are asked for, in order."""
        return [tag for tag in self.tags if tag is not None]


def read_sentences(path: str, split: str | None) -> list[Sentence]:
    """Read every sentence of a file, by its name's ending JSON lines or columns.

    Raises:
        UserError: no such file, or a line that is neither (with its number).
    """
    file = Path(path).expanduser()
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if suffixes & _JSON or not file.is_file():
        sentences = []
        for number, row in read_rows(path, split or "train"):
            sentences += _from_row(row, f"{path}, row {number}")
    else:
        sentences = _from_columns(read_text(file), path)
    if not sentences:
        raise UserError(f"{path} holds no sentences")
    return sentences


def mark_predicate(words: Sequence[str], at: int, mark: str = MARK) -> tuple[str, ...]:
    """A sentence as the model sees it when it is asked about word `at`, which then is word `at + 1`."""
    return (*words[:at], mark, words[at], mark, *words[at + 1 :])


def marked_predicates(words: Sequence[str], mark: str = MARK) -> list[int]:
    """The numbers of words between two marks; a mark is none of them."""
    inner = range(1, len(words) - 1)
    return [at for at in inner if words[at - 1] == words[at + 1] == mark and words[at] != mark]


def _from_columns(text: str, path: str) -> list[Sentence]:
    lines = [line.rstrip("\n").split("\t" if "\t" in text else None) for line in text.split("\n")]
    rows = [[field.strip() for field in line] for line in lines]
    rows = [row if any(row) else [] for row in rows]  # a line of white space is an empty one
    tokens = [row for row in rows if len(row) > 1 and row[0] != _DOCUMENT]
    if not tokens:
        raise UserError(f"{path} has no columns: expected a word and its tag on each line")
    columns = [i for i in range(1, len(tokens[0])) if all(i < len(r) and _TAG.fullmatch(r[i]) for r in tokens)]
    if not columns:
        numbered = ((n, r) for n, r in enumerate(rows, 1) if len(r) > 1 and r[0] != _DOCUMENT)
        number, row = next((n, r) for n, r in numbered if len(r) != len(tokens[0]) or not _TAG.fullmatch(r[-1]))
        raise UserError(f"{path} has no column of tags O, B-X and I-X throughout; line {number} ends in {row[-1]!r}")
    tag = columns[-1]  # CoNLL-2003 has a column of chunks before that of names
    # Words may be numbers; a first column of nothing but numbers counts them.
    word = 1 if tag > 1 and all(row[0].isdecimal() for row in tokens) else 0
    sentences: list[Sentence] = []
    words: list[tuple[str, str]] = []
    for row in [*rows, []]:
        if len(row) > 1 and row[0] != _DOCUMENT:
            words.append((row[word], row[tag]))
        elif words:
            sentences.append(Sentence(tuple(w for w, _ in words), tuple(t for _, t in words)))
            words = []
    return sentences


def _from_row(row: dict[str, Any], where: str) -> list[Sentence]:
    words = row.get("tokens", row.get("words"))
    if not isinstance(words, list):
        raise UserError(f"{where}: expected `tokens` (or `words`), a list of words")
    strange = next((word for word in words if not isinstance(word, str)), None)
    if strange is not None:
        raise UserError(f"{where}: the word {strange!r} is not text; write it in quotes")
    if "frames" in row:
        frames = row["frames"]
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            raise UserError(f"{where}: `frames` must be a list of objects with `predicate` and `tags`")
        return [_frame(words, frame, where) for frame in frames]
    tags = next((row[key] for key in ("ner_tags", "tags", "labels") if key in row), None)
    _check(words, tags, where)
    return [Sentence(tuple(words), tuple(tags or ()))]


def _frame(words: list[str], frame: dict[str, Any], where: str) -> Sentence:
    _check(words, frame.get("tags"), where)
    at = frame.get("predicate")
    if not isinstance(at, int) or not 0 <= at < len(words):
        raise UserError(f"{where}: a frame's `predicate` must be a word's number, 0 to {len(words) - 1}, not {at!r}")
    tags = [None if tag.endswith("-V") else tag for tag in frame["tags"]]
    return Sentence(
        mark_predicate(words, at),
        (*tags[:at], None, tags[at], None, *tags[at + 1 :]),
        tuple(words),
    )


def _check(words: list[str], tags: Any, where: str) -> None:
    if not isinstance(tags, list) or len(tags) != len(words):
        raise UserError(f"{where}: expected as many tags (`ner_tags`, `tags` or `labels`) as words, {len(words)}")
    wrong = next((tag for tag in tags if not isinstance(tag, str) or not _TAG.fullmatch(tag)), None)
    if wrong is not None:
        raise UserError(f"{where}: {wrong!r} is no BIO tag such as O, B-PER or I-PER (as text, not as a number)")
