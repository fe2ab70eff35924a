"""`zerogate predict`: ask an adapter trained on a task with labels. The work is in `zerogate.inference.predict`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from zerogate.cli import options
from zerogate.errors import UserError

EPILOG = """[bold]Examples[/]

zerogate predict runs/vit photos/red/3.png photos/blue --top 3

zerogate predict runs/squad "Where does the fox live?" --context @fox.txt

zerogate predict runs/ner "Anna Berg lives in Paris."

zerogate predict runs/clip photo.png --classes "red circle,blue square"

zerogate predict runs/ner --in sentences.jsonl --out found.jsonl

Rows of --in have the column image; or question and context; or text, or tokens (a list of words).
For semantic roles the predicate stands between asterisks: "Anna * lives * in Paris".
"""


def predict(
    trained: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run's folder, or the adapter in it.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Pictures or folders; questions; sentences."),
    ] = None,
    source: Annotated[Path | None, typer.Option("--in", metavar="FILE", help="Rows to ask about: JSON lines.")] = None,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where rows with their answers go, as JSON lines.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The passage that questions are about, or @FILE.")
    ] = None,
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Let a question have no answer, where that is likeliest (SQuAD 2.0).")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="LOGITS",
            help="The same, where no answer's score reaches this; training measures the best (best_margin).",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to tell of each picture.")] = 1,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names to choose from, for a CLIP. Default: those it was measured on."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", "-b", metavar="NAME", help="By default the base it was trained on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time; it changes no answer.")] = 16,
    device: options.Device = None,
) -> None:
    """Classify pictures, answer questions about passages, find names.

    For what was trained by a recipe with a `task:`. A language model's adapter
    is asked by `zerogate generate` and `zerogate chat`.
    """
    if bool(inputs) == (source is not None):
        raise UserError("give what to ask about, or a file of it with --in" + (", not both" if inputs else ""))
    from rich.console import Console
    from rich.progress import track

    from zerogate.evaluation.write import write_rows
    from zerogate.inference.predict import Predictor
    from zerogate.training.problems.trained import load_trained

    errors = Console(stderr=True, highlight=False)
    passage = _passage(context)
    if target is not None and not target.absolute().parent.is_dir():
        raise UserError(f"the folder {target.absolute().parent} for --out does not exist")
    with errors.status("Loading ..."):
        predictor = Predictor(
            load_trained(trained, base, device=None if device == "auto" else device),
            batch_size=batch_size,
            top=top,
            margin=margin if margin is not None else 0.0 if no_answer else -math.inf,
            classes=[name.strip() for name in classes.split(",")] if classes else None,
        )
    rows = list(_rows_of_file(source) if source else _rows(inputs or [], predictor.columns, passage))
    if source and passage is not None:
        rows = [{"context": passage, **row} for row in rows]
    said = track(predictor(rows), "Asking", total=len(rows), console=errors, transient=True, disable=len(rows) < 2)
    if target is None:
        for row in said:
            print(_line(row))
        return
    write_rows(target, said)
    errors.print(f"{len(rows):,} rows in {target}")


def _passage(context: str | None) -> str | None:
    if context is None or not context.startswith("@"):
        return context
    try:
        return Path(context[1:]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--context {context}: {error}") from error


def _rows_of_file(file: Path) -> Iterator[dict[str, Any]]:
    from zerogate.data.read import read_rows

    for _, row in read_rows(str(file), "train"):
        # A picture is named from where its file of rows lies, as in training.
        yield {**row, "image": str(file.parent / row["image"])} if isinstance(row.get("image"), str) else row


def _rows(inputs: list[str], columns: tuple[str, ...], passage: str | None) -> Iterator[dict[str, Any]]:
    from zerogate.training.problems.image_files import list_pictures

    if "context" in columns and passage is None:
        raise UserError("a question needs the passage that may answer it: --context TEXT or --context @FILE")
    for one in inputs:
        if "image" in columns:
            yield from ({"image": str(file)} for file in list_pictures(Path(one).expanduser()))
        else:
            yield {columns[0]: one, **({"context": passage} if "context" in columns else {})}


def _line(row: dict[str, Any]) -> str:
    if "answer" in row:
        return row["answer"] or "(no answer)"
    if "spans" in row:
        found = "; ".join(f"{span['text']} ({span['label']})" for span in row["spans"])
        return found or "(nothing found)"
    told = row.get("top") or [[row["label"], row["score"]]]
    return f"{row['image']}: " + ", ".join(f"{label} {score:.1%}" for label, score in told)
