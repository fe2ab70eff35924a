"""Questions of a test set, read from a task's file: rows of a list, or a published data set in its own layout.

    questions = read_questions(find_task("arc-e"), "arc_easy_test.json")
    questions = read_questions(find_task("easy-vqa"), "easy_vqa.tar:test", use_images=False)    # nobody will look

A list of rows may show images in a column `image` or `images`, as training data does (`zerogate.data.image_fields`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.data.archive import image_folder
from zerogate.data.image_fields import Images, place_images, shows_images
from zerogate.data.layouts import read_examples
from zerogate.data.read import Row, read_rows
from zerogate.data.records import Record, Turn, image_mark
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource

if TYPE_CHECKING:
    from zerogate.evaluation.tasks import Task

_WAY_OUT = "Name their folder or archive with --images, or show none with --blind"


@dataclass(frozen=True)
class Question:
    """One item of a test set.

    Attributes:
        row: where it was read, from 1.
        instruction: what is asked, as the template's instruction.
        input: the template's second field, possibly empty.
        label: the right answer, as the task's scorer reads it.
        images: what it shows, for models that see.
        left_out: names of what it shows, where it was read without images.
        kinds: the kinds of question it is, for figures of each kind.
        choices: how many choices it gives, where the task's authors let chance choose for an answer that is none.
    """

    row: int
    instruction: str
    input: str
    label: str
    images: tuple[ImageSource, ...] = ()
    kinds: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    choices: int | None = None

    @property
    def key(self) -> str:
        """What a leak check compares: as `Record.prompt_key`, the same question about another image is another one.

        Reads the images; `check_images` says first which cannot be.

        Raises:
            UserError: an image cannot be read.
        """
        marks = [image_mark(image.digest) for image in self.images]
        return "\n".join(part for part in (*marks, self.instruction, self.input) if part)

    def known(self) -> dict[str, Any]:
        """What a row of predictions records of it beside the prompt: its label, and what it has of all else."""
        fields: dict[str, Any] = {"label": self.label}
        names = self.left_out or [image.name for image in self.images]
        fields |= {"images": list(names)} if names else {}
        fields |= {"kinds": list(self.kinds)} if self.kinds else {}
        return fields | ({"choices": self.choices} if self.choices is not None else {})


def read_questions(
    task: Task,
    path: str | Path,
    limit: int | None = None,
    *,
    images: str | None = None,
    use_images: bool = True,
    told: Callable[[str], None] | None = None,
) -> list[Question]:
    """Read a test set. Images are not opened here.

    Args:
        task: how to read it.
        path: the file; `.xz`, `.gz` and `.bz2` are unpacked. For a published data set with images its folder or
            archive, also as `PATH:SPLIT` (such as `easy_vqa.tar:train[90%:]`); without a split, `test` is asked.
        limit: take only the first so many rows.
        images: the folder or archive of its images, if they are not where the data has them.
        use_images: false for a model that looks at none: then they need not be there, and questions have their names.
        told: called with what a user should know of the data, such as that only a part of the split is there.

    Raises:
        UserError: no such file, malformed JSON, a missing column (named), a label of the wrong type (with its row), or
            images that are nowhere.
    """
    folder = None if images is None or not use_images else image_folder(images, "--images")
    if task.layout is not None:
        place = None if folder is None else str(folder)
        examples = read_examples(task.layout, str(path), "test", place, use_images, _WAY_OUT, told)
        return [
            Question(
                item.row, item.instruction, item.input, item.label, item.images, item.kinds, item.left_out, item.choices
            )
            for item in examples[:limit]
        ]
    rows = read_rows(str(path)) if task.rows is None else task.rows(str(path), told)
    data = Path(path).expanduser()
    reader = _RowReader(task, str(path), Images(folder or (data if data.is_dir() else data.parent), use_images), rows)
    return [reader.question(number, row) for number, row in rows[:limit]]


def read_label(task: Task, value: Any, where: str) -> str:
    """A label as the task's scorer reads it.

    Raises:
        UserError: not a label of this task; `where` names the file and row.
    """
    try:
        return task.scorer.read_label(value)
    except ValueError as error:
        raise UserError(f"{where}: the label of a {task.name} row {error}") from None


def missing_columns(missing: list[str], row: dict[str, Any]) -> str:
    """The words for columns that a row lacks."""
    names = " and no column ".join(map(repr, missing))
    return f"there is no column {names}; this row has {', '.join(map(repr, row)) or 'none'}"


class _RowReader:
    """Makes questions of the rows of one file."""

    def __init__(self, task: Task, path: str, images: Images, rows: list[Row]) -> None:
        self.task, self.path, self.images = task, path, images
        # Where no row shows an image, "<image>" is text like any other.
        self.pictured = any(shows_images(row) for _, row in rows)

    def question(self, number: int, row: dict[str, Any]) -> Question:
        task, where = self.task, f"{self.path}, row {number}"
        instruction, label = row.get("instruction"), row.get("answer")
        if task.name == "GSM8K" and "instruction" not in row and "question" in row:
            instruction = row["question"]
            if isinstance(label, str) and "####" in label:  # the solution stands before it
                label = label.rpartition("####")[2]
        missing = [name for name, value in (("instruction", instruction), ("answer", label)) if value is None]
        if missing:
            wanted = "question and answer, or " * (task.name == "GSM8K") + "instruction, input and answer"
            raise UserError(f"{where}: {missing_columns(missing, row)}; {task.name} wants {wanted}")
        context = row.get("input")
        if not isinstance(instruction, str) or not isinstance(context, str | None):
            raise UserError(f"{where}: instruction and input must be text")
        record = self._with_images(Record(number, (Turn("user", instruction, input=context or ""),)), row, where)
        (turn,), shown = record.turns, record.images
        return Question(
            number,
            turn.content,
            turn.input,
            read_label(task, label, where),
            images=shown if self.images.use else (),
            left_out=() if self.images.use else tuple(image.name for image in shown),
            choices=row.get("choices") if task.rows is not None else None,
        )

    def _with_images(self, record: Record, row: dict[str, Any], where: str) -> Record:
        if not self.pictured:
            return record
        try:
            return place_images(record, self.images.of_columns(row))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
