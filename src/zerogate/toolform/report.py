"""What each stage came to, in tables: the funnel, how many of the right calls were kept, and the answers at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.toolform.stages import LONG_DOCUMENTS, LONG_RESULTS, STEPS, Row, funnel
from zerogate.tools.inline import write_call
from zerogate.tools.registry import Toolbox
from zerogate.training.checkpoints import write_text

if TYPE_CHECKING:
    from rich.console import Console

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def write(folder: Path, title: str, rows: Sequence[Row], tools: Toolbox, console: Console) -> None:
    """`report.md`, and the same in the terminal; the answers stand in the folder's `results.json`, once there are any.

    Args:
        folder: of the run.
        title: over it all.
        rows: `with_places`.
        tools: with the gains that the calls had to have.
        console: the terminal.
    """
    sections = [("What is left after each stage", funnel_table(rows))]
    if (precision := precision_table(rows, tools)) is not None:
        sections.append(("Calls that are right", precision))
    if (results := folder / "results.json").exists():
        sections.append(("Right answers", answers_table(json.loads(results.read_text()))))
    parts = [f"# {title}"]
    for heading, table in sections:
        parts += [f"## {heading}", markdown(table)]
    parts += ["## Calls", "\n".join(f"- {line}" for line in examples(rows, tools))]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    for heading, table in sections:
        console.print(f"\n[bold]{heading}[/]", _rich(table), sep="\n")
    console.print(f"report    {folder / 'report.md'}", soft_wrap=True)


def with_places(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """Rows whose calls and truths say at which character, and which token, they stand."""
    for row in rows:
        encoded = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)
        starts = [start for start, _ in encoded["offset_mapping"]]
        for found in row["tools"].values():
            for call in found["calls"]:
                call["at"] = starts[call["position"]]
        for true in row["truth"]:
            true["token"] = next((n for n, start in enumerate(starts) if start >= true["at"]), len(starts))
    return rows


def funnel_table(rows: Sequence[Row]) -> Table:
    """What is left of the calls after each stage, by tool; what was too long for the base only where anything was."""
    counts = funnel(rows)
    found = [step for step in STEPS if step not in (LONG_DOCUMENTS, LONG_RESULTS) or _any(counts, step)]
    return ["", *counts], [[step, *(f"{one[step]:,}" for one in counts.values())] for step in found]


def _any(counts: Mapping[str, Mapping[str, int]], step: str) -> bool:
    return any(one[step] for one in counts.values())


def precision_table(rows: Sequence[Row], tools: Toolbox) -> Table | None:
    """How many calls are right that were executed, kept by the filter, and put into the texts (the best at each place);
    and for how many places a right one was found. None where no document says what is right.

    A call is right that belongs there by the document's `truth`: the tool, the input in any wording that will do, and
    the place, to the token.
    """
    if not any(row["truth"] for row in rows):
        return None
    made = []
    for name, tool in tools.items():
        executed = [(row, call) for row in rows for call in _calls(row, name) if "gain" in call]
        kept = [(row, call) for row, call in executed if call["gain"] >= tool.sampling.gain]
        best = [(row, call) for row, call in kept if call is _best(row, tools, call["position"])]
        places = sum(true["tool"] == name for row in rows for true in row["truth"])
        found = sum(_right(row, name, call) for row, call in best)
        parts = [_share(sum(_right(r, name, c) for r, c in some), len(some)) for some in (executed, kept, best)]
        made.append([name, *parts, _share(found, places)])
    headings = ["", "right of the executed", "of the kept", "of those in the texts", "places found"]
    return headings, made


def _calls(row: Row, name: str) -> list[Row]:
    found: list[Row] = row["tools"].get(name, {}).get("calls", [])
    return found


def _best(row: Row, tools: Toolbox, position: int) -> Row:
    """The call that merging takes for a place."""
    at = [
        call
        for name, tool in tools.items()
        for call in _calls(row, name)
        if call["position"] == position and call.get("gain", float("-inf")) >= tool.sampling.gain
    ]
    return max(at, key=lambda call: call["gain"])


def _right(row: Row, name: str, call: Row) -> bool:
    return any(
        true["tool"] == name and call["position"] == true["token"] and call["input"] in true["inputs"]
        for true in row["truth"]
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else ""


def answers_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Right answers by model (rows) and questions (columns), and perplexity where it was measured."""
    parts = list(dict.fromkeys(part for one in results.values() for part in one["parts"]))
    headings = ["", *parts]
    measured = any("perplexity" in one for one in results.values())
    rows = []
    for name, one in results.items():
        cells = []
        for part in parts:
            found = one["parts"].get(part)
            called = f" ({found['called']} called)" if found and found["called"] else ""
            cells.append(f"{found['right'] / found['questions']:.1%}{called}" if found else "")
        plain = f"{one['perplexity']:.3f}" if "perplexity" in one else ""
        rows.append([name, *cells, *([plain] if measured else [])])
    return [*headings, *(["perplexity"] if measured else [])], rows


def markdown(table: Table) -> str:
    """A table in Markdown."""
    headings, rows = table
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def examples(rows: Iterable[Row], tools: Toolbox, most: int = 3) -> list[str]:
    """Some texts before and after, the calls that helped most by tool, and the best that were not kept."""
    lines = []
    calls = [(name, call, row) for row in rows for name, found in row["tools"].items() for call in found["calls"]]
    weighed = sorted((one for one in calls if "gain" in one[1]), key=lambda one: -one[1]["gain"])
    for name, tool in tools.items():
        own = [one for one in weighed if one[0] == name]
        kept = [one for one in own if one[1]["gain"] >= tool.sampling.gain]
        left = [one for one in own if one[1]["gain"] < tool.sampling.gain]
        for what, some in (("kept", kept), ("left out", left)):
            for _, call, row in some[:most]:
                at = call["at"]
                written = write_call(name, call["input"], call["result"])
                shown = f"{row['text'][max(0, at - 60) : at]} **{written.strip()}**{row['text'][at : at + 30]}"
                lines.append(f"{what}, {call['gain']:+.2f}: {' '.join(shown.split())}")
    return lines


def _rich(table: Table) -> Any:
    from rich.table import Table as Shown

    headings, rows = table
    shown = Shown(*headings)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*row)
    return shown
