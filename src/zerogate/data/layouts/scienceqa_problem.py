"""One problem of ScienceQA: what it must hold, how "QCM" words it, and which kinds of question it is.

check_problem(problem, "problems.json, problem 5")
qcm(problem)                                        # ("Question: ...\\nContext: N/A\\nOptions: ...", "B")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zerogate.errors import UserError

LETTERS = "ABCDE"
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
"""The columns of the paper's table; the ninth is their average."""

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}


def check_problem(problem: Any, where: str) -> None:
    """Stop where a problem has not the fields that are read of it.

    Args:
        problem: as the file has it.
        where: what to call it in errors.

    Raises:
        UserError: it is no object, or a field is missing or of the wrong kind (named, with its value).
    """
    has_picture(problem, where)
    missing = [name for name in ("question", "choices", "answer") if name not in problem]
    if missing:
        raise UserError(f"{where}: no field {', '.join(map(repr, missing))}")
    question, choices, answer, hint = (problem.get(name) for name in ("question", "choices", "answer", "hint"))
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: the question is {_shown(question)}, not text")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: the choices are {_shown(choices)}, not a list of texts")
    if len(choices) > len(LETTERS):
        raise UserError(f"{where}: there are {len(choices)} choices, but letters for {len(LETTERS)} only ({LETTERS})")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise UserError(f"{where}: the answer {_shown(answer)} is not the index of one of its {len(choices)} choices")
    if not isinstance(hint, str | None):
        raise UserError(f"{where}: the hint is {_shown(hint)}, not text or null")


def has_picture(problem: Any, where: str) -> bool:
    """Whether a problem has a picture.

    Raises:
        UserError: it is no object, or its picture is no name of a file in a split.
    """
    if not isinstance(problem, dict):
        raise UserError(f"{where}: expected an object with question, choices and answer, found {_shown(problem)}")
    image = problem.get("image")
    if not isinstance(image, str | None):
        raise UserError(f"{where}: the image is {_shown(image)}, not the name of a file or null")
    if image and not isinstance(problem.get("split", ""), str):
        raise UserError(
            f"{where}: the split is {_shown(problem['split'])}, not the name of the folder that its image is in"
        )
    return bool(image)


def image_path(pid: str, problem: dict[str, Any], split: str) -> str:
    """Where the picture of a problem that has one lies among the images."""
    # The parts of a split such as minival lie with the whole: a problem knows its own.
    return str(Path(problem.get("split", split)) / pid / problem["image"])


def qcm(problem: dict[str, Any], caption: str = "") -> tuple[str, str]:
    """A checked problem as "QCM" asks it, and the letter of its answer.

    Args:
        problem: one that `check_problem` lets pass.
        caption: words for its picture, to go into the context.
    """
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, problem["choices"], strict=False))
    context = f"{problem.get('hint') or ''} {caption if problem.get('image') else ''}".strip() or "N/A"
    text = f"Question: {problem['question']}\nContext: {context}\nOptions: {options}\nAnswer:"
    # The official prompt ends in the same way; so three spaces become two.
    return text.replace("  ", " ").strip(), LETTERS[problem["answer"]]


def columns(problem: dict[str, Any], where: str) -> tuple[str, ...]:
    """The columns of the paper's table that a problem counts in.

    Subject (NAT, SOC, LAN); TXT with a hint, IMG with a picture, both, or NO with neither; grades (G1-6, G7-12).

    Raises:
        UserError: an unknown subject or grade.
    """
    subject, grade = problem.get("subject"), str(problem.get("grade", ""))
    if not isinstance(subject, str) or subject not in _SUBJECTS:
        raise UserError(f"{where}: the subject {_shown(subject)} is none of {', '.join(_SUBJECTS)}")
    if not grade.removeprefix("grade").isdecimal():
        raise UserError(f"{where}: the grade {grade!r} is not such as grade4")
    context = [name for name, field in (("TXT", "hint"), ("IMG", "image")) if problem.get(field)] or ["NO"]
    return (_SUBJECTS[subject], *context, "G1-6" if int(grade.removeprefix("grade")) <= 6 else "G7-12")


def _shown(value: Any) -> str:
    """A value as JSON has it, cut short."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
