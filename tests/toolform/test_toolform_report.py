"""The report's counts, on rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zerogate.toolform.report import answers_table, examples, funnel_table, markdown, precision_table
from zerogate.tools import Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar


def tools() -> Toolbox:
    made = (calculator(), calendar())
    return Toolbox(replace(tool, sampling=replace(tool.sampling, gain=1.0)) for tool in made)


def call(position: int, given: str, gain: float, result: str = "7") -> dict[str, Any]:
    return {"position": position, "at": position, "input": given, "result": result, "gain": gain}


def rows() -> list[dict[str, Any]]:
    right, wrong, weak, elsewhere = (
        call(3, "4 + 3", 2.0),
        call(3, "3 + 3", 1.5),
        call(3, "3 + 4", 0.5),
        call(1, "4 + 3", 1.2),
    )
    broken = {"position": 2, "at": 2, "input": "4 +", "error": "a number is missing"}
    day = call(3, "", 3.0, "Today is Monday, May 4, 2026.")
    truth = [{"tool": "Calculator", "inputs": ["4 + 3", "3 + 4"], "token": 3, "at": 3, "answer": " 7"}]
    numbers = {"positions": [[3, 0.5], [1, 0.2]], "sampled": 9, "calls": [right, wrong, weak, elsewhere, broken]}
    first = {"text": "abc 7 def", "truth": truth, "tools": {"Calculator": numbers}}
    second = {
        "text": "abc 7 def",
        "truth": truth,
        "tools": {
            "Calculator": {"positions": [[3, 0.5]], "sampled": 3, "calls": [dict(right)]},
            "Calendar": {"positions": [[3, 0.1]], "sampled": 1, "calls": [day]},
        },
    }
    return [first, second]


def test_the_funnel_counts_by_tool() -> None:
    headings, counted = funnel_table(rows())
    assert headings == ["", "Calculator", "Calendar"]
    assert counted == [
        ["documents", "2", "1"],
        ["positions", "3", "1"],
        ["sampled", "12", "1"],
        ["well formed", "6", "1"],
        ["executed", "5", "1"],
        ["kept at 0.5", "5", "1"],
        ["kept at 1", "4", "1"],
        ["kept at 2", "2", "1"],
    ]


def test_what_is_right_at_each_stage() -> None:
    found = precision_table(rows(), tools())
    assert found is not None and found[1] == [
        # Right: both wordings of the sum at its place. In the second text the calendar's call wins the place.
        ["Calculator", "3 of 5 (60.0%)", "2 of 4 (50.0%)", "1 of 2 (50.0%)", "1 of 2 (50.0%)"],
        ["Calendar", "0 of 1 (0.0%)", "0 of 1 (0.0%)", "0 of 1 (0.0%)", ""],
    ]
    assert precision_table([{**row, "truth": []} for row in rows()], tools()) is None


def test_answers_and_examples_in_words() -> None:
    part = {"questions": 4, "right": 1, "called": 0}
    table = answers_table(
        {"base": {"parts": {"sums": part}, "perplexity": 2.5}, "with tools": {"parts": {"sums": {**part, "called": 3}}}}
    )
    assert markdown(table).splitlines() == [
        "|  | sums | perplexity |",
        "|---|---:|---:|",
        "| base | 25.0% | 2.500 |",
        "| with tools | 25.0% (3 called) |  |",
    ]
    shown = examples(rows(), tools(), most=1)
    assert shown[0].startswith("kept, +2.00:") and "**[Calculator(4 + 3) -> 7]**" in shown[0]
    assert shown[1].startswith("left out, +0.50:")
