"""One question of a published data set, before it becomes a training record or a question of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from zerogate.vision.source import ImageSource


@dataclass(frozen=True)
class Example:
    """A question about images, or about text alone.

    Attributes:
        row: where it was read, from 1.
        instruction: what is asked, as a template's instruction.
        answers: all right answers, worded as a model shall say them: one, or the several captions of an image.
        label: the right answer as the task's scorer reads it; captions are parted by line breaks.
        input: the template's second field, possibly empty.
        images: what it shows.
        left_out: names of what it shows, where images are left out: its right answer may hang on them.
        group: examples of one group are never parted by a split.
        kinds: the kinds of question it is, for figures of each kind.
        choices: how many choices it gives, where it is a multiple choice.
    """

    row: int
    instruction: str
    answers: tuple[str, ...]
    label: str
    input: str = ""
    images: tuple[ImageSource, ...] = ()
    left_out: tuple[str, ...] = ()
    group: str = ""
    kinds: tuple[str, ...] = ()
    choices: int | None = None
