"""How far is one learning rate from the best? Table and picture of a finished comparison.

    zerogate compare recipes/compare/learning-rate.yaml
    python benchmarks/learning_rate.py runs/compare-learning-rate docs/images/learning_rate.png

For each base and method: the held-out loss at every rate that was tried, as a share above the lowest of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from zerogate.comparison.recipe import short_names
from zerogate.training.methods import METHODS

DEFAULT = METHODS["zero_init"].learning_rate


def tried(folder: Path) -> dict[str, dict[str, dict[float, float]]]:
    """Held-out losses by method, base and rate; a rate that diverged is left out."""
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    names = short_names(rows)
    found: dict[str, dict[str, dict[float, float]]] = {}
    for base, methods in rows.items():
        for row in methods:
            losses = {float(rate): loss for rate, loss in row["tried"].items() if loss is not None}
            if losses:
                found.setdefault(row["method"], {})[names[base]] = dict(sorted(losses.items()))
    return found


def table(found: dict[str, dict[str, dict[float, float]]]) -> str:
    """Markdown: losses by rate, the best in bold, and what the default loses."""
    rates = sorted({rate for bases in found.values() for losses in bases.values() for rate in losses})
    head = ["base", "method", *(f"{rate:g}" for rate in rates), f"{DEFAULT:g} against the best"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for base in next(iter(found.values())):
        for method, bases in found.items():
            losses = bases.get(base, {})
            best = min(losses.values())
            cells = [
                ""
                if rate not in losses
                else f"**{losses[rate]:.4f}**"
                if losses[rate] == best
                else f"{losses[rate]:.4f}"
                for rate in rates
            ]
            lost = f"+{losses[DEFAULT] / best - 1:.1%}" if DEFAULT in losses else ""
            lines.append(f"| {' | '.join([base, method, *cells, lost])} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, dict[float, float]]], target: Path) -> None:
    """One panel per method, one line per base."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    rates = sorted({rate for bases in found.values() for losses in bases.values() for rate in losses})
    for axes, (method, bases) in zip(
        figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0], found.items(), strict=True
    ):
        for base, losses in bases.items():
            best = min(losses.values())
            axes.plot(list(losses), [value / best - 1 for value in losses.values()], marker="o", label=base)
        axes.axvline(DEFAULT, color="#555555", linestyle=":", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        axes.minorticks_off()
        axes.set_ylim(-0.02, 0.6)
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("learning rate")
        axes.set_title(method, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("held-out loss above the best rate's")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=150)


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output of the comparison")
    parser.add_argument("picture", type=Path, nargs="?", help="PNG to write")
    arguments = parser.parse_args()
    found = tried(arguments.folder)
    print(table(found))
    if arguments.picture is not None:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
