"""easy-VQA: pictures of one coloured shape, with questions of what it is and what it is not.

    answers.txt                  the 13 words that are answers
    train/questions.json         [["what is the blue shape?", "rectangle", 0], ...]
    train/images/0.png           64 x 64; and the same for test/

The kinds of question are what a model without eyes can tell apart, so that its best is the most frequent answer of
each kind: 66.5 % on the training part.
"""

from __future__ import annotations

from typing import Any

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import Place, one_image
from zerogate.errors import UserError

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
WORDS = (*SHAPES, *COLOURS, "yes", "no")
"""All answers."""

KINDS = ("what shape", "what colour", "such a shape", "such a colour", "no such shape", "no such colour")
"""Kinds of question."""


def read(place: Place, split: str) -> list[Example]:
    """Read a split.

    Raises:
        UserError: no such files, an unknown split, or a row that is no question, answer and number of an image.
    """
    if place.file is not None:
        if place.file.name != "questions.json":
            raise place.wrong_file("train/questions.json")
        files = {place.file.resolve().parent.name: place.file}
    else:
        place.find("*/questions.json", hint=", and the pictures as train/images/0.png")
        files = {file.parent.name: file for file in place.all("*/questions.json")}
    if split not in files:
        raise place.no_split(split, files)
    file = files[split]
    rows = place.read_json(file)
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a list of [question, answer, image], found {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        _check(row, f"{file}, row {number}")
    folder = str(file.parent.relative_to(place.root) / "images")
    images = place.images([folder, f"{split}/images", "images"], (f"{image}.png" for _, _, image in rows))
    return [
        Example(
            number,
            question,
            (answer,),
            answer,
            group=f"image {image}",  # also where images are left out: both are then split alike
            kinds=(kind_of_question(question),),
            **one_image(images, f"{image}.png"),
        )
        for number, (question, answer, image) in enumerate(rows, start=1)
    ]


def kind_of_question(question: str) -> str:
    """One of `KINDS`: what shape or colour it is; whether there is such a one, and whether there is none."""
    words = question.lower().rstrip("?").split()
    if words[:1] == ["what"]:
        return "what colour" if {"color", "colour"} & set(words) else "what shape"
    negated = {"no", "not"} & set(words)
    about = "colour" if set(COLOURS) & set(words) else "shape"
    return f"no such {about}" if negated else f"such a {about}"


def _check(row: Any, where: str) -> None:
    match row:
        case [str(), str() as answer, int()]:
            if answer not in WORDS:
                raise UserError(f"{where}: {answer!r} is no answer of easy-VQA: {', '.join(WORDS)}")
        case _:
            raise UserError(f"{where}: expected [question, answer, number of the image], found {str(row)[:80]}")
