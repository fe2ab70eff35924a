"""What each stage came to, in tables: the funnel, how many of the right calls were kept, and the answers at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zerogate.toolform.stages import STEPS, Row, funnel
from zerogate.tools.inline import write_call
from zerogate.tools.registry import Toolbox

Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""


def funnel_table(rows: Sequence[Row]) -> Table:
    """What is left of the calls after each stage, by tool."""
    counts = funnel(rows)
    return ["", *counts], [[step, *(f"{one[step]:,}" for one in counts.values())] for step in STEPS]


def kept_and_right(rows: Iterable[Row], tools: Toolbox) -> dict[str, dict[str, int]]:
    """By tool: calls that were kept, of them right ones, and places where a call helps with and without a right one.

    A call is right that belongs there by the document's `truth`: the tool, the input in any wording that will do, and
    the place, to the token.
    """
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for name, found in row["tools"].items():
            one = counts.setdefault(name, dict.fromkeys(("kept", "right", "found", "places"), 0))
            truth = [true for true in row["truth"] if true["tool"] == name]
            kept = [call for call in found["calls"] if call.get("gain", float("-inf")) >= tools[name].sampling.gain]
            good = [(call, true) for call in kept for true in truth if _same(call, true)]
            one["kept"] += len(kept)
            one["right"] += len(good)
            one["places"] += len(truth)
            one["found"] += len({true["token"] for _, true in good})
    return counts


def precision_table(rows: Sequence[Row], tools: Toolbox) -> Table | None:
    """Precision and recall of the kept calls; None where no document says what is right."""
    if not any(row["truth"] for row in rows):
        return None
    made = []
    for name, one in kept_and_right(rows, tools).items():
        made.append(
            [
                name,
                f"{one['kept']:,}",
                f"{one['right']:,}",
                _share(one["right"], one["kept"]),
                f"{one['places']:,}",
                f"{one['found']:,}",
                _share(one["found"], one["places"]),
            ]
        )
    return ["tool", "kept", "right", "precision", "places", "found", "recall"], made


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
                shown = f"{row['text'][max(0, at - 60) : at]}**{written}**{row['text'][at : at + 30]}"
                lines.append(f"{what}, {call['gain']:+.2f}: {' '.join(shown.split())}")
    return lines


def _same(call: Row, true: Mapping[str, Any]) -> bool:
    return call["position"] == true["token"] and call["input"] in true["inputs"]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
