"""Small files of questions and answers, for the tests of judging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CATEGORIES = ("math", "writing")


def make_files(folder: Path, count: int) -> None:
    """Write q.jsonl, long.jsonl and short.jsonl."""
    questions = [{"question_id": n, "text": f"What is {n}?", "category": CATEGORIES[n % 2]} for n in range(count)]
    write(folder / "q.jsonl", questions)
    write(
        folder / "long.jsonl",
        [answer(n, "short" if n == count - 1 else f"It is {n}, which is a number.") for n in range(count)],
    )
    write(folder / "short.jsonl", [answer(n, f"It is {n}.") for n in range(count)])


def answer(question: int | str, text: Any) -> dict[str, Any]:
    """A row of answers."""
    return {"question_id": question, "text": text}


def write(file: Path, rows: list[Any]) -> Path:
    """JSON lines; a text is a line as it is."""
    file.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return file
