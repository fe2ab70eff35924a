"""The tasks that `zerogate eval` and `zerogate score` know: how a task's file is read and asked, decoded and scored.

    task = find_task("arc-e")                    # also ARC_Easy, arce
    questions = read_questions(task, "arc_easy_test.json")

The files are LLM-Adapters' (a JSON list of instruction, input, output, answer), or a data set's own where it is well
known: GSM8K's question and answer, ScienceQA's problems.json, and the published data sets with images of
`zerogate.data.layouts`. To add a task, add a row to `_TASKS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zerogate.data.layouts import LayoutName, easy_vqa, nlvr, read_examples
from zerogate.data.layouts.scienceqa import COLUMNS
from zerogate.data.read import Row, read_rows
from zerogate.data.records import image_mark
from zerogate.errors import UserError
from zerogate.evaluation import scienceqa
from zerogate.evaluation.captions import CaptionScorer
from zerogate.evaluation.choice import LetterScorer, WordScorer
from zerogate.evaluation.exact_words import ExactWordScorer
from zerogate.evaluation.number import NumberScorer
from zerogate.evaluation.scorers import Figures, Scorer
from zerogate.vision.source import ImageSource


@dataclass(frozen=True)
class Question:
    """One item of a test set.

    Attributes:
        row: where it was read, from 1.
        instruction: what is asked, as the template's instruction.
        input: the template's second field, possibly empty.
        label: the right answer, as the task's scorer reads it.
        images: what it shows, for models that see.
        kinds: the kinds of question it is, for figures of each kind.
    """

    row: int
    instruction: str
    input: str
    label: str
    images: tuple[ImageSource, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What a leak check compares: as `Record.prompt_key`, the same question about another image is another one.

        Raises:
            UserError: an image cannot be read.
        """
        marks = [image_mark(image.digest) for image in self.images]
        return "\n".join(part for part in (*marks, self.instruction, self.input) if part)

    def known(self) -> dict[str, Any]:
        """What a row of predictions records of it beside the prompt: its label, images and kinds if it has any."""
        fields: dict[str, Any] = {"label": self.label}
        fields |= {"images": [image.name for image in self.images]} if self.images else {}
        return fields | ({"kinds": list(self.kinds)} if self.kinds else {})


@dataclass(frozen=True)
class Task:
    """One test set's rules.

    Attributes:
        name: as the papers write it.
        family: what kind of task it is, for tables.
        scorer: how a response is judged.
        max_new_tokens: longest answer by default.
        num_beams: width of the beam search by default; 1 is greedy.
        aliases: other names, without case and punctuation.
        rows: reads the file where it is not a list of rows.
        layout: the published data set with images that it is, read from its folder or archive.
        kinds: the order in which its kinds of question are shown.
    """

    name: str
    family: Literal["math", "commonsense", "science", "vision", "captions"]
    scorer: Scorer
    max_new_tokens: int
    num_beams: int = 4
    aliases: tuple[str, ...] = ()
    rows: Callable[[str], list[Row]] = read_rows
    layout: LayoutName | None = None
    kinds: tuple[str, ...] = ()

    def total(self, rows: Iterable[Mapping[str, Any]]) -> Figures:
        """The score of judged rows, as `score_file` and `evaluate_task` give them."""
        return self.scorer.total(rows, self.kinds)


_NUMBER, _LETTER = NumberScorer(), LetterScorer()
_ANSWERS = WordScorer("answer1", "answer2", "answer3", "answer4", "answer5")
_ENDINGS = WordScorer("ending1", "ending2", "ending3", "ending4")
_SCIENCEQA = LetterScorer(said=r"The answer is ([A-Z]).")

# Four beams and these lengths are LLM-Adapters'; ScienceQA is LLaMA-Adapter's, which decodes greedily.
_TASKS = (
    Task("AddSub", "math", _NUMBER, 256),
    Task("MultiArith", "math", _NUMBER, 256),
    Task("SingleEq", "math", _NUMBER, 256),
    Task("GSM8K", "math", _NUMBER, 256),
    Task("AQuA", "math", _LETTER, 256, aliases=("aquarat",)),
    Task("SVAMP", "math", _NUMBER, 256),
    Task("MAWPS", "math", _NUMBER, 256),
    Task("MathQA", "math", _LETTER, 256),
    Task("BoolQ", "commonsense", WordScorer("true", "false"), 32),
    Task("PIQA", "commonsense", WordScorer("solution1", "solution2"), 32),
    Task("SIQA", "commonsense", _ANSWERS, 32, aliases=("socialiqa",)),
    Task("HellaSwag", "commonsense", _ENDINGS, 32),
    Task("WinoGrande", "commonsense", WordScorer("option1", "option2"), 32),
    Task("ARC-e", "commonsense", _ANSWERS, 32, aliases=("arceasy",)),
    Task("ARC-c", "commonsense", _ANSWERS, 32, aliases=("arcchallenge",)),
    Task("OBQA", "commonsense", _ANSWERS, 32, aliases=("openbookqa",)),
    Task("ScienceQA", "science", _SCIENCEQA, 32, num_beams=1, rows=scienceqa.text_problems),
    Task("ScienceQA-full", "science", _SCIENCEQA, 32, num_beams=1, layout="scienceqa", kinds=COLUMNS),
    Task("ScienceQA-captions", "science", _SCIENCEQA, 32, num_beams=1, layout="scienceqa_captions", kinds=COLUMNS),
    Task(
        "easy-VQA", "vision", ExactWordScorer(*easy_vqa.WORDS), 8, num_beams=1, layout="easy_vqa", kinds=easy_vqa.KINDS
    ),
    Task("NLVR", "vision", ExactWordScorer(*nlvr.WORDS), 8, num_beams=1, layout="nlvr"),
    Task("Flickr8k", "captions", CaptionScorer(), 40, num_beams=1, layout="flickr8k"),
    Task(
        "COCO-captions", "captions", CaptionScorer(), 40, num_beams=1, layout="karpathy", aliases=("karpathy", "coco")
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def find_task(name: str) -> Task:
    """The task of that name, case and punctuation aside.

    Raises:
        UserError: there is none; the nearest name, or all of them, are in the message.
    """
    known = {_key(key): task for task in _TASKS for key in (task.name, *task.aliases)}
    if _key(name) in known:
        return known[_key(name)]
    near = difflib.get_close_matches(_key(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[near[0]].name}? All" if near else "known"
    raise UserError(f"unknown task {name!r}; {hint}: {', '.join(TASKS)}")


def read_questions(task: Task, path: str | Path, limit: int | None = None) -> list[Question]:
    """Read a test set.

    Args:
        task: how to read it.
        path: the file; `.xz`, `.gz` and `.bz2` are unpacked. For a published data set with images its folder or
            archive, also as `PATH:SPLIT` (such as `easy_vqa.tar:train[90%:]`); without a split, `test` is asked.
        limit: take only the first so many rows.

    Raises:
        UserError: no such file, malformed JSON, a missing column (named), or a label of the wrong type (with its row).
    """
    if task.layout is not None:
        return [
            Question(item.row, item.instruction, item.input, item.label, item.images, item.kinds)
            for item in read_examples(task.layout, str(path), "test")[:limit]
        ]
    rows = task.rows(str(path))[:limit]
    return [_question(task, number, row, str(path)) for number, row in rows]


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


def _question(task: Task, number: int, row: dict[str, Any], path: str) -> Question:
    where = f"{path}, row {number}"
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
    return Question(number, instruction, context or "", read_label(task, label, where))


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
