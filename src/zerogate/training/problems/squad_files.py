"""Questions about passages: SQuAD's layout, or records with its columns.

{"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers": [...]}]}]}]}
{"id": ..., "context": ..., "question": ..., "answers": {"text": ["in 2008"], "answer_start": [14]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows, read_text
from zerogate.errors import UserError


@dataclass(frozen=True)
class Question:
    """A question, its passage, and every answer that counts.

    Attributes:
        group: the passage's article, or the passage; questions of one are never parted.
        context: the passage.
        question: the question.
        answers: texts and where they begin in the passage; none where it has no answer (SQuAD 2.0).
    """

    group: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]

    @property
    def truths(self) -> list[str]:
        """The answers' texts."""
        return [text for text, _ in self.answers]


def read_questions(path: str, split: str | None) -> list[Question]:
    """Read a file of questions.

    Raises:
        UserError: no such file, a layout that is neither, or an answer that does not stand where it is said to.
    """
    file = Path(path).expanduser()
    squad = None
    if file.is_file() and ".jsonl" not in file.suffixes and ".parquet" not in file.suffixes:
        try:
            squad = json.loads(read_text(file))
        except json.JSONDecodeError:
            squad = None  # JSON lines, or broken: read_rows knows, and names the line
    questions: list[Question] = []
    if isinstance(squad, dict) and "data" in squad:
        try:
            questions = [_checked(question, path) for question in _squad(squad)]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not in SQuAD's layout: {error!r}") from error
    else:
        for number, row in read_rows(path, split or "train"):
            questions.append(_checked(_record(row, f"{path}, row {number}"), f"{path}, row {number}"))
    if not questions:
        raise UserError(f"{path} holds no questions")
    return questions


def _squad(data: dict[str, Any]) -> Iterator[Question]:
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = [] if asked.get("is_impossible") else asked["answers"]
                pairs = tuple((answer["text"], int(answer["answer_start"])) for answer in answers)
                yield Question(
                    article.get("title", paragraph["context"]), paragraph["context"], asked["question"], pairs
                )


def _record(row: dict[str, Any], where: str) -> Question:
    try:
        answers = row["answers"]
        pairs = tuple(zip(answers["text"], map(int, answers["answer_start"]), strict=True))
        return Question(row.get("title", row["context"]), row["context"], row["question"], pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: expected context, question and answers {{text, answer_start}}: {error!r}") from error


def _checked(question: Question, where: str) -> Question:
    for text, start in question.answers:
        if question.context[start : start + len(text)] != text:
            raise UserError(f"{where}: the answer {text!r} to {question.question!r} does not stand at {start}")
    return question
