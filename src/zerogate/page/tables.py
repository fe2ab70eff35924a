"""What `zerogate compare` wrote, for looking at: its table, its advice, its pictures. HTML as text.

A picture goes into the page itself, as a `data:` URI. So the page can show what lies in the folders that were named,
and the server hands out no file.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from zerogate.errors import UserError

MOST_BYTES = 4 * 2**20
"""Of one file. A table or a picture of a comparison is far smaller."""

DEPTH = 3
"""How deep below a named folder comparisons are looked for."""


def comparisons(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders with a table in them, by the names they are shown under."""
    found: dict[str, Path] = {}
    for root in folders:
        places = [root, *(path for depth in range(1, DEPTH + 1) for path in sorted(root.glob("/".join("*" * depth))))]
        for place in places:
            if (place / "table.csv").is_file():
                inside = place.relative_to(root).as_posix()
                name = root.resolve().name if inside == "." else f"{root.resolve().name}/{inside}"
                found[name] = place
    return found


def shown(folder: Path) -> str:
    """One comparison.

    Raises:
        UserError: a file of it cannot be read.
    """
    lines = list(csv.reader(_text(folder / "table.csv").splitlines()))
    if not lines:
        raise UserError(f"{folder.name}: table.csv is empty")
    advice = _advice(folder / "results.json")
    parts = [f'<p class="advice">{escape(line)}</p>' for line in advice]
    parts.append(f'<div class="wide">{_table(lines)}</div>')
    pictures = [_picture(file) for file in sorted(folder.glob("*.png"))]
    return "".join(parts) + f'<div class="pictures">{"".join(pictures)}</div>'


def _table(lines: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines[1:])
    return f'<table class="results"><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'


def _advice(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        found = json.loads(_text(file))
        advice = found["advice"]
        return [str(line) for line in (advice.values() if isinstance(advice, dict) else advice)]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file.parent.name}/{file.name} is none that `zerogate compare` wrote") from error


def _text(file: Path) -> str:
    return _bytes(file).decode("utf-8", errors="replace")


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file.parent.name}/{file.name} is over {MOST_BYTES // 2**20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file.parent.name}/{file.name}: {error.strerror}") from error


def _picture(file: Path) -> str:
    data = base64.b64encode(_bytes(file)).decode("ascii")
    name = escape(file.stem)
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'
