"""Write what an evaluation came to, each file under a temporary name first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zerogate.errors import UserError


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    _write(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_results(file: Path, results: Mapping[str, Any]) -> None:
    """Write one JSON object."""
    _write(file, json.dumps(results, indent=1, ensure_ascii=False, default=str) + "\n")


def _write(file: Path, text: str) -> None:
    if not file.absolute().parent.is_dir():
        raise UserError(f"the folder {file.absolute().parent} for the output does not exist")
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
