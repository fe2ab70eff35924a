"""`zerogate score`: score predictions that are already there. The work is in `zerogate.evaluation.score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """[bold]Examples[/]

zerogate score gsm8k predictions.jsonl

zerogate score arc-e answers.jsonl --labels arc_easy_test.json

zerogate score aqua predictions.jsonl --out judged.jsonl
"""


def score(
    task: Annotated[str, typer.Argument(help="Whose rules hold, such as gsm8k, AQuA, boolq, arc-e.")],
    predictions: Annotated[Path, typer.Argument(help="Rows with response and label: JSON lines, also compressed.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The labels, row by row: the task's data, or rows with label."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write each row with what was extracted and judged.")
    ] = None,
) -> None:
    """Score saved predictions by both rules.

    Prints one JSON object: n, compat (the share that is right by the authors'
    rules), strict (by ours) and unanswered (responses without an answer); for
    captions, n, bleu4, cider and empty.
    """
    import json
    import sys

    from zerogate.evaluation.score import score_file
    from zerogate.evaluation.tasks import find_task
    from zerogate.evaluation.write import write_rows

    found = find_task(task)
    rows = score_file(found, predictions, labels, told=lambda line: print(f"note: {line}.", file=sys.stderr))
    if out is not None:
        write_rows(out, rows)
    print(json.dumps(found.total(rows).as_dict()))
