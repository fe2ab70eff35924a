"""ScienceQA's own layout: multiple choice from school, half of it with a picture.

    problems.json          an object of problems by their id: question, choices, answer (an index), hint, image, ...
    pid_splits.json        ids of train, val, test, minival, ...
    captions.json          machine captions of the pictures, for models that see none
    images/test/5/image.png

The wording is LLaMA-Adapter's "QCM-A": question, context and options in, "The answer is B." out, without lecture or
explanation. The kinds of question are the eight columns of the paper's table; the ninth is their average.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import Place, one_image
from zerogate.errors import UserError

LETTERS = "ABCDE"
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_ARCHIVES = ("images*.tar*", "images*.zip", "train.zip", "val.zip", "test.zip")


def read(place: Place, split: str) -> list[Example]:
    """Read a split, all of its problems, with their pictures.

    Raises:
        UserError: no such files, an unknown split, a problem without its fields, or no problem of the split.
    """
    return _read(place, split, None)


def read_captions(place: Place, split: str) -> list[Example]:
    """Read a split with a machine caption in the context instead of each picture: the text-only models of the paper.

    Raises:
        UserError: as `read`, or there are no captions.
    """
    captions = place.read_object(place.find("captions*.json*")).get("captions")
    if not isinstance(captions, dict):
        raise UserError(f"{place.path}: captions.json has no object 'captions'")
    place.use_images = False
    return _read(place, split, captions)


def _read(place: Place, split: str, captions: dict[str, str] | None) -> list[Example]:
    file = place.file or place.find("problems*.json*", hint=", pid_splits.json and images/test/5/image.png")
    problems = place.read_object(file)
    chosen = split_problems(place, problems, split)
    if not chosen:
        raise UserError(f"{file} holds no question of the split {split!r}")
    paths = {pid: path for pid in chosen if (path := _image_path(pid, problems[pid], split))}
    images = place.images(["images"], paths.values(), _ARCHIVES)
    examples = []
    for row, pid in enumerate(chosen, start=1):
        where = f"{file}, problem {pid}"
        instruction, letter = qcm(problems[pid], where, "" if captions is None else captions.get(pid, ""))
        examples.append(
            Example(
                row,
                instruction,
                (f"The answer is {letter}.",),
                letter,
                images=one_image(images, paths[pid]) if pid in paths else (),
                group=f"problem {pid}",
                kinds=columns(problems[pid], where),
            )
        )
    return examples


def split_problems(place: Place, problems: dict[str, Any], split: str) -> list[str]:
    """The ids of a split whose problems are there, in the split's order.

    Raises:
        UserError: no file of splits, or none of that name.
    """
    splits = place.read_object(place.find("pid_splits*.json*"))
    if split not in splits:
        raise UserError(f"{place.root}: pid_splits has no split {split!r}; it has {', '.join(splits)}")
    return [pid for pid in splits[split] if pid in problems]


def qcm(problem: dict[str, Any], where: str, caption: str = "") -> tuple[str, str]:
    """A problem as "QCM" asks it, and the letter of its answer.

    Args:
        problem: the problem.
        where: what to call it in errors.
        caption: words for its picture, to go into the context.

    Raises:
        UserError: a field is missing, or the answer is no index of a choice.
    """
    missing = [name for name in ("question", "choices", "answer") if name not in problem]
    if missing:
        raise UserError(f"{where}: no field {', '.join(map(repr, missing))}")
    choices, answer = problem["choices"], problem["answer"]
    if not isinstance(answer, int) or not 0 <= answer < min(len(choices), len(LETTERS)):
        raise UserError(f"{where}: the answer {answer!r} is not the index of one of its {len(choices)} choices")
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    context = " ".join(part for part in (problem.get("hint"), caption if problem.get("image") else "") if part) or "N/A"
    return f"Question: {problem['question']}\nContext: {context}\nOptions: {options}\nAnswer:", LETTERS[answer]


def columns(problem: dict[str, Any], where: str) -> tuple[str, ...]:
    """The columns of the paper's table that a problem counts in.

    Subject (NAT, SOC, LAN); TXT with a hint, IMG with a picture, both, or NO with neither; grades (G1-6, G7-12).

    Raises:
        UserError: an unknown subject or grade.
    """
    subject, grade = problem.get("subject"), str(problem.get("grade", ""))
    if subject not in _SUBJECTS:
        raise UserError(f"{where}: the subject {subject!r} is none of {', '.join(_SUBJECTS)}")
    if not grade.removeprefix("grade").isdecimal():
        raise UserError(f"{where}: the grade {grade!r} is not such as grade4")
    context = [name for name, field in (("TXT", "hint"), ("IMG", "image")) if problem.get(field)] or ["NO"]
    return (_SUBJECTS[subject], *context, "G1-6" if int(grade.removeprefix("grade")) <= 6 else "G7-12")


def _image_path(pid: str, problem: dict[str, Any], split: str) -> str | None:
    # The parts of a split such as minival lie with the whole: a problem knows its own.
    return str(Path(problem.get("split", split)) / pid / problem["image"]) if problem.get("image") else None
