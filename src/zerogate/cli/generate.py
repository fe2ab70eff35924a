"""`zerogate generate`: answer one prompt, or a file of them. The work is in `zerogate.inference`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zerogate.cli import options
from zerogate.errors import UserError

if TYPE_CHECKING:
    from zerogate.data.templates import TemplateName
    from zerogate.inference import Engine, Sampling
    from zerogate.inference.batch import Answers, Batch
    from zerogate.inference.workers import Workers
    from zerogate.vision import ImageSource

EPILOG = """[bold]Examples[/]

zerogate generate "Where does the fox live?" --adapter runs/demo

echo "Name a colour." | zerogate generate -a runs/demo --greedy

zerogate generate "What colour is the circle?" --image circle.png -a runs/demo-image

zerogate generate --in asked.jsonl --out answered.jsonl -a runs/demo

zerogate generate --in asked.jsonl --out answered.jsonl -a runs/demo --workers 4

zerogate generate --in asked.jsonl --out mixed.jsonl -a fox=runs/fox -a sums=runs/sums

With --workers, several processes answer the file's batches (pip install 'zerogate[ray]'); one that dies loses no row.
In the last one each row may say which adapter answers it: {"instruction": "...", "adapter": "fox"}.
A row shows an image, or several, with the column image or images: {"instruction": "...", "image": "fox.png"}.
"""


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The instruction. Without it, standard input is read.")] = None,
    context: Annotated[str, typer.Option("--input", help="Context for the instruction: Alpaca's second field.")] = "",
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A picture that the prompt is about; may be given several times."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--in", metavar="FILE", help="Rows to answer: instruction and input, prompt, or messages; image."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where --in's answers go, as JSON lines.")
    ] = None,
    base: options.Base = None,
    adapter: options.Adapters = None,
    template: options.Template = "auto",
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.1,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens with this share of the probability.")] = 0.75,
    top_k: Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0 keeps all.")] = 0,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="Always the likeliest token; the same as --temperature 0.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that have been seen get less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer. Row n of a file has seed + n.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the answer; may be given several times.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a file at a time.")] = 8,
    workers: options.Workers = 1,
    ray_address: options.RayAddress = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin --out anew instead of going on with it.")
    ] = False,
    skip_long: Annotated[
        bool, typer.Option("--skip-long", help="Note rows that are too long as errors and go on.")
    ] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    quantization: options.Quantization = None,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Answer a prompt, or a whole file of them.

    One prompt streams to the terminal. A file is answered in batches; when it
    is stopped, the same command goes on where it stopped. The default
    temperature and top-p are the paper's.
    """
    if (source is None) != (target is None):
        raise UserError("--in and --out belong together: one names the questions, the other where the answers go")
    if source is not None and prompt is not None:
        raise UserError("give a prompt or --in FILE, not both")
    if source is not None and image:
        raise UserError("--image goes with one prompt; the rows of a file name theirs in a column `image`")
    many = options.many(workers, ray_address)
    if many and source is None:
        raise UserError("--workers and --ray-address are for a file of prompts: --in FILE --out FILE")
    if source is None and prompt is None:
        prompt = sys.stdin.read().strip() if not sys.stdin.isatty() else ""
        if not prompt:
            raise UserError(
                'there is no prompt: zerogate generate "Where does the fox live?", or pipe one in, or use --in FILE'
            )
    from zerogate.inference import Sampling

    sampling = Sampling(
        temperature=0.0 if greedy else temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
    )
    if source is not None and not source.is_file():
        raise UserError(f"the file {source} does not exist")
    images = options.images(image)
    adapters = options.named_adapters(adapter)
    engine, base_name = options.load_engine(base, adapters, dtype, device, quantization, allow_pickle, weights=not many)
    wording: TemplateName | None = None if template == "auto" else template
    if source is None or target is None:
        assert prompt is not None
        _print_answer(engine, *_question(engine, prompt, context, wording, images), sampling)
        return
    models = {"base": base_name, "adapters": {name: str(folder) for name, folder in adapters.items()}, "dtype": dtype}
    workers_of = None
    if many:
        from zerogate.inference.batch import answering, rows_of
        from zerogate.inference.cluster import from_anywhere
        from zerogate.inference.workers import Workers

        loading = {"dtype": dtype, "quantization": quantization, "allow_pickle": allow_pickle}
        folders = {name: folder.resolve() for name, folder in adapters.items()}
        load = partial(answering, from_anywhere(base_name), folders, loading, sampling)
        workers_of = partial(Workers, load, workers, address=ray_address, device=device, name=rows_of)
    _answer_file(
        engine, source, target, sampling, workers_of, template=wording, models=models, batch_size=batch_size,
        overwrite=overwrite, skip_long=skip_long,
    )  # fmt: skip


def _question(
    engine: Engine, prompt: str, context: str, wording: TemplateName | None, images: list[ImageSource]
) -> tuple[list[int], list[ImageSource]]:
    """The prompt's ids, its `<image>` markers cut out as in training, and what it is about."""
    from zerogate.data.jsonl import whole_text

    prompt, context = whole_text(prompt), whole_text(context)  # what is typed may not be text of this terminal
    engine.encoders.refuse(engine.resolve(None), images)
    return engine.prompt(prompt, context, wording, images=len(images)), images


def _print_answer(engine: Engine, prompt: list[int], images: list[ImageSource], sampling: Sampling) -> None:
    def show(text: str) -> None:
        print(text, end="", flush=True)

    answer = engine.stream(prompt, sampling, show, images=images)
    print()
    if answer.finish == "interrupted":
        raise KeyboardInterrupt


def _answer_file(
    engine: Engine,
    source: Path,
    target: Path,
    sampling: Sampling,
    workers_of: Callable[..., Workers[Batch, Answers]] | None,
    **settings: Any,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from zerogate.inference.batch import answer_file

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack, Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Answering", total=None)
        workers = stack.enter_context(workers_of(told=console.print)) if workers_of is not None else None

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        spread = workers.map if workers is not None else None
        try:
            written = answer_file(engine, source, target, sampling, progress=progress, spread=spread, **settings)
        except KeyboardInterrupt:
            console.print(f"Stopped. The rows in {target} are whole; the same command goes on from there.")
            raise
    resumed = f", {written.resumed} of them by an earlier run" if written.resumed else ""
    console.print(f"{written.rows} rows answered in {target}{resumed}.")
    if written.too_long:
        console.print(f"[yellow]{written.too_long} rows were too long and hold an error instead.[/]")
