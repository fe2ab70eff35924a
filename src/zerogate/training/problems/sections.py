"""The recipes of tasks with labels: the common sections, `task:`, and a `data:` section of the task's own.

task: image_classification
data: {path: photos.tar, split: train, held_out: test}
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from zerogate.data.section import HeldOut, SetAside
from zerogate.errors import UserError
from zerogate.training.problems.structured_images import StructuredName
from zerogate.training.recipe import Recipe, Section


class LabelledSection(Section):
    """What all of these have in common.

    Attributes:
        path: the file or folder to learn from.
        split: the part of it to learn from, where it has parts.
        held_out: how many records to keep for measuring; or what to measure on: another file, or, where there is a
            `split`, another part of `path`. Nothing is measured without.
        held_out_limit: measure on so many of them only, a random choice that stays the same.
        split_seed: picks the held-out records.
        limit: learn from so many records only, a random choice that stays the same.
        set_aside: what another run holds out of the same file, to be left alone by this one.
    """

    path: str
    split: str | None = None
    held_out: HeldOut = None
    held_out_limit: Annotated[int, Field(ge=1)] | None = None
    split_seed: int = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    set_aside: SetAside | None = None


class ImageSection(LabelledSection):
    """Pictures.

    Attributes:
        labels: where classes come from: the pictures' `folder`, or what is worked out from NLVR's or easy-VQA's files.
    """

    labels: Literal["folder"] | StructuredName = "folder"


class ClassNamesSection(ImageSection):
    """Pictures, for a model that reads the names of their classes.

    Attributes:
        shots: pictures of each base class to learn from, a random choice that stays the same.
        template: the text of a class, `{}` its name.
    """

    shots: Annotated[int, Field(ge=1)] = 16
    template: str = "a photo of a {}."


class QuestionSection(LabelledSection):
    """Questions about a passage, in SQuAD's layout (1.1 and 2.0) or as records with its columns.

    Attributes:
        max_length: most tokens in a window of question and passage.
        stride: how many of a passage's tokens two windows share.
        max_answer_length: the longest answer, in tokens.
    """

    max_length: Annotated[int, Field(ge=16)] = 384
    stride: Annotated[int, Field(ge=0)] = 128
    max_answer_length: Annotated[int, Field(ge=1)] = 30


class TaggedSection(LabelledSection):
    """Sentences with a tag per word: CoNLL files, or JSON lines with `tokens` and `ner_tags` or `words` and `frames`.

    Attributes:
        max_length: most tokens in a sequence; longer sentences are cut between words, and every part is learned.
    """

    max_length: Annotated[int, Field(ge=16)] = 256


class LabelledRecipe(Recipe):
    """A recipe of a task with labels.

    Attributes:
        task: which.
    """

    task: str


class ImageRecipe(LabelledRecipe):
    """Which class is this picture of?"""

    task: Literal["image_classification"]
    data: ImageSection  # type: ignore[assignment]


class BaseToNovelRecipe(LabelledRecipe):
    """Does what is learned of half of the classes help with the other half, known by name alone?"""

    task: Literal["base_to_novel"]
    data: ClassNamesSection  # type: ignore[assignment]


class QuestionRecipe(LabelledRecipe):
    """Which words of the passage answer the question?"""

    task: Literal["question_answering"]
    data: QuestionSection  # type: ignore[assignment]


class TaggedRecipe(LabelledRecipe):
    """Which words are names, or have a part in what the predicate says?"""

    task: Literal["token_classification"]
    data: TaggedSection  # type: ignore[assignment]


TASKS: dict[str, type[Recipe]] = {
    "causal_lm": Recipe,
    "image_classification": ImageRecipe,
    "base_to_novel": BaseToNovelRecipe,
    "question_answering": QuestionRecipe,
    "token_classification": TaggedRecipe,
}


def recipe_class(settings: dict[str, Any]) -> type[Recipe]:
    """The schema of a recipe, by its `task`; without one it is a language model's.

    Raises:
        UserError: no such task.
    """
    name = settings.get("task", "causal_lm")
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; known tasks: {', '.join(TASKS)}")
    return TASKS[name]
