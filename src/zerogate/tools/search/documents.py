"""Documents to search: a folder of texts, or JSON lines, cut into passages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zerogate.errors import UserError

WORDS = 80
"""Words in a passage, about what a search result shows of one."""

_ENDINGS = (".txt", ".md", ".rst")
_TITLES, _TEXTS = ("title", "name", "heading"), ("text", "content", "body", "passage")


@dataclass(frozen=True)
class Passage:
    """A piece of a document, under the document's title."""

    title: str
    text: str


def read_documents(path: str | Path) -> Iterator[Passage]:
    """The passages of a folder of texts (a file's name is its title), of one text, or of rows with `title` and `text`.

    Raises:
        UserError: nothing there, no texts, or a row without text.
    """
    from zerogate.data.read import read_rows

    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there are no documents at {path}: give a folder of .txt or .md files, or a JSONL file")
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in _ENDINGS)
    if not files:
        raise UserError(f"{path} holds no texts ({', '.join(_ENDINGS)})")
    for file in files:
        if file.suffix.lower() in _ENDINGS:
            title = file.stem.replace("_", " ")
            yield from cut(title, file.read_text(encoding="utf-8", errors="replace"))
            continue
        for number, row in read_rows(str(file)):
            text = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), None)
            if text is None:
                raise UserError(f"{file}, row {number}: a document needs a column {' or '.join(_TEXTS)}")
            yield from cut(next((str(row[key]) for key in _TITLES if row.get(key)), f"row {number}"), text)


def cut(title: str, text: str, words: int = WORDS) -> Iterator[Passage]:
    """A document's passages: whole paragraphs where they are short enough, else pieces of so many words."""
    kept: list[str] = []
    for paragraph in text.split("\n\n"):
        found = paragraph.split()
        if kept and len(kept) + len(found) > words:
            yield Passage(title, " ".join(kept))
            kept = []
        kept += found
        while len(kept) > words:
            yield Passage(title, " ".join(kept[:words]))
            kept = kept[words:]
    if kept:
        yield Passage(title, " ".join(kept))


def fingerprint(path: str | Path) -> str:
    """What an index goes by: names, sizes and times of the files. 16 hexadecimal digits."""
    path = Path(path).expanduser()
    files: Iterable[Path] = [path] if path.is_file() else sorted(path.rglob("*"))
    digest = hashlib.sha256(f"plain words, passages of {WORDS} words, {path.resolve()}".encode())
    for file in files:
        if file.is_file():
            state = file.stat()
            digest.update(f"\n{file} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
