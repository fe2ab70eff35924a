"""Sentences with a BIO tag for each word: CoNLL columns, JSON lines with columns, and PropBank frames.

    Dennis  B-Peop             one word per line, an empty line (or #doc, -DOCSTART-) between sentences; which
    DeConcini  I-Peop          columns hold word and tag is seen from the file
    {"tokens": ["Dennis"], "ner_tags": ["B-Peop"]}
    {"words": ["Where", "is", "it"], "frames": [{"predicate": 1, "tags": ["B-ARG2", "B-V", "B-ARG1"]}]}

A sentence with frames becomes one per frame, its predicate between two asterisks, whose tags are not asked for; the
predicate's own tag (V) neither, as it is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows, read_text
from zerogate.errors import UserError

_TAG = re.compile(r"O|[BI]-\S+")
_MARK = "*"
_JSON = {".json", ".jsonl", ".ndjson", ".parquet"}


@dataclass(frozen=True)
class Sentence:
    """A sentence and its tags.

    Attributes:
        words: as the model sees them.
        tags: BIO, one per word; None for words that are not asked about.
    """

    words: tuple[str, ...]
    tags: tuple[str | None, ...]

    def asked(self) -> list[str]:
        """The tags that are asked for, in order."""
        return [tag for tag in self.tags if tag is not None]


def read_sentences(path: str, split: str | None) -> list[Sentence]:
    """Read every sentence of a file, by its name's ending JSON lines or columns.

    Raises:
        UserError: no such file, or a line that is neither (with its number).
    """
    suffixes = {suffix.lower() for suffix in Path(path).suffixes}
    if suffixes & _JSON or not Path(path).is_file():
        sentences = []
        for number, row in read_rows(path, split or "train"):
            sentences += _from_row(row, f"{path}, row {number}")
    else:
        sentences = _from_columns(read_text(Path(path)), path)
    if not sentences:
        raise UserError(f"{path} holds no sentences")
    return sentences


def _from_columns(text: str, path: str) -> list[Sentence]:
    lines = [line.rstrip("\n").split("\t" if "\t" in text else None) for line in text.split("\n")]
    rows = [[field.strip() for field in line] for line in lines]
    rows = [row if any(row) else [] for row in rows]  # a line of white space is an empty one
    tokens = [row for row in rows if len(row) > 1]
    if not tokens:
        raise UserError(f"{path} has no columns: expected a word and its tag on each line")
    tag = next((i for i in range(1, len(tokens[0])) if all(i < len(r) and _TAG.fullmatch(r[i]) for r in tokens)), None)
    if tag is None:
        number, row = next((n, r) for n, r in enumerate(rows, 1) if len(r) > 1 and not _TAG.fullmatch(r[-1]))
        raise UserError(f"{path} has no column of tags O, B-X and I-X throughout; line {number} ends in {row[-1]!r}")
    # Words may be numbers; a first column of nothing but numbers counts them.
    word = 1 if tag > 1 and all(row[0].isdecimal() for row in tokens) else 0
    sentences: list[Sentence] = []
    words: list[tuple[str, str]] = []
    for row in [*rows, []]:
        if len(row) > 1 and row[0] != "-DOCSTART-":
            words.append((row[word], row[tag]))
        elif words:
            sentences.append(Sentence(tuple(w for w, _ in words), tuple(t for _, t in words)))
            words = []
    return sentences


def _from_row(row: dict[str, Any], where: str) -> list[Sentence]:
    words = row.get("tokens", row.get("words"))
    if not isinstance(words, list):
        raise UserError(f"{where}: expected `tokens` (or `words`), a list")
    if "frames" in row:
        return [_frame(words, frame, where) for frame in row["frames"]]
    tags = next((row[key] for key in ("ner_tags", "tags", "labels") if key in row), None)
    _check(words, tags, where)
    return [Sentence(tuple(words), tuple(tags or ()))]


def _frame(words: list[str], frame: dict[str, Any], where: str) -> Sentence:
    _check(words, frame.get("tags"), where)
    at = frame["predicate"]
    tags = [None if tag.endswith("-V") else tag for tag in frame["tags"]]
    return Sentence(
        (*words[:at], _MARK, words[at], _MARK, *words[at + 1 :]), (*tags[:at], None, tags[at], None, *tags[at + 1 :])
    )


def _check(words: list[str], tags: Any, where: str) -> None:
    if not isinstance(tags, list) or len(tags) != len(words):
        raise UserError(f"{where}: expected as many tags (`ner_tags`, `tags` or `labels`) as words, {len(words)}")
    wrong = next((tag for tag in tags if not isinstance(tag, str) or not _TAG.fullmatch(tag)), None)
    if wrong is not None:
        raise UserError(f"{where}: {wrong!r} is no BIO tag such as O, B-PER or I-PER (as text, not as a number)")
