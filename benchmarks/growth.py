"""How a training step's time grows with tokens, rows, prompt length, adapted layers, and a batch's with its adapters.

    python benchmarks/growth.py            # about ten minutes on two cores
    python benchmarks/growth.py --quick

One of them changes while the others stay at the middle of their range. The table has the times, the straight line
through them by least squares, and how much of their variation the line explains (1 is a straight line). Models take
turns; a row's are measured in one go.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from bound import base, randomised, training
from many_adapters import generation, with_adapters
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from peft import get_peft_model

from zerogate import ZeroInitConfig

RANGES = {  # full, quick
    "tokens": ([32, 64, 128, 256], [16, 32, 64]),
    "rows": ([2, 4, 8, 16], [1, 2, 4]),
    "K": ([5, 10, 20, 40], [5, 20]),
    "L": ([3, 6, 9, 12], [4, 12]),
    "adapters": ([1, 8, 16, 32], [1, 8]),
}


def stepping(arguments: argparse.Namespace, name: str, value: int) -> Turn:
    """A training step with one thing changed."""
    changed = argparse.Namespace(**vars(arguments))
    if name == "tokens":
        changed.tokens = value
    elif name == "rows":
        changed.batch = value
    prompt_length, adapted = value if name == "K" else 10, value if name == "L" else changed.layers - 2
    config = ZeroInitConfig(prompt_length=prompt_length, num_layers=adapted)
    model = randomised(get_peft_model(base(changed, getattr(torch, changed.dtype)), config))
    return training(model, changed)


def answering(arguments: argparse.Namespace, name: str, value: int) -> Turn:
    """A generation of as many rows as there may be adapters, shared out among `value` of them."""
    changed = argparse.Namespace(**vars(arguments))
    changed.batch, changed.tokens, changed.decoded = max(RANGES[name][arguments.quick]), 32, 8
    model = with_adapters(
        changed, lambda: ZeroInitConfig(prompt_length=10, num_layers=changed.layers - 2, task_type="CAUSAL_LM"), value
    )
    return generation(changed, model, [f"a{index % value}" for index in range(changed.batch)], one_by_one=False)


def main() -> None:
    """Measure and print one table."""
    parser = arguments_of(__doc__, rounds=9, quick_rounds=3)
    add = parser.add_argument
    add("--only", nargs="+", choices=RANGES, default=list(RANGES))
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    add("--layers", type=int, default=12, help="of the base (default: %(default)s)")
    add("--width", type=int, default=512, help="hidden size (default: %(default)s)")
    add("--vocabulary", type=int, default=4096, help="tokens the base knows (default: %(default)s)")
    add("--batch", type=int, default=4, help="rows of a training step (default: %(default)s)")
    add("--tokens", type=int, default=64, help="tokens of a row (default: %(default)s)")
    add("--attention", default="sdpa", help="attn_implementation (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    arguments.below = 0
    rows, kept = [], {"machine": machine()}
    for name in arguments.only:
        values = RANGES[name][arguments.quick]
        make: Callable[[argparse.Namespace, str, int], Turn] = answering if name == "adapters" else stepping
        times = take_turns({str(value): make(arguments, name, value) for value in values}, rounds)
        medians = [times[str(value)].median * 1e3 for value in values]
        line = statistics.linear_regression(values, medians)
        explained = statistics.correlation(values, medians) ** 2
        shown = ", ".join(f"{value}: {median:.0f}" for value, median in zip(values, medians, strict=True))
        what = "ms of a generation" if name == "adapters" else "ms of a training step"
        rows.append([name, what, shown, f"{line.intercept:.0f} + {line.slope:.2f} x {name}", f"{explained:.3f}"])
        kept[name] = {value: timing.seconds for value, timing in times.items()}  # type: ignore[assignment]
    print(table(["grows with", "", "measured", "line", "explained"], rows))
    print(f"\n{arguments.layers} layers, {arguments.width} wide, {arguments.dtype}; {rounds} turns; {machine()}")
    write(arguments.json, kept)


if __name__ == "__main__":
    main()
