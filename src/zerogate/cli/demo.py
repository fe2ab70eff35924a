"""`zerogate demo`: the whole idea in one command, on the embedded base.

The base is asked questions that it knows the answers of and cannot answer; a zero-init adapter is trained on other
questions; then the same questions are asked again. The parts are `zerogate.training`, `zerogate.evaluation` and
recipes/demo.yaml.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.evaluation.exact_match import Answered, ExactMatch

EPILOG = """[bold]Examples[/]

zerogate demo

zerogate demo --output runs/again train.steps=100

zerogate demo --overwrite

zerogate demo --image
"""

_SHOWN = 6  # questions printed with their answers


def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change the recipe: train.steps=100.")
    ] = None,
    image: Annotated[bool, typer.Option("--image", help="Learn to look at pictures of shapes instead.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run's folder.", show_default="runs/demo")
    ] = None,
    asked: Annotated[int, typer.Option("--questions", min=1, help="How many held-out questions are asked.")] = 500,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew where the folder holds a run.")] = False,
) -> None:
    """Watch a frozen model learn to follow instructions.

    The embedded base knows some thousand facts and answers no question. Training
    20 thousand parameters on half of the facts makes it answer questions about
    the other half, which no training example mentioned. A few minutes on 2 cores.

    With --image it learns to look: with 66 thousand parameters more it says what
    is where in pictures of shapes that training did not show.

    Called again, it shows the finished run; an unfinished one goes on.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if image:
        from zerogate.cli.demo_image import demo_image

        demo_image(console, output or Path("runs/demo-image"), overrides or [], asked, overwrite)
        return
    output = output or Path("runs/demo")
    with console.status("Loading ..."):
        from zerogate.bases import load_adapted, load_base
        from zerogate.bases.pocket.world import instruction_records
        from zerogate.cli.recipes import shipped_recipe
        from zerogate.training.recipe_file import load_recipe
        from zerogate.training.run import train
        from zerogate.training.run_folder import read_summary

        recipe = load_recipe(shipped_recipe("demo"), [f"output={output}", *(overrides or [])])
        _, held_out = instruction_records()
        questions = random.Random(0).sample(held_out, min(asked, len(held_out)))
        options: dict[str, Any] = {"dtype": recipe.base.dtype, "device": recipe.base.device}
        model, tokenizer = load_base(recipe.base.name, **options)

    console.rule("[bold]1. The frozen base")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"[bold]{recipe.base.name}[/] has {parameters:,} parameters. It has read novels and some thousand facts, and "
        "never an instruction.\nIt is asked about facts that no training example will mention:\n"
    )
    before = ask(console, model, tokenizer, questions)
    show(console, before.rows[:_SHOWN])

    console.rule("[bold]2. Training")
    if not overwrite and read_summary(Path(recipe.output)) is not None:
        console.print(f"{recipe.output} holds a finished run, which is shown. [dim]--overwrite trains anew.[/]\n")
    outcome = train(recipe, resume=not overwrite, overwrite=overwrite, console=Console(highlight=False, soft_wrap=True))
    summary = outcome.summary
    best = outcome.folder / ("best" if summary["best_loss"] is not None else "last")

    console.rule("[bold]3. The same base with the adapter")
    del model, outcome
    adapted, tokenizer = load_adapted(recipe.base.name, {"demo": best}, **options)
    after = ask(console, adapted, tokenizer, questions)
    show(console, after.rows[:_SHOWN])

    file = best / "adapter_model.safetensors"
    console.print(
        f"[bold]Exact answers on {after.n} held-out questions: {before.exact:.1%} before, {after.exact:.1%} after[/] "
        f"{summary['steps']:,} steps in {summary['seconds'] / 60:.1f} minutes.\n"
        f"{summary['trained_parameters']:,} parameters were trained, {summary['trained_parameters'] / parameters:.2%} "
        f"of the base's count; they are {file.stat().st_size / 1000:.0f} kB in {file}.\n"
    )
    folder = Path(recipe.output)
    pictures = " and ".join(str(picture) for picture in sorted(folder.glob("*.png")))
    next_steps(
        console,
        {
            "pictures": pictures,
            "talk to it": f"zerogate chat --adapter {folder}",
            "look inside": f"zerogate inspect {folder}",
            "ask one thing": f"zerogate generate {_asked(after.rows[0])} --adapter {folder}",
            "see the data": f"zerogate preview {folder / 'recipe.yaml'}",
            "your own": f"copy {folder / 'recipe.yaml'}, put your base and data in it, and run zerogate train on it",
        },
    )


def demo_run(console: Console, output: Path = Path("runs/demo"), overrides: Sequence[str] = ()) -> Path:
    """The folder of the demo's run; trained first where it is not there, gone on with where it is not finished."""
    from zerogate.cli.recipes import shipped_recipe
    from zerogate.training.recipe_file import load_recipe
    from zerogate.training.run import train
    from zerogate.training.run_folder import read_summary

    if read_summary(output) is None:
        console.print(f"There is no finished demo in {output}: it is trained now, for a few minutes, this once.")
        recipe = load_recipe(shipped_recipe("demo"), [f"output={output}", *overrides])
        train(recipe, resume=True, console=console)
    return output


def next_steps(console: Console, steps: dict[str, str]) -> None:
    """What to do next, by purpose."""
    console.rule("[bold]Next")
    for what, command in steps.items():
        console.print(f"  [cyan]{what:<14}[/]{command}", soft_wrap=True)


def ask(console: Console, model: Any, tokenizer: Any, questions: Sequence[dict[str, Any]]) -> ExactMatch:
    """Ask all questions, with a bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from zerogate.evaluation.exact_match import exact_match

    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(questions))
        return exact_match(model, tokenizer, questions, batch_size=64, progress=lambda done: bar.advance(task, done))


def _asked(row: Answered) -> str:
    """The question as words of a command line."""
    return shlex.join([row.instruction, "--input", row.input] if row.input else [row.instruction])


def show(console: Console, rows: Sequence[Answered]) -> None:
    """Questions with their answers, green where they are right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True, expand=True)
    table.add_column("question", ratio=4)
    table.add_column("answer", ratio=5)
    for row in rows:
        question = f"{row.instruction} ({row.input})" if row.input else row.instruction
        answer = " ".join(row.answer.split())
        shown = Text(answer if len(answer) <= 150 else f"{answer[:150]} ...", style="green" if row.exact else "red")
        table.add_row(Text(question), shown if answer else Text("(nothing)", style="red"))
    console.print(table)
