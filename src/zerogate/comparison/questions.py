"""What a comparison asks a model: the tasks of `zerogate eval`, or an exact match on held-out records.

`check_tasks` reads every file and looks for leaks before anything is trained; `ask` puts the questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerogate.comparison.recipe import Comparison
from zerogate.comparison.sections import MethodEntry, TaskSection
from zerogate.data.leaks import find_near_duplicates, refuse_leaks
from zerogate.data.load import POCKET, load_records, pocket_rows, with_good_images
from zerogate.data.records import Record
from zerogate.data.section import DataSection
from zerogate.data.split import find_leaks
from zerogate.errors import UserError
from zerogate.evaluation.evaluate import ImageUse, evaluate_task
from zerogate.evaluation.exact_match import exact_match
from zerogate.evaluation.tasks import Question, find_task, read_questions
from zerogate.training.checkpoints import write_text
from zerogate.training.recipe_file import validate
from zerogate.vision.adapter_encoders import AdapterEncoders, active_adapter


def check_tasks(comparison: Comparison, methods: Sequence[MethodEntry]) -> list[str]:
    """Read what will be asked, and look for it in what the common data and the methods' own have to learn.

    Returns:
        What to say of held-out records that training has too, where these are what is asked.

    Raises:
        UserError: an unknown task, a file that is not there or malformed, nothing to ask, or a leak of a file of
            questions that the recipe does not allow.
    """
    common = validate(DataSection, comparison.data, "data")
    sections = {common: ""}
    for method in methods:
        section = validate(DataSection, {**comparison.data, **method.data}, f"method {method.name!r}: data")
        sections.setdefault(section, f"method {method.name!r}: ")
    said = []
    for section, whose in sections.items():
        try:
            said += [f"{whose}{line}" for line in _check_section(comparison, section)]
        except UserError as error:
            raise UserError(f"{whose}{error}") from error
    return said


def _check_section(comparison: Comparison, section: DataSection) -> list[str]:
    """What `check_tasks` does, for one section that is learned from."""
    said = []
    parts: tuple[list[Record], list[Record]] | None = None
    for task in comparison.tasks:
        if task.task == "exact_match" and task.data is None:
            _rows(task, section)
            parts = parts or _readable(section)
            leaks = find_leaks(*parts)
            said += [f"{task.label}: {leaks.line()}"] if leaks.exact or leaks.normalised else []
            continue
        asked = _asked(task, section)
        parts = parts or _readable(section)
        check = find_near_duplicates([record.prompt_key for record in parts[0]], asked)
        official = task.task != "exact_match" and find_task(task.task).official_splits
        option = "allow_leak: true in the recipe, for"
        refuse_leaks(task.label, check, [task.label] * task.allow_leak, option, official)
    return said


def ask(task: TaskSection, data: DataSection, model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Ask a task's questions. Every answer goes to a file in `folder`.

    Returns:
        All that was counted; `accuracy` is what tables show: exact match, the strict scorer's share, or BLEU-4.
    """
    answers = folder / (re.sub(r"[^\w.]+", "-", task.label).strip("-") + ".jsonl")
    if task.task == "exact_match":
        limit = task.max_new_tokens or 32
        score = exact_match(model, tokenizer, _rows(task, data), max_new_tokens=limit, batch_size=task.batch_size)
        write_text(answers, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in score.rows))
        return {"accuracy": score.exact, "exact": score.exact, "contains": score.contains, "n": score.n}
    result = evaluate_task(
        model,
        tokenizer,
        find_task(task.task),
        _questions(task),
        batch_size=task.batch_size,
        max_new_tokens=task.max_new_tokens,
        num_beams=task.beams,
        images=_shown(task, model),
        predictions=answers,
        skip_long=True,
    )
    counted = result.score.as_dict()
    accuracy = counted["bleu4"] if task.captions else result.strict
    return {"accuracy": accuracy, "decoding": result.decoding, **counted}


def _shown(task: TaskSection, model: Any) -> ImageUse:
    """Which images are shown; a model that takes none cannot be shown others'."""
    sees = active_adapter(model) in AdapterEncoders(model).seeing
    return task.images if sees else "own"


def _questions(task: TaskSection) -> list[Question]:
    found = find_task(task.task)
    if task.data is None:
        raise UserError(f"tasks: {task.task} needs the file of its questions (data: FILE)")
    return read_questions(found, task.data, task.limit)


def _readable(section: DataSection) -> tuple[list[Record], list[Record]]:
    """The training and the held-out records of a section whose images can be read."""
    train, held_out, _ = load_records(section)
    other = section.held_out if isinstance(section.held_out, str) else section.path
    return with_good_images(train, section, section.path)[0], with_good_images(held_out, section, other)[0]


def _asked(task: TaskSection, data: DataSection) -> list[str]:
    """The keys of the questions of a file."""
    if task.task != "exact_match":
        return [question.key for question in _questions(task)]
    return [record.prompt_key for record in _records(task, data)]


def _rows(task: TaskSection, data: DataSection) -> list[dict[str, Any]]:
    """The questions of an exact match: of the task's own file, or the held-out records that the data has."""
    if task.data is None and data.path in POCKET:
        return pocket_rows(data.path)[1][: task.limit]
    rows = []
    for record in _records(task, data):
        question, answer = record.turns
        text = {"instruction": question.content, "input": question.input, "output": answer.content}
        rows.append({**text, "images": record.images})
    return rows


def _records(task: TaskSection, data: DataSection) -> list[Record]:
    section = data if task.data is None else DataSection(path=task.data, format=data.format)
    train, held_out, _ = load_records(section)
    records = held_out if task.data is None else train
    if not records:
        raise UserError("exact_match has nothing to ask: the data section holds nothing out (data.held_out)")
    for record in records:
        if len(record.turns) != 2:
            raise UserError(f"exact_match needs single questions; record {record.row} is a conversation")
    return records[: task.limit]
