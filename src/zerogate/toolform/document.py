"""What the pipeline starts from: texts, some with the day they were written on; and texts that show calls."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows
from zerogate.errors import UserError
from zerogate.tools.inline import Inline, find_calls


@dataclass(frozen=True)
class Document:
    """A text to put calls into.

    Attributes:
        text: as it is.
        date: the day it was written, as in 2026-05-28; empty where that is not known.
        truth: calls that are known to help, for measuring: each `tool`, `inputs` (any of them will do) and `at` (the
            character before which it belongs).
    """

    text: str
    date: str = ""
    truth: list[dict[str, Any]] = field(default_factory=list)


class Clock:
    """The calendar's clock, set to the day of one document after the other; today while it is not set."""

    def __init__(self) -> None:
        self.day: datetime.date | None = None

    def __call__(self) -> datetime.date:
        """The day it is set to."""
        return self.day or datetime.date.today()

    def set(self, day: str) -> None:
        """Set it to a day such as 2026-05-28, or with an empty text to today."""
        self.day = datetime.date.fromisoformat(day) if day else None


def read_documents(path: str, limit: int | None = None) -> list[Document]:
    """Documents from a file of rows with `text` (and `date`), a folder of `.txt` files, or a data set on the Hub.

    Raises:
        UserError: nothing there, a row without text, a date that is none.
    """
    folder = Path(path).expanduser()
    if folder.is_dir() and (files := sorted(folder.rglob("*.txt"))):
        return [Document(file.read_text(encoding="utf-8", errors="replace").strip()) for file in files[:limit]]
    found = []
    for number, row in read_rows(path)[:limit]:
        text, day = row.get("text"), row.get("date") or ""
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}, row {number}: a document needs its text in a column `text`")
        try:
            day = str(day)[:10]
            Clock().set(day)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: the date {day!r} is not like 2026-05-28") from error
        found.append(Document(text.strip(), day))
    return found


def read_demonstrations(path: str, names: Sequence[str]) -> list[str]:
    """Texts with calls and their results written in, from the column `text` of a file; some may have nothing to call.

    Raises:
        UserError: no text has a call of one of `names`, or one has a call without a result.
    """
    found, example = [], "12 crates of 18 make [Calculator(12 * 18) -> 216] 216 jars."
    for number, row in read_rows(path):
        text = str(row.get("text") or "")
        if not text or any(call.result is None for call in find_calls(text, names)):
            raise UserError(f"{path}, row {number}: a demonstration is a `text` like: {example}")
        found.append(text)
    if not any(find_calls(text, names) for text in found):
        raise UserError(f"{path}: no text has a call of one of {', '.join(names)}, like: {example}")
    return found


def parts(text: str, names: Sequence[str]) -> tuple[list[str], list[Inline]]:
    """A text with calls as the pieces around them, one more than there are calls, and the calls."""
    calls = find_calls(text, names)
    ends = [0, *(call.end for call in calls)]
    starts = [*(call.start for call in calls), len(text)]
    return [text[a:b] for a, b in zip(ends, starts, strict=True)], calls
