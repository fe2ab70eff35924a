"""What the timing scripts share: contenders that take turns in one process, and one table of what came of it.

A ratio of two medians from turns taken one after the other is what a busy or warming machine distorts least. Every
script prints its table with the machine and the versions under it, and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

Turn = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """Seconds of every counted turn of one contender."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The median turn in seconds."""
        return statistics.median(self.seconds)

    def over(self, bound: Timing) -> tuple[float, float, float]:
        """How often the bound's time this took: the median over turns of their ratio, and its middle half.

        Turn n of both ran one right after the other, so what slowed the machine then slowed both.
        """
        ratios = [own / other for own, other in zip(self.seconds, bound.seconds, strict=True)]
        if len(ratios) < 2:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high


def take_turns(turns: Mapping[str, Turn], rounds: int, warm_up: int = 2) -> dict[str, Timing]:
    """Run every contender once per round, each round beginning with another one.

    Args:
        turns: by name, what is timed. It must leave things as it found them.
        rounds: that count.
        warm_up: rounds before those, which do not.
    """
    names = list(turns)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(warm_up + rounds):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                synchronise()
                start = time.perf_counter()
                turns[name]()
                synchronise()
                if number >= warm_up:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: Timing(values) for name, values in seconds.items()}


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def arguments_of(description: str | None, rounds: int, quick_rounds: int) -> argparse.ArgumentParser:
    """A parser with what all timing scripts take: --quick, --rounds, --threads, --json."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"small shapes, {quick_rounds} rounds: under a minute")
    parser.add_argument("--rounds", type=int, help=f"turns that count (default: {rounds})")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every turn's seconds there, too")
    parser.set_defaults(usual_rounds=rounds, quick_rounds=quick_rounds)
    return parser


def settle(arguments: argparse.Namespace) -> int:
    """Sets threads and the seed; gives the number of rounds."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return int(arguments.rounds or (arguments.quick_rounds if arguments.quick else arguments.usual_rounds))


def machine() -> str:
    """The machine and the versions, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{_processor()}, no GPU"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{device}; {torch.get_num_threads()} threads; {packages}; Python {platform.python_version()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write(file: Path | None, content: object) -> None:
    """JSON, under a temporary name first."""
    if file is not None:
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
