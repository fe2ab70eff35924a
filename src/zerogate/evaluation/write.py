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


def with_earlier(file: Path, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A report of `zerogate eval` together with the tasks that an earlier one left in its file.

    Args:
        file: `results.json`, which may not exist.
        report: the new one; what it has of a task replaces what there was.

    Returns:
        Both, with the mean over all tasks; None where the file is of another model, limit, seed or version.
    """
    if not file.exists():
        return dict(report)
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    made = json.loads(json.dumps(report, default=str))  # as the file has it
    same = ("models", "limit", "seeds", "versions")
    if not isinstance(old, dict) or any(old.get(key) != made[key] for key in same):
        return None
    both: dict[str, Any] = {**old, **report, "tasks": {**old["tasks"], **report["tasks"]}}
    if "harness" in old and "harness" in report:
        parts = [(key, old["harness"].get(key), value) for key, value in report["harness"].items()]
        both["harness"] = {key: {**was, **now} if isinstance(was, dict) else now for key, was, now in parts}
    judged = [task for task in both["tasks"].values() if "strict" in task]
    if judged:
        both["mean"] = {rule: sum(task[rule] for task in judged) / len(judged) for rule in ("compat", "strict")}
    return both


def _write(file: Path, text: str) -> None:
    if not file.absolute().parent.is_dir():
        raise UserError(f"the folder {file.absolute().parent} for the output does not exist")
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
