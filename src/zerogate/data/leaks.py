"""Near-duplicate questions between training and test data: counted, shown, and refused unless they are allowed.

    report = find_near_duplicates(training_texts, test_texts)
    print(report.line())                        # 243 of 395 test questions also stand in the training data (61.5 %)
    refuse_leaks("AddSub", report, allowed=())  # UserError, with the pairs side by side

A published data set's own splits share wordings with other choices or contexts, which is part of it: for those only
what stands in the training data word for word is refused.

Texts are compared as runs of three words, case, punctuation and spacing aside, and every number the same: who has seen
a question with other numbers has learned to solve it (SVAMP is made of ASDiv's questions in this way). Runs that many
test questions share, such as "please choose the correct answer", say nothing and are left out. A test question is a
near-duplicate when one training text has most of its runs: copied, reworded a little, or embedded in more text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import ValidationError

from zerogate.data.formats import detect_format, to_records
from zerogate.data.layouts import LAYOUTS
from zerogate.data.layouts.splits import path_and_split
from zerogate.data.load import POCKET, load_records
from zerogate.data.read import read_rows
from zerogate.data.records import split_key
from zerogate.data.section import DataSection
from zerogate.data.split import normalise
from zerogate.errors import UserError
from zerogate.vision.check import check_images

WORDS = 3
"""Words in a run."""

SHARE = 0.6
"""A test question with this share of its runs in one training text is a near-duplicate."""

COMMON = 0.05
"""Runs in more than this share of the test questions (and in more than twenty) are boilerplate."""

FEWEST = 6
"""A question with fewer telling runs is only compared as a whole: little text is alike by chance."""


_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million half"
)
_NUMBERS = frozenset(_NUMBER_WORDS.split())


@dataclass(frozen=True)
class Leak:
    """One test question and the training text that gives it away.

    Attributes:
        test: position in the test texts, from 0.
        train: position in the training texts, from 0.
        share: of the test question's runs that stand there, 0 to 1; 1 means the same text word for word.
        test_text: the question.
        train_text: the training text.
    """

    test: int
    train: int
    share: float
    test_text: str
    train_text: str


@dataclass(frozen=True)
class LeakCheck:
    """What was found.

    Attributes:
        n: test questions that were looked for.
        leaks: in the order of the test questions, each with its closest training text.
        left_out: test questions that were not looked for, as they are about images that are not looked at.
    """

    n: int
    leaks: list[Leak]
    left_out: int = 0

    @property
    def rows(self) -> set[int]:
        """Positions of the test questions that leak."""
        return {leak.test for leak in self.leaks}

    @property
    def word_for_word(self) -> list[Leak]:
        """The leaks whose whole text (and image) stands in the training data."""
        return [leak for leak in self.leaks if leak.share == 1]

    def line(self) -> str:
        """The count in words."""
        left_out = f"{self.left_out:,} about images that are not looked at were not looked for"
        if not self.n:
            return f"no test question was looked for in the training data: {left_out}"
        more = f"; {left_out}" * bool(self.left_out)
        if not self.leaks:
            return f"none of {self.n:,} test questions stands in the training data{more}"
        return (
            f"{len(self.leaks):,} of {self.n:,} test questions also stand in the training data "
            f"({len(self.leaks) / self.n:.1%}), {len(self.word_for_word):,} of them word for word{more}"
        )

    def examples(self, count: int = 3) -> list[Leak]:
        """Pairs to show, the least alike among them, so that a reader can judge the check itself."""
        by_share = sorted(self.leaks, key=lambda leak: -leak.share)
        step = max(1, (len(by_share) - 1) // max(1, count - 1))
        return by_share[::step][:count]

    def pairs(self, count: int = 3) -> str:
        """Examples in words, the test question above the training text."""
        return "\n".join(
            f"  test {leak.test + 1}: {_short(leak.test_text)}\n  train {leak.train + 1}: {_short(leak.train_text)}"
            for leak in self.examples(count)
        )


def find_near_duplicates(train: Sequence[str], test: Sequence[str | None]) -> LeakCheck:
    """Look for each test question in the training texts.

    Questions about images (keys of records, which begin with the images' marks) are only alike when their images are
    the same.

    Time grows with the words of both, not with their product: only training texts that share a telling run with a
    question are compared with it (52,000 training texts against 2,000 questions take seconds).

    Args:
        train: questions (answers left out) that a model learned from.
        test: questions that it is to be asked; None for one that is about images and was read without them.
    """
    keys = [key or "" for key in test]
    shown, asked = zip(*map(split_key, keys), strict=True) if keys else ((), ())
    questions = [normalise(text) for text in asked]
    runs = _telling_runs(questions)
    owners: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(runs):
        for run in found if len(found) >= FEWEST else ():
            owners.setdefault(run, []).append(number)
    whole: dict[tuple[str, str], list[int]] = {}
    for number, text in enumerate(questions):
        if test[number] is not None:
            whole.setdefault((shown[number], text), []).append(number)
    best: dict[int, tuple[float, int]] = {}
    for place, text in enumerate(train):
        images, learned = split_key(text)
        known = normalise(learned)
        shared: Counter[int] = Counter()
        for run in _runs(known):
            shared.update(owners.get(run, ()))
        close = {number: count / len(runs[number]) for number, count in shared.items()}
        # All telling runs may be there and the numbers still differ: only the same text counts as 1.
        close = {number: min(share, 0.999) for number, share in close.items() if share >= SHARE}
        close = {number: share for number, share in close.items() if shown[number] == images}
        close |= dict.fromkeys(whole.get((images, known), ()), 1.0)
        for number, share in close.items():
            if share > best.get(number, (0.0, 0))[0]:
                best[number] = (share, place)
    leaks = [Leak(number, place, share, keys[number], train[place]) for number, (share, place) in sorted(best.items())]
    left_out = sum(key is None for key in test)
    return LeakCheck(len(test) - left_out, leaks, left_out)


def refuse_leaks(
    task: str,
    check: LeakCheck,
    allowed: Collection[str],
    option: str = "--allow-leak",
    official_splits: bool = False,
) -> None:
    """Stop when test questions stand in the training data, unless the task is among those allowed.

    Args:
        task: what the test questions are called.
        check: what was found.
        allowed: names of tasks whose leaks are known and accepted, in any case.
        option: what the caller's user writes to allow one.
        official_splits: the data set comes with its own splits: only word for word counts.

    Raises:
        UserError: the count, and pairs of questions.
    """
    counted = check.word_for_word if official_splits else check.leaks
    if not counted or task.lower() in {name.lower() for name in allowed}:
        return
    raise UserError(
        f"{task}: {check.line()}, so its accuracy would say little. If you know and accept that: {option} {task}. "
        f"Examples:\n{replace(check, leaks=counted).pairs()}"
    )


def training_questions(path: str, look: bool = True) -> list[str]:
    """The questions of a training file: in any format that training reads, or rows of question and answer.

    Args:
        path: the file.
        look: whether images are looked at; else questions about images are left out, as they cannot be told apart.

    Raises:
        UserError: as `read_rows` and `to_records`, or images that cannot be read.
    """
    rows = read_rows(path)
    if "question" in rows[0][1]:
        return [str(row.get("question", "")) for _, row in rows]
    records = to_records(rows, detect_format(rows[0][1]), path)
    if look:
        check_images((record.row, record.images) for record in records).refuse(path)
    return [record.prompt_key for record in records if look or not record.images]


def run_recipe(folder: Path) -> Path | None:
    """The recipe of the run that a folder is, or lies in as its `best` or `last`; None where there is none."""
    run = folder.parent if folder.name in ("best", "last") else folder
    return run / "recipe.yaml" if (run / "recipe.yaml").is_file() else None


def recorded_training(folder: Path, look: bool = True) -> tuple[str, list[str] | None] | None:
    """What the run that made an adapter (or a trained base) learned from, as its recipe records it.

    Args:
        folder: a run's folder, or `best` or `last` in one.
        look: as in `training_questions`.

    Returns:
        The data's name and its questions, which are None where the data is not on this machine any more; None where
        there is no recipe.
    """
    file = run_recipe(folder)
    if file is None:
        return None
    try:
        section = DataSection.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))["data"])
    except (yaml.YAMLError, ValidationError, KeyError, TypeError):
        return None  # a recipe.yaml of someone else's
    if section.path not in POCKET and not Path(path_and_split(section.path, "")[0]).expanduser().exists():
        return section.path, None  # a Hub data set is not fetched for a check
    if not look:
        # A published data set's images need not even be there. Elsewhere they say which records are held out.
        section = section.model_copy(update={"use_images": False} if section.format in LAYOUTS else {})
        return section.path, [record.prompt_key for record in load_records(section)[0] if not record.images]
    records = load_records(section)[0]
    images = check_images((record.row, record.images) for record in records)
    if len(images.bad) == len(records):
        return section.path, None  # the records are here, their images are not
    return section.path, [record.prompt_key for record in records if record.row not in images.bad]


def _telling_runs(questions: Sequence[str]) -> list[set[tuple[str, ...]]]:
    runs = [_runs(text) for text in questions]
    spread = Counter(run for found in runs for run in found)
    most = max(20, COMMON * len(questions))
    return [{run for run in found if spread[run] <= most} for found in runs]


def _runs(text: str) -> set[tuple[str, ...]]:
    """The runs of words in a normalised text, numbers masked. Runs of numbers and lone letters say nothing."""
    words = ["0" if any(map(str.isdigit, word)) or word in _NUMBERS else word for word in text.split()]
    telling = [len(word) > 1 for word in words]
    return {tuple(words[n : n + WORDS]) for n in range(len(words) - WORDS + 1) if sum(telling[n : n + WORDS]) > 1}


def _short(text: str, length: int = 160) -> str:
    images, asked = split_key(text)
    line = " ".join(f"{'(with an image) ' * bool(images)}{asked}".split())
    return line if len(line) <= length else line[: length - 3] + "..."
