"""`zerogate eval` looks for its questions in the training data before it asks the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.data.leaks import LeakCheck
    from zerogate.evaluation.tasks import Question, Task


def check_leaks(
    tasks: list[Task],
    sets: list[list[Question]],
    runs: list[Path],
    files: list[Path],
    allowed: set[str],
    look: bool,
    errors: Console,
) -> dict[str, LeakCheck]:
    """Compare test sets with the training files named, and with what the runs of the adapter and the model recorded.

    Args:
        tasks: the tasks.
        sets: the questions of each.
        runs: folders of the adapter and the model.
        files: training files that the user named.
        allowed: names of tasks whose leaks are accepted.
        look: whether images are looked at, by the model and so here. Else only questions without any are compared.
        errors: where to say what was found.

    Returns:
        What was found by the task's name; none where there was nothing to compare.

    Raises:
        UserError: an image that cannot be read, or a leak that is not allowed.
    """
    from zerogate.data.leaks import find_near_duplicates, recorded_training, refuse_leaks, training_questions
    from zerogate.vision.check import check_images

    known = [question for file in files for question in training_questions(str(file), look)]
    checked = bool(files)
    for folder in runs:
        recorded = recorded_training(folder.expanduser(), look)
        if recorded is None:
            continue
        if recorded[1] is None:
            errors.print(f"[yellow]The training data {recorded[0]} is not here: not checked for leaks.[/]")
            continue
        known += recorded[1]
        checked = True
    if not checked:
        return {}
    found: dict[str, LeakCheck] = {}
    for task, questions in zip(tasks, sets, strict=True):
        check_images((item.row, item.images) for item in questions).refuse(task.name)
        check = find_near_duplicates(known, [None if item.left_out else item.key for item in questions])
        refuse_leaks(task.name, check, allowed, official_splits=task.official_splits)
        errors.print(f"{task.name}: {check.line()}.")
        if check.leaks:
            errors.print(check.pairs(), markup=False, style="yellow")
        if check.n:
            found[task.name] = check
    return found
