"""JSON lines that survive a crash: each batch is on the disk before the next begins, and a torn last line is made anew.

Generation and evaluation write their rows with these, and a second run goes on after the last whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from zerogate.errors import UserError


def whole_lines(file: Path) -> list[dict[str, Any]]:
    """The rows that an earlier run finished. What follows the last line break was torn by a crash and is left out.

    Raises:
        UserError: a line is not a JSON object, so this is no file of ours to go on with.
    """
    content = file.read_bytes()
    rows = []
    for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file}, line {number} is not valid JSON, so it is not an output to go on with") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number} is not an object, so it is not an output to go on with")
        rows.append(row)
    return rows


def cut_torn_line(file: Path) -> None:
    """Cut off what follows the last line break."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)


def whole_text(text: str) -> str:
    """The text with a question mark for each lone surrogate. JSON can spell one; no file and no tokenizer takes it."""
    return text.encode("utf-8", "replace").decode()


def append_lines(opened: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a file opened for bytes, and see them onto the disk. Lone surrogates as in `whole_text`."""
    lines = [whole_text(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows]
    opened.write("".join(lines).encode())
    opened.flush()
    os.fsync(opened.fileno())


def changed_settings(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """How the settings of two runs differ, in words; empty when they do not."""
    old = old or {}
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys)
