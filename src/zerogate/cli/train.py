"""`zerogate train recipe.yaml [key=value ...]`: run a recipe, then say where things are and what to type next."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = (
    "Example: zerogate train recipes/demo.yaml train.steps=100 output=runs/short. On several devices: "
    "torchrun --nproc-per-node 2 -m zerogate.cli.main train recipes/alpaca-7b.yaml"
)


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change settings: train.steps=100.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is in the output folder.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that is in the output folder.")
    ] = False,
) -> None:
    """Train an adapter from a recipe."""
    from rich.console import Console

    from zerogate.cli.recipes import find_recipe
    from zerogate.training.card import next_command
    from zerogate.training.problems import find_problem
    from zerogate.training.problems.problem import figure_text
    from zerogate.training.recipe_file import load_recipe
    from zerogate.training.run import train as run

    settings = load_recipe(find_recipe(recipe, "train"), overrides)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    outcome = run(settings, resume=resume, overwrite=overwrite, console=console)

    summary = outcome.summary
    console.print(f"\ndone      {summary['steps']:,} steps in {summary['seconds'] / 60:.1f} minutes")
    if summary["last_loss"] is not None and summary["base_loss"] is not None:
        console.print(
            f"held out  loss {summary['base_loss']:.4f} before, {summary['last_loss']:.4f} after, "
            f"{summary['best_loss']:.4f} at best (step {summary['best_step']:,})"
        )
    if "last" in summary:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {figure_text(name, value)} ({figure_text(name, summary['best'][name])} at best)"
            for name, value in summary["last"].items()
        )
        console.print(f"held out  {figures}")
    chosen = "best" if summary["best_loss"] is not None else "last"
    console.print(f"adapter   {outcome.folder / chosen}")
    console.print(f"pictures  {', '.join(str(picture) for picture in sorted(outcome.folder.glob('*.png')))}")
    folder, task = str(outcome.folder / chosen), find_problem(settings).pipeline
    command = next_command(settings.adapter["method"], settings.base.name, folder, task)
    console.print(f"next      {command}", soft_wrap=True)
