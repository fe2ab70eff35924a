"""Score LLM-Adapters' own logs again: does `compat` reproduce every logged prediction and the accuracies they end with?

    python benchmarks/llm_adapters_logs.py ../shared/data/llm-adapters-logs --out rescored/

The logs are of the authors' LLaMA-7B runs (LoRA and parallel adapters; arXiv 2304.01933): response, prediction and
label of each test item. Each becomes a JSONL file that `zerogate score` reads (with --out), and a row of the table
that is printed: the accuracy logged at its end, ours by both rules, and how many responses gave no answer. The exit
code is 1 if a single prediction or accuracy differs.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zerogate.evaluation.score import total, verdict_fields
from zerogate.evaluation.tasks import Task, find_task, read_label

# Their evaluators draw a progress bar's line with a carriage return after each item.
ITEM = re.compile(r"\nprediction: ?(?P<prediction>[^\n]*)\nlabel: ?(?P<label>[^\n]*)\n-+\n\r(?P<status>test:[^\n]*)\n")
STATUS = re.compile(r"test:(?P<done>\d+)/(?P<all>\d+) \| accuracy (?P<right>\d+)  (?P<share>\S+)")
MATH_START = "\n---------------\n"
FORMAT_LINE = re.compile(r"Answer format: [^\n]*\n?")


@dataclass(frozen=True)
class Item:
    """One item of a log: what the model wrote, what the authors took from it, and the label."""

    response: str
    prediction: str
    label: str


@dataclass(frozen=True)
class Log:
    """One log, whole, and how many of its items were right at its end."""

    name: str
    task: Task
    items: list[Item]
    right: int


def read_log(file: Path) -> Log:
    """Parse a log.

    Raises:
        ValueError: it is not whole, or not of a known shape.
    """
    name = file.name.split(".")[0]
    with lzma.open(file, "rt", encoding="utf-8", newline="") as opened:
        text = opened.read()
    items, status, start = [], None, 0
    for match in ITEM.finditer(text):
        items.append(Item(_response(text[start : match.start()]), match["prediction"], match["label"]))
        status, start = STATUS.fullmatch(match["status"]), match.end()
    if status is None or not int(status["done"]) == int(status["all"]) == len(items):
        raise ValueError(f"{file} ends before its last item")
    if float(status["share"]) != int(status["right"]) / len(items):
        raise ValueError(f"{file} contradicts itself about its accuracy")
    return Log(name, find_task(name.rsplit("_", 1)[1]), items, int(status["right"]))


def _response(block: str) -> str:
    # Math logs print a rule and the response; commonsense logs print the prompt, whose last line is the answer's
    # format, and then the response. What stands before the first item's rule is bitsandbytes' greeting.
    found = FORMAT_LINE.search(block)
    if found:
        return block[found.end() :]
    head, rule, response = block.partition(" " + MATH_START)
    if not rule:
        raise ValueError(f"an item of unknown shape: {head[:80]!r}")
    return response


def judged(log: Log) -> list[dict[str, object]]:
    """The log's items as `zerogate score` would judge them, with the authors' own prediction beside."""
    rows: list[dict[str, object]] = []
    for number, item in enumerate(log.items, start=1):
        label = read_label(log.task, item.label, f"{log.name}, item {number}")
        verdict = log.task.scorer.judge(item.response, label)
        rows.append(
            {"row": number, "response": item.response, "label": label, "logged": item.prediction}
            | verdict_fields(verdict)
        )
    return rows


def table(folder: Path, out: Path | None) -> Iterator[tuple[str, bool]]:
    """Lines of the Markdown table, each with whether its log was reproduced."""
    yield "| log | task | n | logged | compat | same predictions | strict | unanswered |", True
    yield "|---|---|---|---|---|---|---|---|", True
    for file in sorted(folder.glob("*.txt.xz")):
        log = read_log(file)
        rows = judged(log)
        if out is not None:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (out / f"{log.name}.jsonl").write_text(lines, encoding="utf-8")
        score = total(rows)
        same = sum(row["extracted_compat"] == row["logged"] for row in rows)
        right = sum(bool(row["compat"]) for row in rows)
        run = "LoRA" if "_lora_" in log.name else "parallel"
        yield (
            f"| {run} | {log.task.name} | {score.n:,} | {log.right / score.n:.2%} | {score.compat:.2%} | {same:,} | "
            f"{score.strict:.2%} | {score.unanswered:,} |",
            same == score.n and right == log.right,
        )


def main() -> None:
    """Print the table; fail if a log is not reproduced."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the logs as JSONL")
    asked = parser.parse_args()
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
    lines = list(table(asked.logs, asked.out))
    print("\n".join(line for line, _ in lines))
    sys.exit(0 if len(lines) > 2 and all(same for _, same in lines) else 1)


if __name__ == "__main__":
    main()
