"""What was asked: questions with an id and a category, from a file or out of the answers that carry them.

{"question_id": 1, "category": "generic", "text": "How can I improve my time management skills?"}
{"question_id": 1, "category": "generic", "turns": ["How can I improve my time management skills?"]}
{"instruction": "Name the home of the animal.", "input": "fox"}

The first two are the layouts of the 80 Vicuna questions; the third is what `zerogate generate --in` reads. A row
without an id is known by its number, as it is in the answers of `zerogate generate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.data.jsonl import whole_text
from zerogate.data.read import read_rows
from zerogate.errors import UserError

NO_CATEGORY = "all"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: as the file has it; 1 and "1" are the same question.
        category: what kind it is; reports are by category.
        text: what the models were asked.
        reference: a solution for the judge to go by, if the file has one.
    """

    id: str
    category: str
    text: str
    reference: str = ""


def read_questions(path: str | Path) -> list[Question]:
    """Read a file of questions.

    Raises:
        UserError: unreadable or empty, a row without a question (named), an id that comes twice.
    """
    questions = []
    rows: dict[str, int] = {}
    for number, row in read_rows(str(path)):
        where = f"{path}, row {number}"
        question = to_question(row, number, where)
        if question is None:
            raise UserError(
                f"{where}: there is no question in it; expected text, turns, prompt, question, instruction or "
                f"messages, found {', '.join(map(repr, row)) or 'nothing'}"
            )
        if question.id in rows:
            raise UserError(f"{where}: the question {question.id} is already in row {rows[question.id]}")
        rows[question.id] = number
        questions.append(question)
    return questions


def to_question(row: Mapping[str, Any], number: int, where: str) -> Question | None:
    """The question that a row holds, or None if it holds none.

    Raises:
        UserError: an id, a category or a text of the wrong type, or several turns.
    """
    text = _text(row, where)
    if text is None:
        return None
    if not text.strip():
        raise UserError(f"{where}: the question is empty")
    category = row.get("category")
    reference = row.get("reference")
    if isinstance(reference, list):  # one for each turn, as MT-bench has it
        reference = reference[0] if reference else None
    for name, value in (("category", category), ("reference", reference)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: {name} is {type(value).__name__}, not text")
    said = (whole_text(part) for part in (category or NO_CATEGORY, text, reference or ""))
    return Question(row_id(row, number, where), *said)


def row_id(row: Mapping[str, Any], number: int, where: str) -> str:
    """The id of a row's question: `question_id` or `id`, else the row's number.

    Raises:
        UserError: it is neither text nor a whole number.
    """
    found = next((row[name] for name in ("question_id", "id") if row.get(name) is not None), number)
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        raise UserError(f"{where}: the question's id is {found!r}; it must be text or a whole number")
    return whole_text(str(found))


def _text(row: Mapping[str, Any], where: str) -> str | None:
    if "turns" in row:
        turns = row["turns"]
        if not isinstance(turns, list) or not turns:
            raise UserError(f"{where}: turns must be a list with one question")
        if len(turns) > 1:
            raise UserError(
                f"{where}: the question has {len(turns)} turns; zerogate judge compares answers to one turn, so leave "
                "the later ones out or make them questions of their own"
            )
        return _expect_text(turns[0], "turns", where)
    if "instruction" in row:
        parts = [_expect_text(row[name], name, where) for name in ("instruction", "input") if row.get(name)]
        return "\n\n".join(parts)
    if "messages" in row:
        return _last_asked(row["messages"], where)
    name = next((name for name in ("text", "question", "prompt") if name in row), None)
    return None if name is None else _expect_text(row[name], name, where)


def _last_asked(messages: Any, where: str) -> str:
    """A conversation up to its last question: that question alone, or all that was said with who said it."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError(f"{where}: messages must be a list of objects with role and content")
    said = [(message.get("role"), _expect_text(message.get("content"), "content", where)) for message in messages]
    while said and said[-1][0] == "assistant":
        said.pop()
    return said[0][1] if len(said) == 1 else "\n\n".join(f"{role}: {text}" for role, text in said)


def _expect_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} is {type(value).__name__}, not text")
    return value
