"""The pictures of a report: wins, ties and losses by category and what the place did; ratings; sums of scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zerogate.judging.pairs import PLACES, Contest
from zerogate.judging.ratings import Ratings
from zerogate.judging.reviews import Reviews

_A, _TIE, _B = "#2f6f9f", "#cfcfcf", "#c8442c"
_ALL = "all questions"


def draw_contest(contest: Contest, target: Path, title: str) -> None:
    """Shares of wins, ties and losses by category on the left; which places the judgements named on the right."""
    figure = Figure(figsize=(11, 1.9 + 0.34 * (len(contest.categories) + 1)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[4, 3])
    tallies = {_ALL: contest.total, **contest.categories}
    tallies = {name: tally for name, tally in tallies.items() if tally.judged}
    rows = [(name, [tally.wins, tally.ties, tally.losses]) for name, tally in tallies.items()]
    _bars(left, rows, [(f"{contest.a} wins", _A), ("tie", _TIE), (f"{contest.b} wins", _B)])
    left.axvline(0.5, color="#333333", linestyle=":", linewidth=1.2)
    left.set_title(title, fontsize=10)

    biases = {_ALL: contest.bias, **contest.biases}
    counts = [(name, [biases[name].verdicts[place] for place in PLACES]) for name in tallies]
    first, second = colormaps["tab10"](4), colormaps["tab10"](2)
    _bars(right, counts, [("first place", first), ("tie", _TIE), ("second place", second)])
    right.tick_params(labelleft=False)
    bias = contest.bias
    leans = f"\nof the others, {bias.first} of {bias.disagree} lean to the first place" if bias.disagree else ""
    right.set_title(f"both orders agree on {bias.agree} of {bias.agree + bias.disagree}{leans}", fontsize=10)
    figure.savefig(target, dpi=150)


def draw_ratings(rated: Sequence[Ratings], target: Path, title: str) -> None:
    """Mean ratings by category, a model beside the other, with their intervals."""
    names = [_ALL, *rated[0].categories]
    figure = Figure(figsize=(max(6.0, 1.1 * len(names) + 2), 4.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rated)
    for index, model in enumerate(rated):
        means = [model.total, *model.categories.values()]
        shown = [(place, mean) for place, mean in enumerate(means) if mean.mean is not None]
        axes.errorbar(
            [place + (index - (len(rated) - 1) / 2) * width for place, _ in shown],
            [mean.mean for _, mean in shown if mean.mean is not None],
            yerr=[
                [mean.mean - mean.interval_95[0] for _, mean in shown if mean.mean is not None and mean.interval_95],
                [mean.interval_95[1] - mean.mean for _, mean in shown if mean.mean is not None and mean.interval_95],
            ],
            fmt="o", color=colormaps["tab10"](index % 10), capsize=3, label=model.name,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylim(0.5, 10.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean rating, 1 to 10")
    _finish(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(title, fontsize=10)
    figure.savefig(target, dpi=150)


def draw_reviews(files: Sequence[Reviews], target: Path) -> None:
    """The two totals of each file of reviews, as shares of both."""
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(files)), layout="constrained")
    axes = figure.subplots()
    rows = [(f.title, [f.total.first, 0.0, f.total.second]) for f in files]
    _bars(axes, rows, [("first", _A), ("", _TIE), ("second", _B)])
    axes.axvline(0.5, color="#333333", linestyle=":", linewidth=1.2)
    axes.set_title("sums of scores", fontsize=10)
    figure.savefig(target, dpi=150)


def _bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[tuple[str, object]]) -> None:
    """Stacked bars that fill the width, the counts written into them."""
    for place, (_, counts) in enumerate(rows):
        left = 0.0
        for count, (_, colour) in zip(counts, parts, strict=True):
            share = count / (sum(counts) or 1)
            axes.barh(place, share, left=left, height=0.7, color=colour)
            if share > 0.04:
                dark = "#222222" if colour == _TIE else "#ffffff"
                axes.text(left + share / 2, place, f"{count:g}", ha="center", va="center", fontsize=8, color=dark)
            left += share
    for name, colour in parts:
        if name:
            axes.barh(0, 0, color=colour, label=name)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
