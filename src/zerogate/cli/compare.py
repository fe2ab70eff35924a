"""`zerogate compare recipe.yaml [key=value ...]`: train and evaluate several methods alike, and say which to use."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """[bold]Examples[/]

zerogate compare recipes/compare/pocket.yaml

zerogate compare recipes/compare/pocket.yaml --only zero-init --only LoRA seeds=[0]

zerogate compare recipes/compare/pocket.yaml --report
"""


def compare(
    recipe: Annotated[Path, typer.Argument(help="The comparison, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change settings: train.steps=100.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="METHOD", help="Run this method; may be given several times.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: write the report of what is finished.")
    ] = False,
) -> None:
    """Compare methods on one base and one data set.

    Each method is trained and asked for each seed, in a process of its own, with
    the learning rate that a sweep of its own found. Finished cells are kept: stopped
    and called again, it goes on. At the end stands a table (Markdown, CSV, JSON),
    pictures, and a line that says which method to use and why.
    """
    from rich.console import Console
    from rich.table import Table

    from zerogate.cli.recipes import find_recipe
    from zerogate.comparison.recipe import load_comparison
    from zerogate.comparison.run import compare as run
    from zerogate.comparison.run import report as read

    comparison = load_comparison(find_recipe(recipe, "compare"), overrides)
    made = read(comparison) if report else run(comparison, only=only, console=Console(stderr=True, highlight=False))
    console = Console(highlight=False)
    headings, rows = made.table(brief=True)
    table = Table(*headings, title=comparison.title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in made.advice_lines:
        console.print(line, soft_wrap=True)
    console.print(f"\ntables    {made.folder / 'table.md'}, table.csv, results.json", soft_wrap=True)
    console.print(f"pictures  {', '.join(map(str, made.pictures))}", soft_wrap=True)
