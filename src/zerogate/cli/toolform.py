"""`zerogate toolform [stage] recipe.yaml [key=value ...]`: a model teaches itself to call tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zerogate.errors import UserError

EPILOG = """[bold]Examples[/]

zerogate toolform recipes/toolform-pocket.yaml

zerogate toolform sample recipes/toolform-pocket.yaml documents.limit=100

zerogate toolform evaluate recipes/toolform-pocket.yaml open_top_k=1
"""


def toolform(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[STAGE] RECIPE [KEY=VALUE]...",
            help="A stage (sample, execute, filter, merge, train, evaluate; without one, all), the recipe, and "
            "settings to change.",
        ),
    ],
    report: Annotated[bool, typer.Option("--report", help="Run nothing: write the report of what is there.")] = False,
) -> None:
    """Teach a model to call tools, by its own judgement of where they help.

    The model proposes calls in plain texts (sample), they are run (execute), those
    that make the text after them likelier are kept (filter) and put into the texts
    (merge), and an adapter learns from them (train). At the end it is asked
    questions with its tools and without (evaluate). Each stage writes a file that
    can be read, and goes on where it was stopped.
    """
    from zerogate.cli.recipes import find_recipe
    from zerogate.inference.reading import reader_of
    from zerogate.toolform.recipe import load_toolform
    from zerogate.toolform.run import STAGES, Toolform

    stages = (words[0],) if words[0] in STAGES else STAGES
    rest = words[1:] if words[0] in STAGES else words
    if not rest:
        raise UserError(f"name a recipe: zerogate toolform {words[0]} recipes/toolform-pocket.yaml")
    made = Toolform(load_toolform(find_recipe(Path(rest[0]), "toolform"), rest[1:]), reader_of=reader_of)
    if report:
        made.write_report()
    else:
        made.run(stages)
