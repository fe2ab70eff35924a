"""What `zerogate judge` prints: tables of judged answers, of saved reviews, of two judges that agree or do not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zerogate.errors import UserError

if TYPE_CHECKING:
    from zerogate.judging.answers import Answers
    from zerogate.judging.questions import Question
    from zerogate.judging.report import Table


def show_reviews(files: list[str], questions: list[Question] | None, answers: list[Answers], out: Path | None) -> None:
    """Print the totals of saved reviews, and write them where a folder is named."""
    from zerogate.judging.report import reviews_tables, write_reviews
    from zerogate.judging.reviews import read_reviews

    found = [read_reviews(file, questions, answers) for file in files]
    for table in reviews_tables(found):
        print_table(table)
    if out is not None:
        write_reviews(out, found)
        print(f"report      {out / 'report.md'}, results.json, reviews.png")


def show_agreement(files: list[str], answers: list[Answers]) -> None:
    """Print how far two judges agree."""
    from zerogate.judging.agreement import agreement as compare
    from zerogate.judging.report import agreement_table

    if len(files) != 2:
        raise UserError(f"--agreement takes two results, here are {len(files)}")
    print_table(agreement_table(compare(files[0], files[1], answers)))


def print_table(table: Table) -> None:
    """Print a table with its notes."""
    from rich.console import Console
    from rich.table import Table as Shown

    console = Console(highlight=False, markup=False)
    shown = Shown(*table.headings, title=table.title)
    for column in shown.columns[1:]:
        column.justify = "right"
    shown.columns[0].overflow = "fold"
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in table.notes:
        console.print(note, soft_wrap=True)
