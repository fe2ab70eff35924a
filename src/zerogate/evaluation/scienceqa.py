"""ScienceQA's own layout: `problems.json`, an object of problems by their id, with `pid_splits.json` beside it.

Only questions without a picture are asked: the text half. The wording is LLaMA-Adapter's "QCM-A": question, context and
options in, the answer out, without lecture or explanation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zerogate.data.read import Row, read_rows, read_text
from zerogate.errors import UserError

_LETTERS = "ABCDE"


def text_problems(path: str, split: str = "test") -> list[Row]:
    """The split's questions without a picture, as rows of instruction, input and answer (a letter).

    Args:
        path: the problems' file or the folder with it; a list in LLM-Adapters' layout is read as it is.
        split: which of the splits.

    Raises:
        UserError: no such file, malformed JSON, a problem without its fields, or no question of that split.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = _in_folder(file, "problems")
    if not file.is_file():
        raise UserError(f"data file not found: {path} (looked in {Path.cwd()})")
    if not read_text(file).lstrip().startswith("{") or ".jsonl" in file.suffixes:
        return read_rows(str(file))
    problems = _object(file)
    splits = _object(_in_folder(file.parent, "pid_splits"))
    if split not in splits:
        raise UserError(f"{file.parent}: pid_splits has no split {split!r}; it has {', '.join(splits)}")
    chosen = [pid for pid in splits[split] if pid in problems and problems[pid].get("image") is None]
    if not chosen:
        raise UserError(f"{file} holds no question of the split {split!r} that has no picture")
    return [(row, _row(problems[pid], f"{file}, problem {pid}")) for row, pid in enumerate(chosen, start=1)]


def _row(problem: dict[str, Any], where: str) -> dict[str, Any]:
    missing = [name for name in ("question", "choices", "answer") if name not in problem]
    if missing:
        raise UserError(f"{where}: no field {', '.join(map(repr, missing))}")
    choices, answer = problem["choices"], problem["answer"]
    if not isinstance(answer, int) or not 0 <= answer < min(len(choices), len(_LETTERS)):
        raise UserError(f"{where}: the answer {answer!r} is not the index of one of its {len(choices)} choices")
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
    context = problem.get("hint") or "N/A"
    instruction = f"Question: {problem['question']}\nContext: {context}\nOptions: {options}\nAnswer:"
    return {"instruction": instruction, "input": "", "answer": _LETTERS[answer]}


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: malformed JSON: {error.msg}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected an object, found {type(found).__name__}")
    return found


def _in_folder(folder: Path, stem: str) -> Path:
    found = sorted(file for file in folder.glob(f"{stem}*.json*") if file.is_file())
    if not found:
        raise UserError(f"{folder} has no {stem}.json, which ScienceQA's data comes with")
    return found[0]
