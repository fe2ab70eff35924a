"""Score predictions that are already there: rows with `response` and `label`, or responses beside a file of labels.

task = find_task("gsm8k")
rows = score_file(task, "predictions.jsonl")
print(task.total(rows).as_dict())       # {"n": 1319, "compat": 0.375, "strict": 0.376, "unanswered": 12}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerogate.data.read import read_rows
from zerogate.errors import UserError
from zerogate.evaluation.accuracy import Score as Score
from zerogate.evaluation.accuracy import total as total
from zerogate.evaluation.questions import missing_columns, read_label, read_questions
from zerogate.evaluation.scorers import Verdict, VerdictScorer
from zerogate.evaluation.tasks import Task


def score_file(
    task: Task,
    path: str | Path,
    labels: str | Path | None = None,
    told: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Judge every row of a predictions file.

    Args:
        task: whose rules hold.
        path: JSON lines (or any file `read_rows` knows) with `response`, and `label` unless `labels` is given.
        labels: the task's own data file, or rows with `label`; row n is the label of response n. Images are not
            looked for.
        told: called with what a user should know of the labels' data, such as that only a part of the split is there.

    Returns:
        The rows with `label` in its one spelling and what the scorer says of each added: the verdict's fields mostly.

    Raises:
        UserError: malformed or empty files, a missing column (named), a response that is not text or a label of the
            wrong type (with the row), or files of different length.
    """
    numbered = read_rows(str(path))
    responses = [_response(row, f"{path}, row {number}", "response" if labels else None) for number, row in numbered]
    if labels is None:
        wanted = [{"label": read_label(task, row["label"], f"{path}, row {number}")} for number, row in numbered]
    else:
        wanted = _labels(task, labels, told)
    if len(responses) != len(wanted):
        raise UserError(
            f"{path} has {len(responses)} responses and {labels} {len(wanted)} labels: they must be of one set, in the "
            "same order"
        )
    return [
        row | known | task.scorer.fields(response, known["label"])
        for (_, row), known, response in zip(numbered, wanted, responses, strict=True)
    ]


def score_responses(task: Task, responses: Sequence[str], labels: Sequence[Any]) -> list[Verdict]:
    """Judge responses that are in memory.

    Raises:
        UserError: different numbers of responses and labels, a label of the wrong type (with its row), or a task whose
            responses are not right or wrong each.
    """
    scorer = task.scorer
    if not isinstance(scorer, VerdictScorer):
        raise UserError(f"{task.name}: no response is right or wrong by itself; score them together with score_file")
    if len(responses) != len(labels):
        raise UserError(f"there are {len(responses)} responses, but {len(labels)} labels")
    return [
        scorer.judge(response, read_label(task, label, f"row {row}"))
        for row, (response, label) in enumerate(zip(responses, labels, strict=True), start=1)
    ]


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """What a row of predictions says of its response."""
    return asdict(verdict)


def _response(row: dict[str, Any], where: str, only: str | None) -> str:
    missing = [name for name in ("response", "label") if name not in row and only in (None, name)]
    if missing:
        hint = "; labels of their own go with --labels FILE" if missing == ["label"] else ""
        raise UserError(f"{where}: {missing_columns(missing, row)}{hint}")
    response = row["response"]
    if response is None:  # `zerogate generate --skip-long` writes this for a prompt without room for an answer
        return ""
    if not isinstance(response, str):
        raise UserError(f"{where}: the response is {type(response).__name__}, not text")
    return response


def _labels(task: Task, path: str | Path, told: Callable[[str], None] | None) -> list[dict[str, Any]]:
    """What the task's data says of each row: its label, and its kinds where the task has them."""
    # A published data set is no list of rows, so only the task can read it; a list may be of labels alone.
    if Path(path).is_file() and not task.official_splits:
        numbered = read_rows(str(path))
        if "label" in numbered[0][1]:
            missing = next((number for number, row in numbered if "label" not in row), None)
            if missing is not None:
                raise UserError(f"{path}, row {missing}: no column 'label'")
            return [{"label": read_label(task, row["label"], f"{path}, row {number}")} for number, row in numbered]
    return [question.known() for question in read_questions(task, path, use_images=False, told=told)]
