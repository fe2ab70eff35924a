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

from zerogate.bases.decode import context_length
from zerogate.data.jsonl import append_lines, changed_settings, cut_torn_line, whole_lines
from zerogate.errors import UserError
from zerogate.toolform.document import Clock, Document
from zerogate.toolform.filter import WEIGHTS, Candidate, weigh
from zerogate.toolform.heuristics import makes_sense, worth_asking
from zerogate.toolform.merge import Kept, merge
from zerogate.toolform.positions import Text
from zerogate.toolform.sample import MOST_TOKENS, few_shot, propose
from zerogate.tools.inline import OPEN, write_call
from zerogate.tools.registry import Toolbox
from zerogate.tools.tool import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]
Progress = Callable[[int, int], None]
AT_ONCE = 16
"""Documents at a time, after which a stopped run goes on."""

THRESHOLDS = (0.5, 1.0, 2.0)
"""tau_f at which the funnel counts, as the paper's table 2 does."""


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tools: Toolbox,
    documents: Sequence[Document],
    target: Path,
    *,
    shown: bool = True,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> None:
    """Positions and calls that the model proposes. A document that does not fit into the base's context, with what
    stands before it and a call, is `too_long` for that tool.

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
    start, limit = start_tokens(tokenizer), context_length(model)

    def work(rows: list[Row]) -> list[Row]:
        done = [
            {**row, "ids": tokenizer(row["text"], add_special_tokens=False)["input_ids"], "tools": {}} for row in rows
        ]
        for name, tool in tools.items():
            opening = OPEN if shown else OPEN + name
            call = len(tokenizer(opening, add_special_tokens=False)["input_ids"]) + MOST_TOKENS
            asked, texts = [], []
            for row in done:
                if not worth_asking(name, row["text"], row["date"]):
                    continue
                before = [*start, *(_prompt(tokenizer, tool, row["text"]) if shown else [])]
                if limit is not None and len(before) + len(row["ids"]) + call > limit:
                    row["tools"][name] = {"positions": [], "sampled": 0, "calls": [], "too_long": True}
                    continue
                asked.append(row)
                texts.append(Text(before, row["ids"]))
            made = propose(
                model,
                tokenizer,
                tool,
                texts,
                opening=opening,
                seed=seed,
                temperature=temperature,
                batch_size=batch_size,
            )
            for row, one in zip(asked, made, strict=True):
                calls = [
                    {"position": position, "input": given}
                    for position, given in one.calls
                    if makes_sense(name, given, str(tokenizer.decode(row["ids"][:position])))
                ]
                row["tools"][name] = {"positions": one.positions, "sampled": one.sampled, "calls": calls}
        return done

    rows = [{"row": number, **vars(document)} for number, document in enumerate(documents, start=1)]
    _run(rows, target, settings, work, progress)


def execute(
    tools: Toolbox, source: Path, target: Path, clock: Clock | None = None, progress: Progress | None = None
) -> None:
    """Run every call; `result`, or `error` where none came.

    Args:
        tools: what is called.
        source, target: JSONL files.
        clock: the calendar's, to be set to each document's day.
        progress: called with documents done and in all.
    """

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            if clock is not None:
                clock.set(row["date"])
            for name, found in row["tools"].items():
                for call in found["calls"]:
                    called = tools.call(name, call["input"])
                    call |= {"result": called.result} if called.error is None else {"error": called.error}
        return rows

    _run(_source(source), target, {"tools": _described(tools)}, work, progress, adds=("result", "error"))


def weigh_calls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Path,
    target: Path,
    progress: Progress | None = None,
) -> None:
    """The losses with and without every call that has a result, and its gain. One that does not fit into the base's
    context, with its result before the text, is `too_long` and has none."""
    limit, start = context_length(model), start_tokens(tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def candidate(name: str, call: Row) -> Candidate:
        empty, full = (write_call(name, call["input"], result) for result in ("", call["result"]))
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (empty, full)]
        return Candidate(call["position"], ids[0], ids[1])

    def fits(one: Candidate, text: list[int]) -> bool:
        whole = len(start) + len(one.called) + min(one.position + len(WEIGHTS), len(text))
        return limit is None or whole <= limit

    def work(rows: list[Row]) -> list[Row]:
        calls: list[list[Row]] = []
        texts: list[tuple[list[int], list[Candidate]]] = []
        for row in rows:
            made = [
                (call, candidate(name, call))
                for name, found in row["tools"].items()
                for call in found["calls"]
                if "result" in call
            ]
            for call, one in made:
                if not fits(one, row["ids"]):
                    call["too_long"] = True
            calls.append([call for call, _ in made if "too_long" not in call])
            texts.append((row["ids"], [one for call, one in made if "too_long" not in call]))
        for some, all_losses in zip(calls, weigh(model, start, texts, pad), strict=True):
            for call, losses in zip(some, all_losses, strict=True):
                call |= {"losses": [losses.nothing, losses.empty, losses.result], "gain": losses.gain}
        return rows

    _run(_source(source), target, {}, work, progress, adds=("losses", "gain", "too_long"))


def augment(tokenizer: PreTrainedTokenizerBase, tools: Toolbox, source: Path, target: Path) -> int:
    """Texts with the calls that help by their tool's `gain` at least; texts without any are left out.

    Returns:
        How many there are.
    """
    lines = []
    for row in _source(source):
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
            lines.append(
                {
                    "row": row["row"],
                    "text": text,
                    "ids": ids,
                    "plain": row["text"],
                    "plain_ids": row["ids"],
                    "calls": told,
                }
            )
    partial = target.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    partial.replace(target)
    return len(lines)


def funnel(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """By tool how many documents were worth asking about and how many of them were too long, positions looked at, calls
    sampled, well formed, executed, of those too long with their results, and kept at each of `THRESHOLDS`."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for name, found in row["tools"].items():
            one = counts.setdefault(name, dict.fromkeys(STEPS, 0))
            gains = [call["gain"] for call in found["calls"] if "gain" in call]
            one["documents"] += 1
            one[LONG_DOCUMENTS] += "too_long" in found
            one["positions"] += len(found["positions"])
            one["sampled"] += found["sampled"]
            one["well formed"] += len(found["calls"])
            one["executed"] += sum("result" in call for call in found["calls"])
            one[LONG_RESULTS] += sum("too_long" in call for call in found["calls"])
            for threshold in THRESHOLDS:
                one[f"kept at {threshold:g}"] += sum(gain >= threshold for gain in gains)
    return counts


LONG_DOCUMENTS, LONG_RESULTS = "documents too long", "too long with the result"
"""What does not fit into the base's context."""

STEPS = (
    *("documents", LONG_DOCUMENTS, "positions", "sampled", "well formed", "executed", LONG_RESULTS),
    *(f"kept at {t:g}" for t in THRESHOLDS),
)


def _source(file: Path) -> list[Row]:
    if not file.exists():
        raise UserError(f"{file} is not there: run the stage before this one first")
    return whole_lines(file)


def _run(
    rows: list[Row],
    target: Path,
    settings: dict[str, Any],
    work: Callable[[list[Row]], list[Row]],
    progress: Progress | None,
    adds: Sequence[str] = (),
) -> None:
    """Go on with a stage, or do it anew where the rows it was made from have changed.

    Args:
        rows: what it is made from.
        target: its JSONL file.
        settings: what else it depends on.
        work: what it does, some rows at a time.
        progress: called with documents done and in all.
        adds: what it writes into the calls of its rows.

    Raises:
        UserError: `target` holds other documents or settings.
    """
    beside = target.with_suffix(".settings.json")
    done: list[Row] = []
    if target.exists():
        old = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
        if changed := changed_settings(old, settings):
            raise UserError(f"{target} was made with other settings ({changed}); delete it, or choose another folder")
        done = whole_lines(target)
        if [(row.get("text"), row.get("date")) for row in done] != [
            (row["text"], row["date"]) for row in rows[: len(done)]
        ]:
            raise UserError(f"{target} is of other documents; delete it, or choose another folder")
        cut_torn_line(target)
        if adds and any(_before(old, adds) != row for old, row in zip(done, rows, strict=False)):
            target.unlink()
            done = []
    target.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    with target.open("ab") as opened:
        for at in range(len(done), len(rows), AT_ONCE):
            append_lines(opened, work(rows[at : at + AT_ONCE]))
            if progress is not None:
                progress(min(at + AT_ONCE, len(rows)), len(rows))


def _before(row: Row, adds: Sequence[str]) -> Row:
    """A row as it was before a stage wrote something into its calls."""
    tools = {
        name: {**found, "calls": [{k: v for k, v in call.items() if k not in adds} for call in found["calls"]]}
        for name, found in row["tools"].items()
    }
    return {**row, "tools": tools}


def _described(tools: Toolbox) -> dict[str, Any]:
    """What sampling goes by; how much a call must gain is asked later."""
    return {name: {k: v for k, v in vars(tool.sampling).items() if k != "gain"} for name, tool in tools.items()}


def start_tokens(tokenizer: Any) -> list[int]:
    """What every text begins with: BOS, or where there is none EOS.

    Raises:
        UserError: there is neither.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UserError("the tokenizer has neither a BOS nor an EOS token, one of which every text is to begin with")
    return [int(start)]


def _prompt(tokenizer: Any, tool: Tool, text: str) -> list[int]:
    return tokenizer(few_shot(tool, text), add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]
