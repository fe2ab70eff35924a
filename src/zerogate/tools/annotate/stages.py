"""From documents to texts with calls, each stage from one JSONL file to the next; one that was stopped goes on.

    documents -> `sample` -> `execute` -> `weigh_calls` -> `augment` -> texts with calls

A row is a document: its text and token ids, and by tool the positions that were looked at and the calls, to which each
stage adds what it finds out. `funnel` counts what is left after each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.data.jsonl import append_lines, changed_settings, cut_torn_line, whole_lines
from zerogate.errors import UserError
from zerogate.tools.annotate.filter import Candidate, weigh
from zerogate.tools.annotate.heuristics import worth_asking
from zerogate.tools.annotate.merge import Kept, merge
from zerogate.tools.annotate.sample import few_shot, propose
from zerogate.tools.inline import write_call
from zerogate.tools.registry import Toolbox
from zerogate.tools.tool import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]
Progress = Callable[[int, int], None]
THRESHOLDS = (0.5, 1.0, 2.0)
"""tau_f at which the funnel counts, as the paper's table 2 does."""


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tools: Toolbox,
    documents: Sequence[str],
    target: Path,
    *,
    shown: bool = True,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> None:
    """Positions and calls that the model proposes.

    Args:
        model, tokenizer: the model that is to learn tools, in eval mode.
        tools: what may be called.
        documents: texts.
        target: the JSONL file.
        shown: with the few-shot prompt before each text; False for an adapter that proposes by itself.
        seed, temperature: of the sampling.
        batch_size: calls at a time; it changes no call.
        progress: called with documents done and in all.

    Raises:
        UserError: `target` holds other documents or settings.
    """
    settings = {"seed": seed, "temperature": temperature, "shown": shown, "tools": _described(tools)}

    def work(row: Row) -> Row:
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        found = {}
        for name, tool in tools.items():
            if not worth_asking(name, row["text"]):
                continue
            before = [*_start(tokenizer), *(_prompt(tokenizer, tool, row["text"]) if shown else [])]
            made = propose(
                model, tokenizer, tool, before, ids, seed=seed, temperature=temperature, batch_size=batch_size
            )
            calls = [{"position": position, "input": given} for position, given in made.calls]
            found[name] = {"positions": made.positions, "sampled": made.sampled, "calls": calls}
        return {**row, "ids": ids, "tools": found}

    rows = [{"row": number, "text": text} for number, text in enumerate(documents, start=1)]
    _run(rows, target, settings, work, progress)


def execute(tools: Toolbox, source: Path, target: Path, progress: Progress | None = None) -> None:
    """Run every call; `result`, or `error` where none came."""

    def work(row: Row) -> Row:
        for name, found in row["tools"].items():
            for call in found["calls"]:
                called = tools.call(name, call["input"])
                call |= {"result": called.result} if called.error is None else {"error": called.error}
        return row

    _run(whole_lines(source), target, {"tools": _described(tools)}, work, progress)


def weigh_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Path,
    target: Path,
    progress: Progress | None = None,
) -> None:
    """The losses with and without every call that has a result, and its gain."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def work(row: Row) -> Row:
        calls = [(name, call) for name, found in row["tools"].items() for call in found["calls"] if "result" in call]
        candidates = []
        for name, call in calls:
            empty, full = (write_call(name, call["input"], result) for result in ("", call["result"]))
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (empty, full)]
            candidates.append(Candidate(call["position"], ids[0], ids[1]))
        for (_, call), losses in zip(calls, weigh(model, _start(tokenizer), row["ids"], candidates, pad), strict=True):
            call |= {"losses": [losses.nothing, losses.empty, losses.result], "gain": losses.gain}
        return row

    _run(whole_lines(source), target, {}, work, progress)


def augment(tokenizer: PreTrainedTokenizerBase, tools: Toolbox, source: Path, target: Path) -> int:
    """Texts with the calls that help by their tool's `gain` at least; texts without any are left out.

    Returns:
        How many there are.
    """
    lines = []
    for row in whole_lines(source):
        kept, told = [], []
        for name, found in row["tools"].items():
            for call in found["calls"]:
                if call.get("gain", float("-inf")) >= tools[name].sampling.gain:
                    ids = tokenizer(write_call(name, call["input"], call["result"]), add_special_tokens=False)
                    kept.append(Kept(call["position"], call["gain"], ids["input_ids"]))
                    told.append({"tool": name, **call})
        if kept:
            ids = merge(row["ids"], kept)
            text = str(tokenizer.decode(ids, skip_special_tokens=True))
            lines.append({"row": row["row"], "text": text, "input_ids": ids, "plain": row["text"], "calls": told})
    partial = target.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(target)
    return len(lines)


def funnel(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """By tool how many documents were asked about, positions looked at, calls sampled, well formed, executed, and kept
    at each of `THRESHOLDS`."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for name, found in row["tools"].items():
            one = counts.setdefault(name, dict.fromkeys(_STEPS, 0))
            gains = [call["gain"] for call in found["calls"] if "gain" in call]
            one["documents"] += 1
            one["positions"] += len(found["positions"])
            one["sampled"] += found["sampled"]
            one["well formed"] += len(found["calls"])
            one["executed"] += sum("result" in call for call in found["calls"])
            for threshold in THRESHOLDS:
                one[f"kept at {threshold:g}"] += sum(gain >= threshold for gain in gains)
    return counts


_STEPS = ("documents", "positions", "sampled", "well formed", "executed", *(f"kept at {t:g}" for t in THRESHOLDS))


def _run(
    rows: list[Row], target: Path, settings: dict[str, Any], work: Callable[[Row], Row], progress: Progress | None
) -> None:
    beside = target.with_suffix(".settings.json")
    done: list[Row] = []
    if target.exists():
        old = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
        if changed := changed_settings(old, settings):
            raise UserError(f"{target} was made with other settings ({changed}); delete it, or choose another folder")
        done = whole_lines(target)
        if [row.get("text") for row in done] != [row["text"] for row in rows[: len(done)]]:
            raise UserError(f"{target} is of other documents; delete it, or choose another folder")
        cut_torn_line(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    with target.open("ab") as opened:
        for number in range(len(done), len(rows)):
            append_lines(opened, [work(rows[number])])
            if progress is not None:
                progress(number + 1, len(rows))


def _described(tools: Toolbox) -> dict[str, Any]:
    settings = {name: vars(tool.sampling) for name, tool in tools.items()}
    return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def _start(tokenizer: Any) -> list[int]:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UserError("the tokenizer has neither a BOS nor an EOS token, one of which every text is to begin with")
    return [int(start)]


def _prompt(tokenizer: Any, tool: Tool, text: str) -> list[int]:
    return tokenizer(few_shot(tool, text), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]
