"""The pictures of a comparison: accuracy against trained parameters, sweeps of learning rates, losses by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zerogate.training.plots import label_axes

if TYPE_CHECKING:
    from zerogate.comparison.rows import Row

_COLOURS = colormaps["tab10"]


def draw_accuracy(rows: list[Row], task: str | None, target: Path, title: str) -> bool:
    """The first task's accuracy (or the held-out loss) of each method against what it trains, with seeds as bars.

    Returns:
        False if no method has a figure; nothing is written then.
    """
    points = []
    for row in rows:
        spread = row.accuracy.get(task) if task else row.held_out_loss
        if row.method and spread is not None:
            points.append((row, spread))
    if not points:
        return False
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for index, (row, spread) in enumerate(points):
        axes.errorbar(
            row.trained_parameters,
            spread.mean,
            yerr=spread.deviation,
            fmt="o",
            color=_COLOURS(index % 10),
            markersize=8,
            capsize=4,
            label=row.method,
        )
    alone = [row.accuracy[task].mean for row in rows if task and not row.method and task in row.accuracy]
    alone += [] if task else [row.base_loss.mean for row in rows if row.base_loss is not None][:1]
    form = "{:.1%}".format if task else "{:.3f}".format
    ends = [spread.mean + sign * (spread.deviation or 0.0) for _, spread in points for sign in (-1, 1)]
    span = max(max(ends) - min(ends), 0.02)
    for level in alone:
        if min(ends) - 2 * span < level < max(ends) + 2 * span:
            axes.axhline(level, color="#555555", linestyle=":", linewidth=1.2, label=f"the base alone: {form(level)}")
        else:  # drawn, it would press the methods together
            axes.set_ylim(min(ends) - 0.3 * span, max(ends) + 0.3 * span)
            axes.plot([], [], color="none", label=f"the base alone, outside: {form(level)}")
    axes.set_xscale("log")
    if task:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if span > 0.1 else 1))
    axes.set_xlabel("trained parameters")
    axes.set_ylabel(f"accuracy: {task}" if task else "held-out loss (nats per learned token)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(target, dpi=150)
    return True


def draw_sweep(rows: list[Row], target: Path, title: str) -> bool:
    """Each method's short runs: accuracy or held-out loss against the learning rate.

    Returns:
        False if nothing was swept; nothing is written then.
    """
    swept = [row for row in rows if sum(value is not None for value in row.tried.values()) > 1]
    if not swept:
        return False
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    for index, row in enumerate(swept):
        points = sorted((rate, value) for rate, value in row.tried.items() if value is not None)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=_COLOURS(index % 10), label=row.method)
    accuracy = swept[0].tried_as == "accuracy"
    axes.set_xscale("log")
    if accuracy:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("accuracy of the short run" if accuracy else "held-out loss of the short run")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=150)
    return True


def draw_losses(runs: dict[str, list[dict[str, Any]]], levels: dict[str, float], target: Path, title: str) -> None:
    """Several runs beside each other: training loss on the left, held-out loss on the right.

    Args:
        runs: lines of `metrics.jsonl` by the run's name.
        levels: constant held-out losses by name, such as the base's, drawn as dotted lines.
        target: the PNG.
        title: over the picture.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, metrics in runs.items():
        train = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
        held_out = [(m["step"], m["eval_loss"]) for m in metrics if "eval_loss" in m]
        if train:
            left.plot(*zip(*train, strict=True), linewidth=1.3, label=name)
        if held_out:
            label = f"{name}: {held_out[-1][1]:.3f}"
            right.plot(*zip(*held_out, strict=True), linewidth=1.8, marker="o", markersize=3, label=label)
    for name, value in levels.items():
        right.axhline(value, color="#555555", linestyle=":", linewidth=1.2, label=f"{name}: {value:.3f}")
    seen = [m[key] for metrics in runs.values() for m in metrics for key in ("loss", "eval_loss") if key in m]
    if seen and 0 < 30 * min(seen) < max(seen):  # on a linear scale all ends would lie on one line
        left.set_yscale("log")  # and the right, which shares it
    label_axes(left, "optimiser step", "loss (nats per learned token)", "training")
    label_axes(right, "optimiser step", "", "held out")
    figure.suptitle(title, fontsize=11)
    (right if right.lines else left).legend(frameon=False)
    figure.savefig(target, dpi=150)
