"""What the models answered: files of answers, each held against the questions before anything is asked of a judge.

{"question_id": 1, "text": "...", "model_id": "bard:20230327"}            FastChat, as for the 80 Vicuna questions
{"question_id": 81, "choices": [{"turns": ["..."]}], "model_id": "..."}   FastChat, as for MT-bench
{"row": 1, "record": {"instruction": "..."}, "response": "..."}           zerogate generate
{"question_id": 1, "response": "..."}                                     also `answer` or `output`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows
from zerogate.errors import UserError
from zerogate.judging.questions import Question, row_id, to_question

_ANSWER_FIELDS = ("response", "text", "answer", "output")


@dataclass(frozen=True)
class Answers:
    """One model's answers.

    Attributes:
        name: what reports call it.
        path: the file.
        texts: the answers by question id. An empty text is an answer, too.
        questions: what was asked, by id, as far as the file tells.
        unanswered: why questions have no answer, by id.
        ids: the answers' own ids, which saved reviews refer to.
    """

    name: str
    path: str
    texts: dict[str, str]
    questions: dict[str, Question] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()


def read_answers(path: str | Path, name: str = "") -> Answers:
    """Read a file of answers; it is called `name`, else by the one model that its rows name, else by its own name.

    Raises:
        UserError: unreadable or empty, a row without an id or an answer (named), a question answered twice.
    """
    answers = Answers(name, str(path), {})
    rows: dict[str, int] = {}
    models: set[str | None] = set()
    ids = set()
    for number, row in read_rows(str(path)):
        where = f"{path}, row {number}"
        record = row.get("record")
        asked = record if isinstance(record, dict) else row
        place = row.get("row", number) if isinstance(record, dict) or "row" in row else None
        if place is None and row.get("question_id") is None and row.get("id") is None:
            raise UserError(f"{where}: there is no question_id; this row has {', '.join(map(repr, row)) or 'nothing'}")
        key = row_id(asked, place or number, where)
        if key in rows:
            raise UserError(f"{where}: the question {key} is already answered in row {rows[key]}")
        rows[key] = number
        if isinstance(record, dict):
            question = to_question(record, place or number, where)
            if question is not None:
                answers.questions[key] = question
        text = _answer(row, where)
        if text is None:
            answers.unanswered[key] = str(row.get("error") or "its answer is null")
        else:
            answers.texts[key] = text
        model = row.get("model_id") or row.get("model")
        models.add(model if isinstance(model, str) else None)
        ids.add(str(row.get("answer_id")))
    named = models.pop() if len(models) == 1 else None
    called = name or named or Path(path).name.split(".json")[0]
    return Answers(called, answers.path, answers.texts, answers.questions, answers.unanswered, frozenset(ids))


def read_named(given: Sequence[str]) -> list[Answers]:
    """Read answer files given as `FILE` or `NAME=FILE`.

    Raises:
        UserError: as `read_answers`, or two files of one name.
    """
    found: list[Answers] = []
    for text in given:
        name, sign, path = text.partition("=")
        # A path with an equals sign in it is still a path.
        whole = not sign or Path(text).expanduser().is_file()
        answers = read_answers(Path(text if whole else path).expanduser(), "" if whole else name)
        twin = next((other for other in found if other.name == answers.name), None)
        if twin is not None:
            raise UserError(
                f"{twin.path} and {answers.path} are both called {answers.name!r}; give them names: "
                f"one={twin.path} two={answers.path}"
            )
        found.append(answers)
    return found


def match(answers: Sequence[Answers], questions: Sequence[Question] | None, common: bool = False) -> list[Question]:
    """The questions to judge, every one of them answered in every file.

    Args:
        answers: the files.
        questions: what was asked; None takes it from the files, which `zerogate generate` and `--answer` tell.
        common: leave out what some file does not answer, instead of refusing.

    Raises:
        UserError: the files answer different questions, some have no answer, or nothing tells what was asked.
    """
    asked = _known_questions(answers) if questions is None else {question.id: question for question in questions}
    for answer in answers:
        for key, question in answer.questions.items():
            if key in asked and asked[key].text != question.text:
                raise UserError(
                    f"{answer.path}: the question {key} is not the one that was asked elsewhere: "
                    f"{_short(question.text)} here, {_short(asked[key].text)} there. Are the files of one set?"
                )
    if common:
        kept = [question for question in asked.values() if all(question.id in answer.texts for answer in answers)]
        if not kept:
            raise UserError("there is no question that every file answers")
        return kept
    hint = "; --common judges only what every file answers"
    for answer in answers:
        empty = [key for key in answer.unanswered if key in asked]
        if empty:
            reason = answer.unanswered[empty[0]]
            raise UserError(f"{answer.path}: no answer to {_listed(empty)} ({reason}){hint}")
        missing = [key for key in asked if key not in answer.texts]
        if missing:
            raise UserError(f"{answer.path}: no answer to {_listed(missing)} of {len(asked)}{hint}")
        unknown = [key for key in answer.texts if key not in asked]
        if unknown:
            raise UserError(f"{answer.path} answers {_listed(unknown)}, not among the {len(asked)} questions{hint}")
    return list(asked.values())


def _known_questions(answers: Sequence[Answers]) -> dict[str, Question]:
    asked: dict[str, Question] = {}
    for answer in answers:
        asked = answer.questions | asked
    for answer in answers:
        untold = [key for key in (*answer.texts, *answer.unanswered) if key not in asked]
        if untold:
            raise UserError(
                f"{answer.path} does not tell what {_listed(untold)} asked; name the questions: --questions FILE"
            )
    return asked


def _answer(row: Mapping[str, Any], where: str) -> str | None:
    if "choices" in row:
        choices = row["choices"]
        turns = choices[0].get("turns") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else 0
        if not isinstance(turns, list) or len(turns) != 1:
            raise UserError(f"{where}: choices must hold one choice with turns, a list with one answer")
        value = turns[0]
    else:
        name = next((name for name in _ANSWER_FIELDS if name in row), None)
        if name is None:
            raise UserError(
                f"{where}: there is no answer; expected {', '.join(_ANSWER_FIELDS)} or choices, found "
                f"{', '.join(map(repr, row)) or 'nothing'}"
            )
        value = row[name]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: the answer is {type(value).__name__}, not text")
    return value


def _listed(keys: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(keys[:most])
    if len(keys) == 1:
        return f"question {shown}"
    return f"{len(keys)} questions ({shown}{', ...' if len(keys) > most else ''})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
