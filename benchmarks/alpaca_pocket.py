"""Real instructions on the embedded base: zero-init against vanilla prompts and LoRA with as many parameters (the
paper's Figure 7).

    python benchmarks/alpaca_pocket.py --data alpaca_data.json.xz

Each method trains on the same records in the same order for the same number of steps; its learning rate is the best
of a few in short runs that are measured on another draw of records. The held-out loss of the base, with no adapter,
is measured by the same function. It writes a table into docs/benchmarks.md, the curves to
docs/images/alpaca_pocket_loss.png and the runs to `--out`. Stopped, it goes on where it was. `--data` is Stanford
Alpaca's JSON file (any of its copies); nothing is downloaded.
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from zerogate.bases.load import load_tokenizer
from zerogate.data import Data, DataSection, load_data
from zerogate.training.callbacks import read_metrics
from zerogate.training.plots import draw_comparison
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import train
from zerogate.training.run_folder import read_summary, versions

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "alpaca_pocket_loss.png"
HEADING = "## Alpaca on pocket"

# Rank 3 on two projections is as near as LoRA comes to 20,544 parameters from above.
METHODS: dict[str, dict[str, Any]] = {
    "zero-init": {"method": "zero_init", "prompt_length": 10},
    "vanilla": {"method": "zero_init", "prompt_length": 10, "attention": "vanilla"},
    "LoRA": {"method": "lora", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
}
RATES = {"zero-init": (0.01, 0.03, 0.1, 0.3), "vanilla": (0.01, 0.03, 0.1, 0.3), "LoRA": (0.01, 0.03, 0.1)}


def settings(args: argparse.Namespace, method: str, rate: float, steps: int, sweep: bool) -> dict[str, Any]:
    """The recipe of one run; a sweep measures on a draw of records of its own."""
    name = f"sweep-{method}-{rate}" if sweep else method
    return {
        "base": {"name": args.sweep_base if sweep else "pocket", "dtype": args.dtype},
        "adapter": METHODS[method],
        "data": {
            "path": args.data,
            "format": "alpaca",
            "held_out": 150 if sweep else 1000,
            "split_seed": 1 if sweep else 0,
            "max_length": args.max_length,
            "nothing_to_learn": "drop",
        },
        "train": {
            "steps": steps,
            "batch_size": args.batch_size,
            "learning_rate": rate,
            "warmup_steps": max(steps // 20, 1),
            "evaluate_every": steps if sweep else max(steps // 4, 1),
            "save_every": 50,
            "log_every": max(steps // 60, 1),
        },
        "output": str(args.out / name),
    }


@cache
def tokenised(section: DataSection, base: str) -> Data:
    """The records of a `data:` section, tokenised once for all runs."""
    return load_data(section, load_tokenizer(base))


def run(settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Run a recipe, or go on with it, or take its result if it is finished."""
    recipe = parse_recipe(settings)
    finished = read_summary(Path(recipe.output))
    if finished is not None:
        return finished
    started = (Path(recipe.output) / "recipe.yaml").exists()
    return train(recipe, resume=started, console=console, data=tokenised(recipe.data, recipe.base.name)).summary


def best_rate(args: argparse.Namespace, method: str, console: Console) -> tuple[float, dict[float, float]]:
    """The rate with the lowest loss after a short run, and every rate's loss."""
    steps = args.sweep_steps
    losses = {}
    for rate in RATES[method]:
        console.print(f"\n[bold]{method}, learning rate {rate}, {steps} steps[/bold]")
        losses[rate] = run(settings(args, method, rate, steps, sweep=True), console)["last_loss"]
    return min(losses, key=losses.__getitem__), losses


def section(args: argparse.Namespace, results: dict[str, dict[str, Any]], sweeps: dict[str, dict[float, float]]) -> str:
    """The page's section: what was run, the table, the picture."""
    any_run = next(iter(results.values()))
    lines = [
        HEADING,
        "",
        f"The main job on real input: Stanford Alpaca, {any_run['train_records']:,} records to learn from and 1,000 "
        f"held "
        f"out, {any_run['held_out_records']} of them with an answer within {args.max_length} tokens, where sequences "
        f"are "
        "cut. No held-out prompt is in the training part. Every method sees the same records in the same order: "
        f"{args.steps:,} steps of {args.batch_size}, {args.steps * args.batch_size / any_run['train_records']:.2f} "
        f"of an "
        f"epoch, AdamW (0.9, 0.95), weight decay 0.02, {max(args.steps // 20, 1)} steps of warm-up, half a cosine to "
        f"0. "
        f"The learning rate is the best of a sweep in runs of {args.sweep_steps} steps, measured on another draw of "
        f"150 "
        "records. Loss in nats per learned token, answers only.",
        "",
        "| method | trained parameters | learning rate | held-out loss | best |",
        "|---|---|---|---|---|",
        f"| base, no adapter | 0 | | {any_run['base_loss']:.4f} | |",
    ]
    for name, summary in results.items():
        lines.append(
            f"| {name} | {summary['trained_parameters']:,} | {summary['learning_rate']:g} | {summary['last_loss']:.4f} "
            f"| {summary['best_loss']:.4f} (step {summary['best_step']}) |"
        )
    swept = "; ".join(
        f"{name}: " + ", ".join(f"{rate:g} -> {loss:.3f}" for rate, loss in losses.items())
        for name, losses in sweeps.items()
    )
    earlier = "" if args.sweep_base == "pocket" else " (on an earlier checkpoint of the base)"
    used = ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("torch", "transformers", "peft", "trl")
    )
    lines += [
        "",
        f"![Training and held-out loss of the three methods]({PICTURE.relative_to(PAGE.parent)})",
        "",
        f"Sweep, held-out loss of the short runs: {swept}{earlier}. Made on {time.strftime('%Y-%m-%d')} with {used} "
        f"on a CPU, "
        f"by",
        "",
        "```",
        f"python benchmarks/alpaca_pocket.py --data alpaca_data.json.xz --steps {args.steps} --batch-size "
        f"{args.batch_size} "
        f"--max-length {args.max_length} --dtype {args.dtype}",
        "```",
        "",
    ]
    return "\n".join(lines)


def write_section(text: str) -> None:
    """Put the section into the page in place of the one that is there."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Benchmarks\n"
    before, found, rest = page.partition(HEADING + "\n")
    if found:
        _, heading, after = rest.partition("\n## ")
        page = before + text + (heading + after if heading else "")
    else:
        page = page.rstrip("\n") + "\n\n" + text
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Run what is missing, then write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="alpaca_data.json, possibly .xz")
    parser.add_argument("--out", type=Path, default=Path("runs/alpaca-pocket-benchmark"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sweep-steps", type=int, default=60)
    parser.add_argument("--sweep-base", default="pocket", help="an earlier checkpoint may serve to pick learning rates")
    parser.add_argument("--sweep-only", action="store_true", help="stop after the short runs")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    console = Console(stderr=True, highlight=False)

    results, sweeps = {}, {}
    for method in METHODS:
        rate, sweeps[method] = best_rate(args, method, console)
        if args.sweep_only:
            continue
        console.print(f"\n[bold]{method}, learning rate {rate}, {args.steps} steps[/bold]")
        results[method] = run(settings(args, method, rate, args.steps, sweep=False), console)

    if args.sweep_only:
        return
    curves = {name: read_metrics(args.out / name / "metrics.jsonl") for name in METHODS}
    level = {"base": next(iter(results.values()))["base_loss"]}
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(
        curves, level, PICTURE, "Alpaca on pocket: 50,000 real instructions, about 20,000 trained parameters each"
    )
    text = section(args, results, sweeps)
    write_section(text)
    (args.out / "results.json").write_text(json.dumps({"results": results, "sweeps": sweeps}, indent=1))
    print(text)


if __name__ == "__main__":
    main()
