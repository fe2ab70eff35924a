"""`zerogate inspect`: what an adapter or a base is, without loading the base. The facts come from
`zerogate.bases.facts`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text
    from torch import Tensor

    from zerogate.bases.facts import AdapterFacts, BaseFacts

EPILOG = """[bold]Examples[/]

zerogate inspect runs/demo

zerogate inspect runs/demo --png gates.png

zerogate inspect pocket

zerogate inspect meta-llama/Llama-3.2-1B --prompt-length 30
"""


def inspect(
    target: Annotated[str, typer.Argument(help="An adapter's folder, a run's, or a base: folder, Hub id or pocket.")],
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the gates' heat map to this file.")
    ] = None,
    prompt_length: Annotated[int, typer.Option(min=1, help="K, for what adapting a base would cost.")] = 10,
) -> None:
    """Show what an adapter or a base is.

    An adapter: its method, counts, sizes, base, and how far each gate has opened.
    A base: its shape, the layout zerogate would use, and what adapting L of its
    layers would cost. Weights of a base are not loaded.
    """
    folder = Path(target).expanduser()
    from zerogate.bases.adapted import adapter_folder

    adapter = adapter_folder(folder) is not None
    if not adapter and png is not None:
        raise UserError(f"--png draws the gates of an adapter, and {target} is not an adapter's folder")
    from rich.console import Console

    console = Console(highlight=False)
    if not adapter:
        from zerogate.bases.facts import base_facts

        facts = base_facts(target)
        console.print(_base_table(target, facts))
        console.print(_cost_table(facts, prompt_length))
        return
    from zerogate.bases.adapted import read_adapter
    from zerogate.bases.facts import adapter_facts

    files = read_adapter(folder)
    found = adapter_facts(files)
    console.print(_adapter_table(str(files.folder), found))
    if found.gates:
        console.print(
            "\n[bold]Effective gates[/] (what multiplies each head's attention to the prompts; top layer first)"
        )
        console.print(heat_map(found.gates, console.width))
    if png is not None:
        if not found.gates:
            raise UserError(f"{files.folder} has no gates to draw: it is a {found.method} adapter")
        draw(found.gates, png, f"{files.folder.name}: effective gates")
        console.print(f"\ndrawn to {png}")


def heat_map(gates: dict[int, Tensor], width: int = 80) -> Text:
    """Layers by heads in colours, blue below zero and red above, with numbers where `width` columns have room for
    them."""
    from rich.text import Text

    most = max(float(gate.abs().max()) for gate in gates.values())
    heads = max(len(gate) for gate in gates.values())
    numbers = 7 * heads + 28 <= width
    text = Text(no_wrap=True)
    for layer in sorted(gates, reverse=True):
        text.append(f"layer {layer:>3} ")
        for gate in gates[layer].tolist():
            share = abs(gate) / most if most > 0 else 0.0
            other = round(235 * (1 - share))
            background = f"rgb({other},{other},255)" if gate < 0 else f"rgb(255,{other},{other})"
            sign = "-" if gate < 0 else "+"
            shown = f" {gate:+.2f} " if numbers else f"{sign} "
            text.append(shown, style=f"{'white' if share > 0.6 else 'black'} on {background}")
        text.append(f"  mean |g| {float(gates[layer].abs().mean()):.3f}\n", style="dim")
    if numbers:
        text.append("         " + "".join(f"{f'h{head}':^7}" for head in range(heads)))
    return text


def draw(gates: dict[int, Tensor], target: Path, title: str) -> None:
    """The same as a picture; written beside its place and moved there, so never half."""
    from matplotlib.figure import Figure

    layers = sorted(gates)
    grid = [gates[layer].tolist() for layer in layers]
    most = max(abs(gate) for row in grid for gate in row) or 1.0
    figure = Figure(
        figsize=(max(4.0, 0.45 * len(grid[0]) + 2), max(2.5, 0.3 * len(layers) + 1.2)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xticks(range(len(grid[0])))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes)
    draft = target.with_name(f".{target.name}.part")
    try:
        figure.savefig(draft, dpi=150, format="png")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {error.strerror}") from error


def _adapter_table(name: str, facts: AdapterFacts) -> Table:
    rows = {
        "adapter": name,
        "method": facts.method,
        "made for": facts.base or "not recorded",
        "parameters": f"{facts.parameters:,} ({_size(facts.file_bytes)} on disk)",
        "layers": f"{len(facts.layers)}: {_spans(facts.layers)}" if facts.layers else "none by number",
    }
    if facts.prompt_length is not None:
        rows["prompts"] = f"K={facts.prompt_length} of width C={facts.width}, in L={len(facts.layers)} layers"
    if facts.gates:
        per = {len(gate) for gate in facts.gates.values()}
        rows["gates"] = "one per layer" if per == {1} else f"one per head, H={max(per)}"
    if facts.images is not None:
        images = facts.images
        listed = ", ".join(map(str, images.layers))
        looks = f"M={len(images.layers)} layers ({listed}) of {images.channels} channels"
        rows["images"] = f"by {images.encoder or 'an encoder that is not recorded'}, {looks}"
        features = len(images.layers) * images.channels
        rows["projector"] = f"{features:,} to {images.hidden} to C={facts.width}: {images.parameters:,} parameters"
    if facts.template is not None:
        rows["asked with"] = f"the {facts.template} template"
    rows["settings"] = ", ".join(f"{key} {value}" for key, value in facts.settings.items()) or "defaults"
    return _table(rows)


def _base_table(name: str, facts: BaseFacts) -> Table:
    size = "" if facts.file_bytes is None else f" ({_size(facts.file_bytes)} on disk)"
    grouped = "" if facts.kv_heads == facts.heads else f", grouped onto G={facts.kv_heads} key/value heads"
    seam = "transformers' attention interface" if facts.seam == "interface" else f"the thin seam for {facts.seam}"
    return _table(
        {
            "base": name,
            "architecture": f"{facts.architecture} ({facts.family})",
            "parameters": f"{facts.parameters:,}{size}",
            "layers": f"N={facts.layers} with {facts.attention}",
            "heads": f"H={facts.heads} of D={facts.head_dim}{grouped}",
            "width": f"C={facts.width}",
            "vocabulary": f"{facts.vocabulary:,}",
            "context": "no limit of its own" if facts.context is None else f"{facts.context:,} tokens",
            "layout": f"{facts.layout}, through {seam}",
        }
    )


def _cost_table(facts: BaseFacts, prompt_length: int) -> Table:
    from rich.table import Table

    table = Table(title=f"What zero-init costs at K={prompt_length}", title_justify="left")
    for heading in ("num_layers", "trained parameters", "of the base", "fp32 file"):
        table.add_column(heading, justify="right")
    N = facts.layers
    for num_layers in sorted({max(1, N // 4), max(1, N // 2), max(1, N - 2), N}):
        count = facts.trainable(num_layers, prompt_length)
        table.add_row(str(num_layers), f"{count:,}", f"{count / facts.parameters:.3%}", _size(4 * count))
    return table


def _table(rows: dict[str, str]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"[cyan]{name}[/]", escape(value))
    return table


def _size(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1_000_000_000 else f"{count / 1e9:.2f} GB"


def _spans(numbers: list[int]) -> str:
    """2, 3, 4, 7 -> 2-4, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)
