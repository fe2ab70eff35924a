"""`zerogate demo`: the whole idea in one command, on the embedded base.

The base is asked questions that it knows the answers of and cannot answer; a zero-init adapter is trained on other
questions; then the same questions are asked again. The parts are `zerogate.training`, `zerogate.evaluation` and
recipes/demo.yaml.
"""

from __future__ import annotations

import random
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.evaluation.exact_match import Answered, ExactMatch
    from zerogate.training.recipe import Recipe

EPILOG = """[bold]Examples[/]

zerogate demo

zerogate demo --output runs/again train.steps=100

zerogate demo --overwrite

zerogate demo --image
"""

_SHOWN = 6  # questions printed with their answers
_LONGEST = 150  # characters of a question's answers that are printed


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

    Called again, it shows the finished run; an unfinished one goes on. Other
    settings need another folder, or --overwrite.
    """
    from rich.console import Console

    console = Console(highlight=False)
    name, show_it = "demo", _demo
    if image:
        from zerogate.cli.demo_image import demo_image

        name, show_it = "demo-image", demo_image
    with console.status("Loading ..."):
        from zerogate.cli.recipes import shipped_recipe
        from zerogate.training.recipe_file import load_recipe
        from zerogate.training.run import finished_run

        recipe = load_recipe(shipped_recipe(name), [f"output={output or Path('runs', name)}", *(overrides or [])])
        if not overwrite:
            finished_run(recipe)  # a folder that holds something else is refused before anything is asked
    with told_how_to_go_on(Path(recipe.output), overwrite):
        show_it(console, recipe, asked, overwrite)


def _demo(console: Console, recipe: Recipe, asked: int, overwrite: bool) -> None:
    """Run the demonstration without pictures.

    Args:
        console: where to show it.
        recipe: of the run.
        asked: how many questions.
        overwrite: train anew where the folder holds a run.
    """
    with console.status("Loading ..."):
        from zerogate.bases import load_adapted, load_base
        from zerogate.bases.pocket.world import instruction_records

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
    show(console, {"answer": before.rows[:_SHOWN]})

    console.rule("[bold]2. Training")
    summary, best = trained(console, recipe, overwrite)

    console.rule("[bold]3. The same base with the adapter")
    del model
    adapted, tokenizer = load_adapted(recipe.base.name, {"demo": best}, **options)
    after = ask(console, adapted, tokenizer, questions)
    show(console, {"answer": after.rows[:_SHOWN]})

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
    """The folder of the demo's run; trained first where it is not there, gone on with where it is not finished.

    A finished run with other settings is taken as it is, and that is said.

    Raises:
        UserError: the folder holds an unfinished run with other settings.
    """
    from zerogate.cli.recipes import shipped_recipe
    from zerogate.training.recipe_file import load_recipe
    from zerogate.training.run import train
    from zerogate.training.run_folder import read_summary, recipe_changes

    recipe = load_recipe(shipped_recipe("demo"), [f"output={output}", *overrides])
    changes = "; ".join(recipe_changes(output, recipe)[:5])
    if read_summary(output) is not None:
        if changes:
            console.print(
                f"{output} was trained with other settings than the demo's ({changes}) and is taken as it is; "
                "zerogate demo --overwrite trains the demo's own."
            )
        return output
    if changes:
        raise UserError(
            f"{output} holds an unfinished run with other settings than the demo's ({changes}); finish it with the "
            "command that began it, or train the demo's own with: zerogate demo --overwrite"
        )
    console.print(f"There is no finished demo in {output}: it is trained now, for a few minutes, this once.")
    with told_how_to_go_on(output, overwrite=False):
        train(recipe, resume=True, console=console)
    return output


def trained(console: Console, recipe: Recipe, overwrite: bool) -> tuple[dict[str, Any], Path]:
    """Train, or take the recipe's finished run.

    Returns:
        The run's summary and the folder of its adapter, the best where there is one.

    Raises:
        UserError: what `train` raises; the folder holds a run of another recipe.
    """
    from rich.console import Console

    from zerogate.training.run import finished_run, train

    if not overwrite and finished_run(recipe) is not None:
        console.print(f"{recipe.output} holds a finished run, which is shown. [dim]--overwrite trains anew.[/]\n")
    plain = Console(file=console.file, highlight=False, soft_wrap=True)
    outcome = train(recipe, resume=not overwrite, overwrite=overwrite, console=plain)
    return outcome.summary, outcome.folder / ("best" if outcome.summary["best_loss"] is not None else "last")


@contextmanager
def told_how_to_go_on(folder: Path, overwrite: bool) -> Iterator[None]:
    """Inside, Ctrl-C says in one line on stderr what the same command would do next.

    Args:
        folder: of the run.
        overwrite: the command has `--overwrite`, which would throw away what has been trained by then.
    """
    began = _written(folder)
    try:
        yield
    except KeyboardInterrupt:
        from zerogate.training.checkpoints import newest
        from zerogate.training.run_folder import read_summary

        replaced = _written(folder) != began
        again = "the same command without --overwrite" if overwrite else "the same command"
        checkpoint = newest(folder / "checkpoints")
        if overwrite and not replaced:
            line = "nothing was touched yet; the same command begins again"
        elif read_summary(folder) is not None:
            line = f"the training is finished; {again} shows it"
        elif checkpoint is not None:
            line = f"{again} goes on from step {checkpoint[0]:,}"
        else:
            line = "nothing was saved yet; the same command begins again"
        print(f"\n{line}", file=sys.stderr)
        raise


def _written(folder: Path) -> int | None:
    """When the run in a folder was begun or gone on with; None where there is none."""
    file = folder / "recipe.yaml"
    return file.stat().st_mtime_ns if file.exists() else None


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


def show(console: Console, answers: Mapping[str, Sequence[Answered]]) -> None:
    """Questions with their answers, green where they are right.

    Args:
        console: where to print them.
        answers: by column heading; all to the same questions, in the same order.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True, expand=True)
    table.add_column("question", ratio=4)
    for heading in answers:
        table.add_column(heading, ratio=5)
    longest = _LONGEST // len(answers)
    for rows in zip(*answers.values(), strict=True):
        question = f"{rows[0].instruction} ({rows[0].input})" if rows[0].input else rows[0].instruction
        table.add_row(Text(question), *(Text(shorten(row, longest), "green" if row.exact else "red") for row in rows))
    console.print(table)


def shorten(row: Answered, longest: int) -> str:
    """An answer on one line, cut where it is longer than `longest` characters."""
    answer = " ".join(row.answer.split())
    return (answer if len(answer) <= longest else f"{answer[:longest]} ...") or "(nothing)"
