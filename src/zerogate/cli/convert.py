"""`zerogate convert`: adapters of other codebases to ours and back. The work is in `zerogate.adapters.convert`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zerogate.errors import UserError

if TYPE_CHECKING:
    from zerogate.adapters.convert import Base, PromptAdapter

EPILOG = """[bold]Examples[/]

zerogate convert adapter.pth my-adapter --gate-activation tanh --base meta-llama/Llama-2-7b-hf

zerogate convert my-adapter adapter.pth

zerogate convert peft-folder my-adapter

zerogate convert my-adapter peft-folder --to peft --lossy mean

zerogate convert out/final/lit_model.pth.adapter my-adapter --base EleutherAI/pythia-160m

zerogate convert my-adapter lit_model.pth.adapter --dry-run

[bold]What gates mean[/]

A gate multiplies either as it is (identity) or after a tanh. The official code does both: its fine-tuning code has a \
tanh, its root inference code does not, and their files look alike. So a .pth needs --gate-activation. PEFT and LitGPT \
have no tanh, and our folders record it. Converting to a format without it stores tanh(gate); the way back needs gates \
inside (-1, 1). All rules: docs/convert.md
"""

Format = Literal["official", "peft", "litgpt", "zerogate"]
Activation = Literal["tanh", "identity"]


def convert(
    source: Annotated[Path, typer.Argument(help="The adapter: a .pth, a LitGPT file, or a PEFT or zerogate folder.")],
    destination: Annotated[Path, typer.Argument(help="The new folder (zerogate, peft) or file (official, litgpt).")],
    from_: Annotated[
        Format | None, typer.Option("--from", help="Format of SOURCE. By default its content tells.")
    ] = None,
    to: Annotated[
        Format | None,
        typer.Option(
            help="Format of DESTINATION. By default its ending tells (.pth official, .adapter litgpt), and a folder is "
            "zerogate for what comes from elsewhere."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "-b",
            metavar="NAME",
            help="The model it is for: folder, Hub id or [cyan]pocket[/]; only its configuration is read. By default "
            "the one that the adapter records.",
        ),
    ] = None,
    llama_shape: Annotated[
        str | None,
        typer.Option(metavar="N,C,H", help="In place of --base: layers, hidden size and heads of a LLaMA: 32,4096,32."),
    ] = None,
    gate_activation: Annotated[
        Activation | None, typer.Option(help="How the gates of an official SOURCE multiply. See below.")
    ] = None,
    write_gates: Annotated[
        Activation | None,
        typer.Option(
            help="How gates are stored in DESTINATION. By default unchanged in our folders and identity elsewhere."
        ),
    ] = None,
    prompt_length: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Prompts per layer of an official SOURCE, which does not store it. Default: 10."
        ),
    ] = None,
    gate_per: Annotated[
        Literal["head"] | None,
        typer.Option(help="head: give a layer's single gate to all its heads, to train them apart from here on."),
    ] = None,
    lossy: Annotated[
        Literal["mean"] | None,
        typer.Option(help="To PEFT, which has one gate per layer: allow the mean where heads differ."),
    ] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Precision of what is written.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an adapter at DESTINATION.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but keep the result.")] = False,
) -> None:
    """Convert an adapter: official v1 .pth, PEFT AdaptionPrompt, LitGPT <-> zerogate.

    Prints what was found and what was written. What another format cannot
    hold is refused with the reason; nothing is ever written by halves.
    """
    from zerogate.adapters import convert as converters

    try:
        converters.check_free(destination, overwrite or dry_run)
        source_format = from_ or converters.detect_format(source)
        target = to or _target(source_format, destination)
        if gate_activation and source_format != "official":
            raise UserError(
                f"--gate-activation says how the gates of an official .pth multiply, and {source} is {source_format}, "
                "where that is known. To choose how gates are stored in the result, use --write-gates."
            )
        if prompt_length is not None and source_format != "official":
            raise UserError(f"--prompt-length is for an official .pth; {source} is {source_format}, where it is known.")
        model = _base(base, llama_shape)
        found = _read(source, source_format, gate_activation, prompt_length, model)
        if model is None and (target != "zerogate" or gate_per):
            model = _recorded(found, source, source_format)
        wanted = found
        if gate_per and model is not None:
            wanted = wanted.with_gate_per_head(model.heads)
        if write_gates and target == "zerogate":
            wanted = wanted.with_gates(write_gates)
        if write_gates == "tanh" and target in ("peft", "litgpt"):
            raise UserError(f"{target} has no tanh on its gates, so --write-gates tanh cannot be.")
        written, size = _write(wanted, destination, target, model, write_gates, lossy, dtype, overwrite, dry_run)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        where = error.filename or destination
        raise UserError(f"{error.strerror}: {where}; nothing was written to {destination}") from error
    _report(source, source_format, found, destination, target, written, dtype, size, dry_run)


def _target(source_format: str, destination: Path) -> Format:
    if destination.suffix == ".adapter":
        return "litgpt"
    if destination.suffix in (".pth", ".pt"):
        return "official"
    if source_format != "zerogate":
        return "zerogate"
    raise UserError(f"{destination} does not tell which format you want; add --to peft, --to official or --to litgpt")


def _base(name: str | None, llama_shape: str | None) -> Base | None:
    from zerogate.adapters.convert import Base
    from zerogate.bases.load import read_config

    if name is not None and llama_shape is not None:
        raise UserError("give --base or --llama-shape, not both")
    if name is not None:
        return Base.from_config(read_config(name), name)
    if llama_shape is None:
        return None
    numbers = llama_shape.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise UserError(f"--llama-shape is N,C,H (layers, hidden size, heads), such as 32,4096,32; not {llama_shape!r}")
    return Base.llama(*(int(number) for number in numbers))  # type: ignore[arg-type]


def _recorded(found: PromptAdapter, source: Path, source_format: str) -> Base:
    """The base that an adapter records, for formats that need to know it."""
    from zerogate.adapters.convert import Base
    from zerogate.bases.adapted import portable_name

    if source_format == "official" and not found.one_gate:  # the file has it all: gates of every layer and head
        return Base.llama(max(found.modules) + 1, found.width, found.gates_LH.shape[1])
    if found.base_name is None:
        raise UserError(
            f"{source} ({source_format}) does not record its base, which is needed here: name it with --base"
        )
    try:
        base = _base(portable_name(found.base_name), None)
    except UserError as error:
        raise UserError(
            f"{source} was made for {found.base_name!r}, which is needed here: {error}. Or give --base, or "
            "--llama-shape"
        ) from error
    assert base is not None
    base.check(found, str(source))
    return base


def _read(
    source: Path, kind: str, activation: str | None, prompt_length: int | None, base: Base | None
) -> PromptAdapter:
    from zerogate.adapters import convert as converters

    if kind == "official":
        return converters.read_official(source, gate_activation=activation, prompt_length=prompt_length, base=base)
    if kind == "litgpt":
        if base is None:
            raise UserError(
                f"{source} is a LitGPT adapter, which has LitGPT's own names for layers: name the transformers model "
                "it is for with --base"
            )
        return converters.read_litgpt(source, base)
    return (converters.read_peft if kind == "peft" else converters.read_zerogate)(source, base=base)


def _write(
    adapter: PromptAdapter,
    destination: Path,
    kind: str,
    base: Base | None,
    activation: str | None,
    lossy: str | None,
    dtype: str,
    overwrite: bool,
    dry_run: bool,
) -> tuple[PromptAdapter, int]:
    """What was written, and its size in bytes. A dry run writes to a temporary folder and lets it go."""
    from zerogate.adapters import convert as converters

    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder) / destination.name
            return _write(adapter, there, kind, base, activation, lossy, dtype, overwrite, dry_run=False)
    if kind == "zerogate":
        written = converters.write_zerogate(adapter, destination, base, dtype=dtype, overwrite=overwrite)
    else:
        assert base is not None
        if kind == "official":
            written = converters.write_official(
                adapter, destination, base, gate_activation=activation or "identity", dtype=dtype, overwrite=overwrite
            )
        elif kind == "litgpt":
            written = converters.write_litgpt(adapter, destination, base, dtype=dtype, overwrite=overwrite)
        else:
            written = converters.write_peft(adapter, destination, base, lossy=lossy, dtype=dtype, overwrite=overwrite)
    files = destination.iterdir() if destination.is_dir() else [destination]
    return written, sum(file.stat().st_size for file in files)


def _report(
    source: Path,
    source_format: str,
    found: PromptAdapter,
    destination: Path,
    target: str,
    written: PromptAdapter,
    dtype: str,
    size: int,
    dry_run: bool,
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("", "found", "would be written" if dry_run else "written"):
        table.add_column(heading, overflow="fold")
    table.add_row("format", source_format, target)
    both = [(found, source_format), (written, target)]
    records = [adapter.base_name if kind in ("zerogate", "peft") else None for adapter, kind in both]
    table.add_row("base", *(name or "not recorded" for name in records))
    for (label, before), (_, after) in zip(_lines(found), _lines(written), strict=True):
        table.add_row(label, before, after)
    table.add_row("stored in", "", f"{dtype}, {size / 1e6:.2f} MB")
    console.print(table)
    for note in dict.fromkeys([*found.notes, *written.notes]):
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"{source} -> {destination}{' (dry run: not kept)' if dry_run else ''}", soft_wrap=True)


def _lines(adapter: PromptAdapter) -> list[tuple[str, str]]:
    from zerogate.adapters.convert.prompts import spans

    effective = adapter.effective_gates()
    heads = "one per layer" if adapter.one_gate else f"{effective.shape[1]} per layer"
    function = "g" if adapter.scale == 1 else f"{adapter.scale:g} g"
    how = f"tanh({function})" if adapter.activation == "tanh" else function
    low, high = float(effective.min()), float(effective.max())
    return [
        ("layers", f"{len(adapter.modules)}: {spans(list(adapter.modules))}"),
        ("prompts", f"{adapter.prompt_length} per layer, of {adapter.width}"),
        ("gates", f"{heads}, {how}"),
        ("effective", f"{low:.4f} to {high:.4f}"),
        ("parameters", f"{adapter.num_parameters():,}"),
    ]
