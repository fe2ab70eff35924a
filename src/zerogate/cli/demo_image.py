"""`zerogate demo --image`: a frozen language model learns to look, through a frozen vision encoder.

The embedded base is asked about pictures of shapes, without and with an adapter, and the adapter with and without its
pictures. The parts are `zerogate.vision.pictures`, `zerogate.training`, `zerogate.evaluation` and
recipes/demo-image.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.cli.demo import ask, next_steps, show

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.evaluation.exact_match import ExactMatch

_SHOWN = 6
_ON_SHEET = 12


def demo_image(console: Console, output: Path, overrides: Sequence[str], asked: int, overwrite: bool) -> None:
    """Run the demonstration; the arguments are those of `zerogate demo`."""
    from zerogate.bases import load_adapted, load_base
    from zerogate.cli.recipes import shipped_recipe
    from zerogate.training.recipe_file import load_recipe
    from zerogate.training.run import train
    from zerogate.training.run_folder import read_summary
    from zerogate.vision.pictures import picture_rows

    recipe = load_recipe(shipped_recipe("demo-image"), [f"output={output}", *overrides])
    questions = picture_rows()[1][:asked]
    options: dict[str, Any] = {"dtype": recipe.base.dtype, "device": recipe.base.device}

    console.rule("[bold]1. The frozen base")
    model, tokenizer = load_base(recipe.base.name, **options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    console.print(
        f"[bold]{recipe.base.name}[/] has {parameters:,} parameters and has only ever read. It is asked about pictures "
        "that it cannot see:\n"
    )
    before = ask(console, model, tokenizer, questions)
    show(console, before.rows[:_SHOWN])

    console.rule("[bold]2. Training")
    if not overwrite and read_summary(Path(recipe.output)) is not None:
        console.print(f"{recipe.output} holds a finished run, which is shown. [dim]--overwrite trains anew.[/]\n")
    outcome = train(recipe, resume=not overwrite, overwrite=overwrite, console=_plain(console))
    summary = outcome.summary
    best = outcome.folder / ("best" if summary["best_loss"] is not None else "last")
    folder = outcome.folder

    console.rule("[bold]3. The same base with the adapter")
    del model, outcome
    adapted, tokenizer = load_adapted(recipe.base.name, {"demo": best}, **options)
    seeing = ask(console, adapted, tokenizer, questions)
    blind = ask(console, adapted, tokenizer, [{**row, "images": ()} for row in questions])
    show(console, seeing.rows[:_SHOWN])
    _by_kind(console, questions, seeing, blind)
    console.print(
        f"[bold]Exact answers to {seeing.n} questions about pictures that training did not show: {before.exact:.1%} "
        f"before, {seeing.exact:.1%} after, {blind.exact:.1%} with the pictures taken away.[/] {summary['steps']:,} "
        f"steps in {summary['seconds'] / 60:.1f} minutes; {summary['trained_parameters']:,} parameters were trained.\n"
    )
    sheet = _draw_sheet(questions[:_ON_SHEET], seeing, folder / "answers.png")
    picture = folder / "pictures" / "0.png"
    for number, row in enumerate(questions[:_ON_SHEET]):
        file = folder / "pictures" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(row["images"][0].read())
    next_steps(
        console,
        {
            "pictures": f"{sheet} and {folder / 'pictures'}",
            "ask": f'zerogate generate "How many shapes are there?" --image {picture} --adapter {folder}',
            "talk": f"zerogate chat --adapter {folder}, and there /image {picture}",
            "look inside": f"zerogate inspect {folder}",
            "your own": f"copy {folder / 'recipe.yaml'}, name data with a column `image`, and run zerogate train",
        },
    )


def _plain(console: Console) -> Console:
    return type(console)(file=console.file, highlight=False, soft_wrap=True)


def _by_kind(console: Console, questions: Sequence[dict[str, Any]], seeing: ExactMatch, blind: ExactMatch) -> None:
    from rich.table import Table

    table = Table("about", "questions", "right", "right without the pictures")
    for kind in dict.fromkeys(row["kind"] for row in questions):
        places = [place for place, row in enumerate(questions) if row["kind"] == kind]
        shares = [sum(score.rows[place].exact for place in places) / len(places) for score in (seeing, blind)]
        table.add_row(kind, str(len(places)), *(f"{share:.1%}" for share in shares))
    console.print(table)


def _draw_sheet(questions: Sequence[dict[str, Any]], score: ExactMatch, target: Path) -> Path:
    """Pictures with what was asked and answered, green where it is right."""
    from matplotlib.figure import Figure

    from zerogate.vision import open_image

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    for axes, row, answered in zip(figure.subplots(3, 4).flat, questions, score.rows, strict=False):
        axes.imshow(open_image(row["images"][0]), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(row["instruction"], fontsize=8)
        colour = "#2a7f3f" if answered.exact else "#b3261e"
        axes.text(
            0.5, -0.06, answered.answer, transform=axes.transAxes, ha="center", va="top", color=colour, fontsize=9
        )
    figure.savefig(target, dpi=130)
    return target
