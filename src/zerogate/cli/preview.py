"""`zerogate preview recipe.yaml`: see what the model will be taught, token by token, before any training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from zerogate.data.encode import Encoded

EPILOG = "Example: zerogate preview recipes/alpaca-pocket.yaml --examples 5 data.template=chat"


def preview(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change settings: data.max_length=256.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", "-n", min=0, help="How many sequences to show.")] = 3,
    row: Annotated[int | None, typer.Option("--row", help="Show the sequences of this row instead.")] = None,
) -> None:
    """Show examples with their loss mask, and length statistics."""
    from rich.console import Console
    from rich.table import Table

    from zerogate.bases.load import load_tokenizer
    from zerogate.cli.recipes import find_recipe
    from zerogate.data.load import load_data
    from zerogate.data.stats import length_stats
    from zerogate.errors import UserError
    from zerogate.training.images import blind_line, takes_images, without_images
    from zerogate.training.recipe_file import load_recipe
    from zerogate.vision.images import image_size

    settings, blinded = without_images(load_recipe(find_recipe(recipe, "preview"), overrides))
    tokenizer = load_tokenizer(settings.base.name)
    data = load_data(settings.data, tokenizer, takes_images(settings.adapter))
    console = Console(highlight=False)

    if row is None:
        # Spread over the data, so that not only its beginning is seen.
        chosen = [index * len(data.train) // examples for index in range(examples)]
    else:
        chosen = [index for index, number in enumerate(data.train.rows) if number == row]
        if not chosen:
            raise UserError(f"no training sequence comes from row {row}: it may be held out, or left out")
    if chosen:
        console.print("Tokens are parted by a dot. Green is learned, grey is only read.\n")
    for index in chosen:
        console.rule(f"row {data.train.rows[index]}, {len(data.train.input_ids[index])} tokens", align="left")
        console.print(_coloured(data.train, index, tokenizer))
        for image in data.train.images[index]:
            width, height = image_size(image)
            console.print(f"image: {image.name} ({width} x {height})", markup=False, soft_wrap=True)
        console.print()

    for line in data.lines():
        console.print(line, soft_wrap=True)
    if blinded:
        console.print(f"the adapter {blind_line(blinded)}", soft_wrap=True)
    train = settings.train
    per_pass = train.micro_batch_size or train.batch_size
    table = Table("", "training", *(["held out"] if data.held_out is not None else []), box=None, pad_edge=False)
    columns = [
        length_stats(part, per_pass, train.seed, train.group_by_length).rows()
        for part in (data.train, data.held_out)
        if part is not None
    ]
    for rows in zip(*columns, strict=True):
        table.add_row(rows[0][0], *(value for _, value in rows))
    console.print(table)


def _coloured(encoded: "Encoded", index: int, tokenizer: "PreTrainedTokenizerBase") -> "Text":
    from rich.text import Text

    from zerogate.bases.loss import IGNORE

    ids, labels = encoded.input_ids[index].tolist(), encoded.labels[index].tolist()
    text = Text()
    written = ""
    for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
        # A token's text is what it adds: alone, many tokenizers drop its leading space.
        so_far = str(tokenizer.decode(ids[: position + 1], clean_up_tokenization_spaces=False))
        piece = so_far[len(written) :] if so_far.startswith(written) else str(tokenizer.decode([token]))
        written = so_far
        style = "grey50" if label == IGNORE else "bold green"
        text.append(piece.replace("\n", "⏎\n"), style=style)
        text.append("·", style="grey30")
    return text
