"""`zerogate demo --image`: a frozen language model learns to look, through a frozen vision encoder.

The embedded base is asked about pictures of shapes, without and with an adapter, and the adapter with and without its
pictures. The parts are `zerogate.vision.pictures`, `zerogate.training`, `zerogate.evaluation` and
recipes/demo-image.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.cli.demo import ask, next_steps, shorten, show, trained

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.evaluation.exact_match import ExactMatch
    from zerogate.training.recipe import Recipe

_SHOWN = 6
_ON_SHEET = 12
_LONGEST = 14  # characters of an answer under a picture: "Bottom centre." and what is as short


def demo_image(console: Console, recipe: Recipe, asked: int, overwrite: bool) -> None:
    """Run the demonstration.

    Args:
        console: where to show it.
        recipe: of the run.
        asked: how many questions.
        overwrite: train anew where the folder holds a run.
    """
    from zerogate.bases import load_adapted, load_base
    from zerogate.vision.pictures import picture_rows

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
    show(console, {"answer": before.rows[:_SHOWN]})

    console.rule("[bold]2. Training")
    summary, best = trained(console, recipe, overwrite)
    folder = Path(recipe.output)

    console.rule("[bold]3. The same base with the adapter")
    del model
    adapted, tokenizer = load_adapted(recipe.base.name, {"demo": best}, **options)
    seeing = ask(console, adapted, tokenizer, questions)
    blind = ask(console, adapted, tokenizer, [{**row, "images": ()} for row in questions])
    show(console, {"with the picture": seeing.rows[:_SHOWN], "without the picture": blind.rows[:_SHOWN]})
    _by_kind(console, questions, seeing, blind)
    console.print(
        f"[bold]Exact answers to {seeing.n} questions about pictures that training did not show: {before.exact:.1%} "
        f"before, {seeing.exact:.1%} after, {blind.exact:.1%} with the pictures taken away.[/] {summary['steps']:,} "
        f"steps in {summary['seconds'] / 60:.1f} minutes; {summary['trained_parameters']:,} parameters were trained.\n"
    )
    sheet = _draw_sheet(questions[:_ON_SHEET], seeing, blind, folder / "answers.png")
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


def _by_kind(console: Console, questions: Sequence[dict[str, Any]], seeing: ExactMatch, blind: ExactMatch) -> None:
    from rich.table import Table

    table = Table("about", "questions", "right", "right without the pictures")
    for kind in dict.fromkeys(row["kind"] for row in questions):
        places = [place for place, row in enumerate(questions) if row["kind"] == kind]
        shares = [sum(score.rows[place].exact for place in places) / len(places) for score in (seeing, blind)]
        table.add_row(kind, str(len(places)), *(f"{share:.1%}" for share in shares))
    console.print(table)


def _draw_sheet(questions: Sequence[dict[str, Any]], seeing: ExactMatch, blind: ExactMatch, target: Path) -> Path:
    """Pictures with what was asked and answered, with the picture and without it, green where it is right."""
    from matplotlib.figure import Figure

    from zerogate.vision import open_image

    figure = Figure(figsize=(9, 8.7))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.06, top=0.96, wspace=0.08, hspace=0.3)
    grid = figure.subplots(3, 4).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, row, with_it, without_it in zip(grid, questions, seeing.rows, blind.rows, strict=False):
        axes.imshow(open_image(row["images"][0]), interpolation="nearest")
        axes.set_title(row["instruction"], fontsize=8)
        lines = (("with the picture", with_it), ("without the picture", without_it))
        for place, (what, answered) in zip((-0.05, -0.14), lines, strict=True):
            axes.text(
                0.5,
                place,
                f"{what}: {shorten(answered, _LONGEST)}",
                transform=axes.transAxes,
                ha="center",
                va="top",
                color="#2a7f3f" if answered.exact else "#b3261e",
                fontsize=8,
            )
    figure.savefig(target, dpi=130)
    return target
