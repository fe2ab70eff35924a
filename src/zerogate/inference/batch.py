"""A file of prompts in, a file of answers out: JSON lines, in batches, and safe to stop and start again.

Each line that is written is whole and on the disk before the next batch begins. It holds the input row, the answer,
how it ended and the settings it was made with. A second run goes on after the last whole line; a line torn by a
crash is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerogate.data import Turn, prompt_ids
from zerogate.data.formats import detect_format, to_records
from zerogate.data.jsonl import append_lines, changed_settings, cut_torn_line, whole_lines
from zerogate.data.read import read_rows
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.inference.generate import Engine
from zerogate.inference.sampling import Sampling

# The fields of an output line. The input row is kept whole in `record`, so none of its fields can clash with ours.
ROW, RECORD, RESPONSE, FINISH, TOKENS, ADAPTER, DECODING, ERROR = (
    "row", "record", "response", "finish", "tokens", "adapter", "decoding", "error",
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
) -> Written:
    """Answer every row of `source` into `target`.

    Args:
        engine: the loaded model.
        source: JSON, JSONL or Parquet rows: Alpaca's fields, `prompt`, or `messages`; `adapter` in a row names its
            adapter.
        target: JSON lines to write, or to go on with.
        sampling: settings; row number n (from 0) has the seed `sampling.seed + n`.
        template: how a row is worded; None asks each adapter as it was taught.
        models: what answered (base, adapters), to be recorded with each row.
        batch_size: rows at a time.
        adapter: for rows that name none.
        overwrite: begin anew where `target` exists.
        skip_long: write an error for rows without room for an answer, instead of refusing to start.
        progress: called with rows done and rows in all.

    Raises:
        UserError: unreadable input, an unknown adapter, rows that are too long, or a `target` made from other input
            or settings.
    """
    rows = read_rows(str(source))
    adapters = [_adapter(number, row, adapter, engine, source) for number, row in rows]
    prompts = [
        prompt_ids(_turns(number, row, source), template or engine.template_for(name), engine.tokenizer)
        for (number, row), name in zip(rows, adapters, strict=True)
    ]
    long = [] if engine.context is None else [n for n, prompt in enumerate(prompts) if len(prompt) >= engine.context]
    if long and not skip_long:
        raise UserError(
            f"{source}: {len(long)} of {len(rows)} prompts leave no room for an answer in the base's {engine.context} "
            f"tokens; the first is row {rows[long[0]][0]} with {len(prompts[long[0]])}. Shorten them, or pass "
            "--skip-long"
        )
    decoding = sampling.as_dict() | {"template": template or "auto"} | models
    done = 0 if overwrite or not target.exists() else _resume(target, rows, decoding)
    if not target.absolute().parent.is_dir():
        raise UserError(f"the folder {target.absolute().parent} for the output does not exist")
    with target.open("wb" if done == 0 else "ab") as file:
        if progress is not None:
            progress(done, len(rows))
        for start in range(done, len(rows), batch_size):
            batch = range(start, min(start + batch_size, len(rows)))
            lines = _answer_rows(engine, batch, rows, prompts, adapters, sampling, decoding, set(long))
            append_lines(file, lines)
            if progress is not None:
                progress(batch.stop, len(rows))
    return Written(len(rows), done, len(long))


def _answer_rows(
    engine: Engine,
    batch: Sequence[int],
    rows: list[tuple[int, dict[str, Any]]],
    prompts: list[list[int]],
    adapters: list[str | None],
    sampling: Sampling,
    decoding: dict[str, Any],
    long: set[int],
) -> list[dict[str, Any]]:
    short = [n for n in batch if n not in long]
    answers = dict(
        zip(
            short,
            engine.answer(
                [prompts[n] for n in short], sampling, [adapters[n] for n in short], [sampling.seed + n for n in short]
            )
            if short
            else [],
            strict=True,
        )
    )
    lines = []
    for n in batch:
        line: dict[str, Any] = {ROW: rows[n][0], RECORD: rows[n][1]}
        if n in answers:
            answer = answers[n]
            line |= {RESPONSE: answer.text, FINISH: answer.finish, TOKENS: len(answer.ids)}
        else:
            line |= {RESPONSE: None, ERROR: f"the prompt's {len(prompts[n])} tokens leave no room for an answer"}
        lines.append(line | {ADAPTER: adapters[n], DECODING: decoding})
    return lines


def _turns(number: int, row: dict[str, Any], source: Path) -> list[Turn]:
    if "prompt" in row and "completion" not in row:
        row = {"instruction": row["prompt"], "output": ""}
    elif "instruction" in row:
        row = row | {"output": ""}
    record = to_records([(number, row)], detect_format(row), str(source))[0]
    turns = list(record.turns)
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not turns:
        raise UserError(f"{source}, row {number}: there is no question in it")
    return turns


def _adapter(number: int, row: dict[str, Any], default: str | None, engine: Engine, source: Path) -> str | None:
    name = row.get("adapter", default)
    if name is None:
        return None
    try:
        return engine.resolve(str(name))
    except UserError as error:
        raise UserError(f"{source}, row {number}: {error}; name its folder with --adapter {name}=FOLDER") from error


def _resume(target: Path, rows: list[tuple[int, dict[str, Any]]], decoding: dict[str, Any]) -> int:
    """Check what an earlier run wrote, cut a torn last line off, and return how many rows are done."""
    anew = "choose another --out, or pass --overwrite to begin anew"
    lines = whole_lines(target)
    if len(lines) > len(rows):
        raise UserError(f"{target} has {len(lines)} rows, the input only {len(rows)}; {anew}")
    for n, line in enumerate(lines):
        number, record = rows[n]
        # Through JSON and back, as the written row went: a Parquet row may hold what JSON knows only as text.
        if line.get(ROW) != number or line.get(RECORD) != json.loads(json.dumps(record)):
            raise UserError(f"{target}, line {n + 1} answers another row than the input has there; {anew}")
        if changed := changed_settings(line.get(DECODING), decoding):
            raise UserError(f"{target} was made with other settings ({changed}); {anew}")
    cut_torn_line(target)
    return len(lines)
