"""What a model is asked with and without tools, and how its answers are judged (Toolformer, section 4.2).

A question is the beginning of a text; the right answer is to come next:

    number      the first number; in an equation the first one after its `=`
    five words  the answer is among the first five words (LAMA, and what depends on the day)
    twenty words                        among the first twenty (questions about the world)
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote
from xml.etree import ElementTree

from zerogate.data.read import read_rows, read_text
from zerogate.errors import UserError
from zerogate.toolform.world import Told
from zerogate.toolform.worlds import WORLDS

Rule = Literal["number", "five words", "twenty words"]
TaskName = Literal["pocket", "pocket-search", "math", "lama", "questions", "dateset"]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Question:
    """A text to finish.

    Attributes:
        prompt: the text so far.
        answers: any of them is right.
        rule: how that is found out.
        day: on which it is asked, as in 2026-05-28; empty where it does not matter.
    """

    prompt: str
    answers: tuple[str, ...]
    rule: Rule
    day: str = ""

    def right(self, said: str) -> bool:
        """Whether a continuation, without its calls, gives the answer."""
        if self.rule == "number":
            number = first_number(said)
            return number is not None and any(number == first_number(answer) for answer in self.answers)
        words = _words(said)[: 5 if self.rule == "five words" else 20]
        return any(_holds(words, _words(answer)) for answer in self.answers)


def first_number(text: str) -> float | None:
    """The number that an answer gives."""
    before, equals, after = text.partition("=")
    found = (_NUMBER.search(after) if equals and _NUMBER.search(before) else None) or _NUMBER.search(text)
    return None if found is None else float(found[0].replace(",", ""))


def read_tasks(asked: Iterable[tuple[TaskName, str | None, int]]) -> dict[str, list[Question]]:
    """The questions of several tasks by the name of the part; files of one name are told apart by their folders.

    Args:
        asked: of each what `read_task` wants: task, data and limit.

    Raises:
        UserError: as `read_task`; or two parts have the same name still.
    """
    asked, found = list(asked), dict[str, list[Question]]()
    same = Counter((task, _file_name(data)) for task, data, _ in asked if data is not None)
    for task, data, limit in asked:
        alike = data is not None and same[task, _file_name(data)] > 1
        for name, questions in read_task(task, data, limit, with_folder=alike).items():
            if name in found:
                raise UserError(f"evaluate: two tasks are called {name!r}; name each once, and rename one of two files")
            found[name] = questions
    return found


def read_task(
    task: TaskName, data: str | None, limit: int, seed: int = 0, with_folder: bool = False
) -> dict[str, list[Question]]:
    """The questions of a task by the name of the part.

    Args:
        task: which.
        data: its file: for `math` rows with question (or instruction) and answer, or ASDiv's XML; for `lama` rows with
            `masked_sentences` and `obj_label`, or Google-RE's dates of birth; for `questions` rows with question and
            answer or answers.
        limit: so many of each part.
        seed: of questions that are made up.
        with_folder: name the file's folder, too.

    Raises:
        UserError: a file that is missing where one is needed, or a row that does not fit.
    """
    if task in WORLDS:
        world = WORLDS[task]
        return {f"pocket {kind}s": [_told(one) for one in world.questions(kind, limit, seed)] for kind in world.kinds}
    if task == "dateset":
        return {"dateset": dateset(limit, seed)}
    if data is None:
        raise UserError(f"the task {task} needs its file: {{task: {task}, data: FILE}}")
    rows = _asdiv(data) if ".xml" in Path(data).suffixes else read_rows(data)
    fit = (question for _, row in rows if (question := _READERS[task](row)) is not None)
    found = list(islice(fit, limit))
    if not found:
        raise UserError(f"{data}: no row fits the task {task}; the first has {', '.join(rows[0][1])}")
    return {f"{task} ({_file_name(data, with_folder)})": found}


def _file_name(data: str, with_folder: bool = False) -> str:
    *folders, name = data.split("/")
    return " ".join([*(folders[-1:] if with_folder else []), name.split(".")[0]])


def dateset(count: int, seed: int = 0) -> list[Question]:
    """Questions about days whose answers depend on today, as the paper's DATESET, in our words."""
    rng = random.Random(f"dateset {seed}")
    return [_about_days(rng) for _ in range(count)]


def _about_days(rng: random.Random) -> Question:
    today = date(2010, 1, 1) + timedelta(days=rng.randrange(6000))
    away = rng.randint(1, 30)
    other, later = today + timedelta(days=away), today - timedelta(days=away)
    said, day = f"{other:%B} {other.day}, {other.year}", today.isoformat()
    forms: list[tuple[str, str, Rule]] = [
        ("Which day of the week is it today?", f"{today:%A}", "five words"),
        (f"Which day of the week was it {away} days ago?", f"{later:%A}", "five words"),
        (f"Which day of the week will it be in {away} days?", f"{other:%A}", "five words"),
        (f"How many days is it until {said}?", str(away), "number"),
        ("Which month is it now?", f"{today:%B}", "five words"),
        ("Which year is it?", str(today.year), "number"),
    ]
    asked, answer, rule = rng.choice(forms)
    return Question(f"Question: {asked} Answer:", (answer,), rule, day)


def _told(told: Told) -> Question:
    rule: Rule = "number" if told.tool == "Calculator" else "five words"
    return Question(told.before, (told.answer.strip(),), rule, told.day.isoformat())


def _asdiv(path: str) -> list[tuple[int, dict[str, Any]]]:
    """ASDiv's problems, whose data set is one XML file."""
    try:
        problems = ElementTree.fromstring(read_text(Path(path).expanduser())).iter("Problem")
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not valid XML: {error}") from error
    rows = [{field: one.findtext(field, "").strip() for field in ("Body", "Question", "Answer")} for one in problems]
    words = [{"question": f"{row['Body']} {row['Question']}", "answer": row["Answer"]} for row in rows]
    return list(enumerate(words, start=1))


def _math(row: dict[str, Any]) -> Question | None:
    asked, answer = row.get("question") or row.get("instruction"), str(row.get("answer", ""))
    final = answer.rsplit("####", 1)[-1]
    if not isinstance(asked, str) or first_number(final) is None:
        return None
    return Question(f"{asked.strip()} The answer is", (final.strip(),), "number")


def _lama(row: dict[str, Any]) -> Question | None:
    if "evidences" in row:
        return _google_re(row)
    sentences, label = row.get("masked_sentences"), row.get("obj_label")
    text = " ".join(sentences) if isinstance(sentences, list) else ""
    before, mask, after = text.partition("[MASK]")
    # What comes after the blank cannot be seen by a model that reads from left to right, so the blank has to be last.
    if not mask or re.search(r"\w", after) or not isinstance(label, str):
        return None
    return Question(before.rstrip(), (label,), "five words")


def _google_re(row: dict[str, Any]) -> Question | None:
    """A row as Google published it: only years stand there in words, and the subject's name in its address."""
    year = re.match(r"\d{4}", str(row.get("obj", "")))
    agreed = sum(1 if one.get("judgment") == "yes" else -1 for one in row.get("judgments", ()))
    place = str(row["evidences"][0].get("url", "")).rsplit("/", 1)[-1]
    name = re.sub(r"\s*\(.*\)$", "", unquote(place).replace("_", " "))
    if year is None or agreed <= 0 or not name or not str(row.get("pred")).endswith("date_of_birth"):
        return None
    return Question(f"{name} was born in the year", (year[0],), "five words")


def _question(row: dict[str, Any]) -> Question | None:
    asked, answers = row.get("question", row.get("qText")), row.get("answers", row.get("answer"))
    if isinstance(answers, dict):
        answers = answers.get("text")
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(asked, str) or not answers:
        return None
    return Question(f"Question: {asked.strip()} Answer:", tuple(map(str, answers)), "twenty words")


_READERS: dict[str, Callable[[dict[str, Any]], Question | None]] = {
    "math": _math,
    "lama": _lama,
    "questions": _question,
}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _holds(words: list[str], answer: list[str]) -> bool:
    return bool(answer) and any(words[at : at + len(answer)] == answer for at in range(len(words)))
