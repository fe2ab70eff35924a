"""The two pictures of a run: `loss.png` and `gates.png`, drawn from `metrics.jsonl` and the final gates."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

_TRAIN, _HELD_OUT, _BASE = "#9db4d0", "#c8442c", "#555555"


def draw_loss(metrics: list[dict[str, Any]], target: Path, title: str, item: str = "token") -> None:
    """Training loss and held-out loss over the steps; the base's held-out loss as a line to beat."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    train = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
    held_out = [(m["step"], m["eval_loss"]) for m in metrics if "eval_loss" in m]
    if train:
        axes.plot(*zip(*train, strict=True), color=_TRAIN, linewidth=1.4, label="training")
    if held_out:
        axes.plot(
            *zip(*held_out, strict=True), color=_HELD_OUT, linewidth=2, marker="o", markersize=4, label="held out"
        )
        for base in (m["base_loss"] for m in metrics if "base_loss" in m):
            axes.axhline(base, color=_BASE, linestyle=":", linewidth=1.2, label=f"base, held out ({base:.3f})")
        step, value = held_out[-1]
        axes.annotate(
            f"{value:.3f}", (step, value), xytext=(-6, 8), textcoords="offset points", ha="right", color=_HELD_OUT
        )
    label_axes(axes, "optimiser step", f"loss (nats per learned {item})", title)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=150)


def draw_figure(metrics: list[dict[str, Any]], key: str, name: str, target: Path, title: str) -> None:
    """A held-out figure from 0 to 1 over the steps."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    points = [(m["step"], m[key]) for m in metrics if key in m]
    axes.plot(*zip(*points, strict=True), color=_HELD_OUT, linewidth=2, marker="o", markersize=4)
    step, value = points[-1]
    axes.annotate(f"{value:.1%}", (step, value), xytext=(-6, 8), textcoords="offset points", ha="right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    label_axes(axes, "optimiser step", f"held-out {name}", title)
    figure.savefig(target, dpi=150)


def draw_gates(metrics: list[dict[str, Any]], final: dict[int, Tensor], target: Path, title: str) -> None:
    """How each layer's gates opened over the steps, and each head's final effective gate.

    Args:
        metrics: lines of `metrics.jsonl`, with `gate/layer_..` entries.
        final: effective gates [H] by layer.
        target: the PNG.
        title: over the picture.
    """
    layers = sorted(final)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    curves, heat = figure.subplots(1, 2, width_ratios=[3, 2])
    colours = colormaps["viridis"]
    scale = Normalize(min(layers), max(layers) if len(layers) > 1 else min(layers) + 1)
    for layer in layers:
        key = f"gate/layer_{layer:02d}"
        points = [(m["step"], m[key]) for m in metrics if key in m]
        if points:
            curves.plot(*zip(*points, strict=True), color=colours(scale(layer)), linewidth=1.6)
    figure.colorbar(
        ScalarMappable(scale, colours), ax=curves, label="layer", ticks=layers if len(layers) <= 12 else None
    )
    label_axes(curves, "optimiser step", "mean |gate| over heads", title)

    grid = [final[layer].tolist() for layer in layers]
    most = max(max(map(abs, row)) for row in grid) or 1.0
    image = heat.imshow(grid, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
    heat.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    heat.xaxis.set_major_locator(MaxNLocator(integer=True))
    heat.set_xlabel("head")
    heat.set_ylabel("layer")
    heat.set_title("effective gates at the end", fontsize=10)
    figure.colorbar(image, ax=heat)
    figure.savefig(target, dpi=150)


def label_axes(axes: Axes, x: str, y: str, title: str) -> None:
    """Names, a light grid, whole numbers of steps, no frame: how every picture looks."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
