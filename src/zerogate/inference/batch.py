"""A file of prompts in, a file of answers out: JSON lines, in batches, and safe to stop and start again.

Each line that is written is whole and on the disk before the next batch begins. It holds the input row, the answer,
how it ended and the settings it was made with. A second run goes on after the last whole line; a line torn by a
crash is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.bases.sampling import Sampling
from zerogate.data import Turn, prompt_ids
from zerogate.data.formats import detect_format, to_records
from zerogate.data.image_fields import COLUMNS, place_images
from zerogate.data.jsonl import append_lines, changed_settings, cut_torn_line, whole_lines, whole_text
from zerogate.data.read import read_rows
from zerogate.data.records import Record
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.inference.generate import Answer, Engine
from zerogate.vision.check import check_images
from zerogate.vision.source import ImageSource

# The fields of an output line. The input row is kept whole in `record`, so none of its fields can clash with ours.
ROW, RECORD, IMAGES, RESPONSE, FINISH, TOKENS, ADAPTER, DECODING, ERROR = (
    "row", "record", "images", "response", "finish", "tokens", "adapter", "decoding", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a run did: rows in the input, rows that an earlier run had answered, rows too long to answer."""

    rows: int
    resumed: int
    too_long: int


def answer_file(
    engine: Engine,
    source: Path,
    target: Path,
    sampling: Sampling,
    *,
    template: TemplateName | None,
    models: dict[str, Any],
    batch_size: int = 8,
    adapter: str | None = None,
    overwrite: bool = False,
    skip_long: bool = False,
    progress: Callable[[int, int], None] | None = None,
    spread: Callable[[Iterable[Batch]], Iterable[Answers]] | None = None,
) -> Written:
    """Answer every row of `source` into `target`.

    Args:
        engine: the loaded model.
        source: JSON, JSONL or Parquet rows: Alpaca's fields, `prompt`, or `messages`; `adapter` in a row names its
            adapter, `image` or `images` what it shows.
        target: JSON lines to write, or to go on with.
        sampling: settings; row number n (from 0) has the seed `sampling.seed + n`.
        template: how a row is worded; None asks each adapter as it was taught.
        models: what answered (base, adapters), to be recorded with each row.
        batch_size: rows at a time.
        adapter: for rows that name none.
        overwrite: begin anew where `target` exists.
        skip_long: write an error for rows without room for an answer, instead of refusing to start.
        progress: called with rows done and rows in all.
        spread: answers batches somewhere else, such as `Workers.map` with `answering`, and yields the answers of each
            in their order. The engine then only words the prompts, and may be one without weights (`device="meta"`).

    Raises:
        UserError: unreadable input, an unknown adapter, rows that are too long, images that cannot be read or that
            their row's adapter does not take, or a `target` that is `source` or was made from other input or settings.
    """
    if source.exists() and target.exists() and target.samefile(source):
        raise UserError(f"{target} is the file with the questions: choose another --out")
    asked = _read(source, engine, template, adapter)
    long = [] if engine.context is None else [n for n, row in enumerate(asked) if len(row.prompt) >= engine.context]
    if long and not skip_long:
        first = asked[long[0]]
        raise UserError(
            f"{source}: {len(long)} of {len(asked)} prompts leave no room for an answer in the base's {engine.context} "
            f"tokens; the first is row {first.number} with {len(first.prompt)}. Shorten them, or pass --skip-long"
        )
    decoding = sampling.as_dict() | {"template": template or "auto"} | models
    done = 0 if overwrite or not target.exists() else _resume(target, asked, decoding)
    check_images((row.number, row.images) for row in asked[done:]).refuse(str(source))
    if not target.absolute().parent.is_dir():
        raise UserError(f"the folder {target.absolute().parent} for the output does not exist")
    places = [range(start, min(start + batch_size, len(asked))) for start in range(done, len(asked), batch_size)]
    batches = ({n: asked[n] for n in batch if n not in long} for batch in places)
    answered = spread(batches) if spread is not None else (_answers(engine, rows, sampling) for rows in batches)
    with target.open("wb" if done == 0 else "ab") as file:
        if progress is not None:
            progress(done, len(asked))
        for batch, answers in zip(places, answered, strict=True):
            append_lines(file, [_line(asked[n], answers.get(n)) | {DECODING: decoding} for n in batch])
            if progress is not None:
                progress(batch.stop, len(asked))
    return Written(len(asked), done, len(long))


@dataclass(frozen=True)
class Asked:
    """A row of the input: its number, itself as its line holds it, and what it comes to."""

    number: int
    record: dict[str, Any]
    adapter: str | None
    prompt: list[int]
    images: tuple[ImageSource, ...]


Batch = dict[int, Asked]
Answers = dict[int, Answer]
"""Both by the rows' place in the file."""


def answering(
    base: str, adapters: Mapping[str, Path], options: Mapping[str, Any], sampling: Sampling, device: str
) -> Callable[[Batch], Answers]:
    """Load a model as `Engine.load` does; returns what answers a batch with it. For processes of their own."""
    engine = Engine.load(base, adapters, **options, device=device)
    return lambda rows: _answers(engine, rows, sampling)


def rows_of(batch: Batch) -> str:
    """What a message calls a batch."""
    numbers = [row.number for row in batch.values()] or [0]  # rows without room for an answer are in no batch
    return f"row {numbers[0]}" if len(numbers) == 1 else f"rows {numbers[0]} to {numbers[-1]}"


def _read(source: Path, engine: Engine, template: TemplateName | None, default: str | None) -> list[Asked]:
    rows = [(number, _whole(row)) for number, row in read_rows(str(source))]
    adapters = [_adapter(number, row, default, engine, source) for number, row in rows]
    questions = [_question(number, row, source) for number, row in rows]
    some_show = any(question.images for question in questions)
    asked = []
    for (number, row), name, question in zip(rows, adapters, questions, strict=True):
        try:
            engine.encoders.refuse(engine.resolve(name), question.images)
            if some_show and not question.images:  # its markers, if it has any, are now too many
                place_images(question, ())
        except ValueError as error:
            raise UserError(f"{source}, row {number}: {error}") from error
        prompt = prompt_ids(_turns(question, source), template or engine.template_for(name), engine.tokenizer)
        asked.append(Asked(number, _json_row(row), name, prompt, question.images))
    return asked


def _answers(engine: Engine, rows: Batch, sampling: Sampling) -> Answers:
    """The answers of some rows, by their place in the file."""
    if not rows:
        return {}
    prompts, adapters = [row.prompt for row in rows.values()], [row.adapter for row in rows.values()]
    seeds, images = [sampling.seed + n for n in rows], [row.images for row in rows.values()]
    return dict(zip(rows, engine.answer(prompts, sampling, adapters, seeds, images), strict=True))


def _line(row: Asked, answer: Answer | None) -> dict[str, Any]:
    line: dict[str, Any] = {ROW: row.number, RECORD: row.record}
    if row.images:
        line[IMAGES] = [image.name for image in row.images]
    if answer is not None:
        line |= {RESPONSE: answer.text, FINISH: answer.finish, TOKENS: len(answer.ids)}
    else:
        line |= {RESPONSE: None, ERROR: f"the prompt's {len(row.prompt)} tokens leave no room for an answer"}
    return line | {ADAPTER: row.adapter}


def _question(number: int, row: dict[str, Any], source: Path) -> Record:
    """What a row asks and shows, as training would read it. Answers that it has are still there."""
    if "prompt" in row and "completion" not in row:
        shown = {name: row[name] for name in COLUMNS if name in row}
        row = {"instruction": row["prompt"], "output": ""} | shown
    elif "instruction" in row:
        row = row | {"output": ""}
    return to_records([(number, row)], detect_format(row), str(source))[0]


def _turns(question: Record, source: Path) -> list[Turn]:
    turns = list(question.turns)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise UserError(f"{source}, row {question.row}: there is no question in it")
    return turns


def _whole(value: Any) -> Any:
    """A row whose texts are `whole_text`: as its line will hold it, and as tokenizers take it."""
    if isinstance(value, dict):
        return {_whole(name): _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return whole_text(value) if isinstance(value, str) else value


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row as its line holds it: through JSON and back, encoded images as their digest (Parquet has both)."""

    def digest(value: Any) -> str:
        return f"sha256:{hashlib.sha256(value).hexdigest()}" if isinstance(value, bytes) else str(value)

    found: dict[str, Any] = json.loads(json.dumps(row, default=digest))
    return found


def _adapter(number: int, row: dict[str, Any], default: str | None, engine: Engine, source: Path) -> str | None:
    name = row.get("adapter", default)
    if name is None:
        return None
    try:
        return engine.resolve(str(name))
    except UserError as error:
        raise UserError(f"{source}, row {number}: {error}; name its folder with --adapter {name}=FOLDER") from error


def _resume(target: Path, asked: list[Asked], decoding: dict[str, Any]) -> int:
    """Check what an earlier run wrote, cut a torn last line off, and return how many rows are done."""
    anew = "choose another --out, or pass --overwrite to begin anew"
    lines = whole_lines(target)
    if len(lines) > len(asked):
        raise UserError(f"{target} has {len(lines)} rows, the input only {len(asked)}; {anew}")
    for n, line in enumerate(lines):
        if line.get(ROW) != asked[n].number or line.get(RECORD) != asked[n].record:
            raise UserError(f"{target}, line {n + 1} answers another row than the input has there; {anew}")
        if changed := changed_settings(line.get(DECODING), decoding):
            raise UserError(f"{target} was made with other settings ({changed}); {anew}")
    cut_torn_line(target)
    return len(lines)
