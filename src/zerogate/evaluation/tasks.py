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
from typing import Any, Literal

from zerogate.data.layouts import LayoutName, easy_vqa, nlvr
from zerogate.data.layouts.scienceqa_problem import COLUMNS
from zerogate.data.read import Row
from zerogate.errors import UserError
from zerogate.evaluation import scienceqa
from zerogate.evaluation.captions import CaptionScorer
from zerogate.evaluation.choice import LetterScorer, WordScorer
from zerogate.evaluation.exact_words import ExactWordScorer
from zerogate.evaluation.number import NumberScorer
from zerogate.evaluation.questions import Question as Question
from zerogate.evaluation.questions import read_label as read_label
from zerogate.evaluation.questions import read_questions as read_questions
from zerogate.evaluation.scorers import Figures, Scorer


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
        rows: reads the file where it is not a list of rows; its second argument hears what a user should know of it.
        layout: the published data set with images that it is, read from its folder or archive.
        kinds: the order in which its kinds of question are shown.
    """

    name: str
    family: Literal["math", "commonsense", "science", "vision", "captions"]
    scorer: Scorer
    max_new_tokens: int
    num_beams: int = 4
    aliases: tuple[str, ...] = ()
    rows: Callable[[str, Callable[[str], None] | None], list[Row]] | None = None
    layout: LayoutName | None = None
    kinds: tuple[str, ...] = ()

    @property
    def official_splits(self) -> bool:
        """Whether the data set comes with its own test split, so that what that shares with training is part of it."""
        return self.layout is not None or self.rows is not None

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


def _key(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
