"""Command-line options that several commands share, and how adapters are named on the command line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zerogate.errors import UserError

if TYPE_CHECKING:
    from zerogate.inference import Engine
    from zerogate.vision import ImageSource

Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        "-b",
        metavar="NAME",
        help="Folder, Hub id or [cyan]pocket[/]. By default the base that the adapter was made for, else pocket.",
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", "-a", metavar="[NAME=]FOLDER", help="An adapter's folder; may be given several times, with names."
    ),
]
Template = Annotated[
    Literal["auto", "alpaca", "chat", "plain"],
    typer.Option(
        help="How a question is worded. auto: as in the adapter's training, else the tokenizer's template or alpaca."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Precision of the base. auto: as its weights were saved."),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1 or auto. By default the first GPU, else the CPU."),
]
# As in zerogate.bases.quantize, which takes seconds to import.
Quantized = Literal["nf4", "int8", "torchao-int8", "torchao-fp8", "fp8"]
Quantization = Annotated[
    Quantized | None,
    typer.Option(help="Load the base in 4 bits (nf4) or 8 (the others); needs bitsandbytes or torchao."),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Also read pickled base weights, with weights_only. Only if you trust them."),
]

Workers = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Processes that answer, each with a model of its own and a GPU if there are any."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A Ray cluster that runs already, to have them there instead of here."),
]


def named_adapters(given: list[str] | None) -> dict[str, Path]:
    """Turn `name=folder` or `folder` into names and folders; a lone folder is named after itself, or its run.

    Raises:
        UserError: two adapters of one name.
    """
    named: dict[str, Path] = {}
    for text in given or []:
        name, sign, folder = text.partition("=")
        path = home(folder if sign else text)
        if not sign:
            # `runs/fox/best` is better known as fox than as best.
            resolved = path.resolve()
            name = resolved.parent.name if resolved.name in ("best", "last", "final") else resolved.name
            name = "".join(letter if letter.isalnum() else "_" for letter in name)
            name = name if name[:1].isalpha() else f"adapter_{name}"
        if name in named:
            raise UserError(
                f"two adapters are called {name!r}; give them names: --adapter one=FOLDER --adapter two=FOLDER"
            )
        named[name] = path
    return named


def home(text: str) -> Path:
    """A path, with `~` as what it stands for.

    Raises:
        UserError: it names the folder of a user whom this machine does not know, or has a null character.
    """
    if "\0" in text:
        raise UserError(f"{text!r} has a null character, and no path has one")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: there is no such user's folder") from error


def image(text: str) -> ImageSource:
    """What a user wrote as an image: a file, or a file: or data: URL.

    Raises:
        UserError: it can be neither.
    """
    from zerogate.vision import source_from

    try:
        return source_from(text, Path())
    except ValueError as error:
        raise UserError(f"the image {error}") from error


def images(files: list[str] | None) -> list[ImageSource]:
    """Images as a user wrote them, looked at to their end.

    Raises:
        UserError: one cannot be read as an image.
    """
    if not files:
        return []
    from zerogate.vision.images import check_image

    sources = [image(file) for file in files]
    for source in sources:
        check_image(source)
    return sources


def load_engine(
    base: str | None,
    adapters: dict[str, Path],
    dtype: str,
    device: str | None,
    quantization: Quantized | None,
    allow_pickle: bool,
    weights: bool = True,
) -> tuple[Engine, str]:
    """Load the base (the named one, else the adapters' own) with its adapters; returns the engine and the base's name.

    Without `weights` it takes no memory and answers nothing: it knows adapters, tokenizer and limits.

    Raises:
        UserError: see `zerogate.bases`.
    """
    from rich.console import Console

    with Console(stderr=True).status("Loading ..."):
        from zerogate.bases.adapted import base_for
        from zerogate.inference import Engine

        name = base_for(adapters, base)
        options = {"dtype": dtype, "device": device, "quantization": quantization, "allow_pickle": allow_pickle}
        if weights:
            return Engine.load(name, adapters, **options), name
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            return Engine.load(name, adapters, **options | {"device": "meta", "quantization": None}), name


def many(workers: int, address: str | None) -> bool:
    """Whether processes of Ray answer.

    Raises:
        UserError: they should, and Ray is not installed.
    """
    if workers == 1 and address is None:
        return False
    from zerogate.inference.cluster import need_ray

    need_ray()
    return True
