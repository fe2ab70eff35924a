"""The pocket world: how well each method makes the frozen pocket base answer about facts that no instruction mentioned.

    python benchmarks/pocket.py                       sweep, then the table (resumable: finished cells are kept)
    python benchmarks/pocket.py --only zero_init lora  these methods
    python benchmarks/pocket.py --table                the table of what is finished, without training anything

Every cell is one run of `zerogate train`'s own code: steps of 32 with AdamW, warm-up and cosine, the same seed and
order for all. Half of the world's facts are in the training records. The learning rate is picked per method on a
validation part of that half, in runs of 100 steps: one in three of the facts that no dialogue tells is left out of
the sweep's training and asked at its end. The winner is trained again for 300 steps on all training records and
asked about the 1,814 held-out facts. `exact` is the whole reply to the letter; `contains` is the answer's words
anywhere in the reply (`a den` for `A fox lives in a den.`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from zerogate.bases import load_base
from zerogate.bases.pocket.computed import stable_hash
from zerogate.bases.pocket.world import Fact, facts, instruction_records
from zerogate.evaluation.exact_match import contains, exact_match
from zerogate.training.methods import build_config
from zerogate.training.recipe import Recipe
from zerogate.training.run import attach, count_parameters, train


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method's settings and the learning rates it is tried with."""

    label: str
    adapter: dict[str, Any]
    rates: tuple[float, ...]
    extra: dict[str, Any] = field(default_factory=dict)


# LoRA of rank 3 on the query and value projections has 21,504 parameters; ten prompts and the gates in eight layers
# have 20,544 (AdaptionPrompt, with one gate per layer, 20,488).
ENTRIES = {
    "zero_init": Entry("zero-init, K=10", {"method": "zero_init", "prompt_length": 10}, (0.1, 0.03)),
    "lora": Entry("LoRA (PEFT), rank 3 on q and v", {"method": "lora", "r": 3, "lora_alpha": 6}, (0.003, 0.01)),
    "vanilla": Entry(
        "vanilla attention, random init, K=10",
        {"method": "zero_init", "prompt_length": 10, "attention": "vanilla"},
        (0.01, 0.03),
    ),
    "adaption_prompt": Entry(
        "PEFT AdaptionPrompt, 10 in 8 layers",
        {"method": "adaption_prompt", "adapter_len": 10, "adapter_layers": 8},
        (0.03, 0.1),
        {"dtype": "float32"},  # its trained parameters take the base's dtype
    ),
    "full": Entry("full fine-tuning", {"method": "full"}, (1e-3, 3e-4)),
    "zero_init_scale10": Entry(
        "zero-init, K=10, gate_scale 10",
        {"method": "zero_init", "prompt_length": 10, "gate_scale": 10.0},
        (0.03, 0.01),
    ),
}
# On short sequences eager attention is a quarter faster than the fused kernels of the CPU; the numbers are the same.
BASE_OPTIONS = {"dtype": "bfloat16", "attn_implementation": "eager"}
VALIDATION_ONE_IN = 3


def validation_facts() -> list[Fact]:
    """The part of the training half that the sweep asks: facts that no dialogue tells, so like the held-out half."""
    return [f for f in facts() if f.split == "train" and stable_hash(f"validation|{f.reply}") % VALIDATION_ONE_IN == 0]


def validation_split() -> tuple[list[dict[str, str]], list[dict[str, str]], list[str]]:
    """Training records without the validation facts, one record per validation fact, and those facts' bare answers."""
    chosen = validation_facts()
    replies = {fact.reply for fact in chosen}
    train_records, _ = instruction_records()
    asked = []
    for fact in chosen:
        tasks = fact.tasks()
        instruction, given = tasks[stable_hash(f"wording|{fact.reply}") % len(tasks)]
        asked.append({"instruction": instruction, "input": given, "output": fact.reply})
    return [r for r in train_records if r["output"] not in replies], asked, [fact.answer for fact in chosen]


def heldout_records() -> tuple[list[dict[str, str]], list[str]]:
    """The held-out half: its records and bare answers."""
    return instruction_records()[1], [fact.answer for fact in facts() if fact.split == "heldout"]


def write_json(path: Path, value: Any) -> None:
    """Write all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    os.replace(partial, path)


def score(model: Any, tokenizer: Any, records: list[dict[str, str]], answers: list[str]) -> dict[str, Any]:
    """Exact match, contains-the-answer, and the first wrong replies."""
    model.eval()
    result = exact_match(model, tokenizer, records, max_new_tokens=32, batch_size=64)
    holding = sum(contains(row.answer, answer) for row, answer in zip(result.rows, answers, strict=True))
    wrong = [f"{row.expected} <- {row.answer}" for row in result.rows if not row.exact]
    return {"exact": result.exact, "contains": holding / result.n, "n": result.n, "wrong": wrong[:40]}


def run_cell(entry: Entry, rate: float, final: bool, arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Train one method at one rate and ask; `path` keeps the result, and a result that is there is taken as it is."""
    if path.is_file():
        return json.loads(path.read_text())
    if final:
        records, (asked, answers) = instruction_records()[0], heldout_records()
    else:
        records, asked, answers = validation_split()
    data_path = arguments.out / ("train-all.json" if final else "train-sweep.json")
    write_json(data_path, records)
    steps = arguments.steps if final else arguments.sweep_steps
    recipe = Recipe.model_validate(
        {
            "base": {"name": arguments.base, **BASE_OPTIONS, **entry.extra},
            "adapter": entry.adapter,
            "data": {"path": str(data_path), "format": "alpaca"},
            "train": {
                "steps": steps,
                "batch_size": 32,
                "learning_rate": rate,
                "warmup_steps": steps // 10,
                "evaluate_every": steps,
                "save_every": steps,
            },
            "output": str(path.with_suffix("")),
        }
    )
    started = time.monotonic()
    outcome = train(recipe, overwrite=True, console=Console(stderr=True))
    seconds = time.monotonic() - started
    trained, _ = count_parameters(outcome.model)
    result = {"rate": rate, "parameters": trained, "train_seconds": seconds, "steps": steps}
    result |= score(outcome.model, outcome.tokenizer, asked, answers)
    write_json(path, result)
    print(f"{path.stem}: exact {result['exact']:.1%}, contains {result['contains']:.1%}, {seconds:.0f} s", flush=True)
    return result


def run_base(arguments: argparse.Namespace) -> dict[str, Any]:
    """The bare base on the held-out half."""
    path = arguments.out / "base.json"
    if path.is_file():
        return json.loads(path.read_text())
    model, tokenizer = load_base(arguments.base)
    result = {"parameters": 0} | score(model, tokenizer, *heldout_records())
    write_json(path, result)
    return result


def table(arguments: argparse.Namespace) -> str:
    """The finished final cells as a Markdown table."""
    lines = [
        "| method | trained parameters | learning rate (tried) | exact | contains the answer |",
        "|---|---|---|---|---|",
    ]
    if (arguments.out / "base.json").is_file():
        base = json.loads((arguments.out / "base.json").read_text())
        lines.append(f"| the base alone | 0 | | {base['exact']:.1%} | {base['contains']:.1%} |")
    for name, entry in ENTRIES.items():
        path = arguments.out / f"{name}.json"
        if not path.is_file():
            continue
        cell = json.loads(path.read_text())
        tried = []
        for rate in entry.rates:
            swept = arguments.out / f"{name}-{rate:g}.json"
            if swept.is_file():
                tried.append(f"{rate:g}: {json.loads(swept.read_text())['exact']:.0%}")
        lines.append(
            f"| {entry.label} | {cell['parameters']:,} | {cell['rate']:g} ({', '.join(tried) or 'no other tried'}) "
            f"| {cell['exact']:.1%} | {cell['contains']:.1%} |"
        )
    return "\n".join(lines)


def check_counts(base: str) -> None:
    """Print each method's trained parameters without training."""
    for name, entry in ENTRIES.items():
        model, _ = load_base(base, dtype="float32")
        print(name, f"{count_parameters(attach(model, build_config(entry.adapter), 0, base))[0]:,}")


def main() -> None:
    """Sweep, train the winners, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pocket-benchmark"), help="results (default: %(default)s)"
    )
    parser.add_argument("--base", default="pocket", help="name or folder of the base (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES)[:5], help="methods to run")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of a winner (default: %(default)s)")
    parser.add_argument("--sweep-steps", type=int, default=100, help="those of a sweep's cell (default: %(default)s)")
    parser.add_argument("--no-sweep", action="store_true", help="take each method's first rate without trying others")
    parser.add_argument("--counts", action="store_true", help="print the trained parameters of each method and stop")
    parser.add_argument("--table", action="store_true", help="print the table of the finished cells and stop")
    arguments = parser.parse_args()
    if arguments.counts:
        check_counts(arguments.base)
        return
    if not arguments.table:
        for name in arguments.only:
            entry = ENTRIES[name]
            rate = entry.rates[0]
            if not arguments.no_sweep:
                cells = {r: arguments.out / f"{name}-{r:g}.json" for r in entry.rates}
                swept = [run_cell(entry, r, False, arguments, path) for r, path in cells.items()]
                rate = max(swept, key=lambda result: (result["exact"], -result["rate"]))["rate"]
            run_cell(entry, rate, True, arguments, arguments.out / f"{name}.json")
        run_base(arguments)
    print(table(arguments))


if __name__ == "__main__":
    main()
