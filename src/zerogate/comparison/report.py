"""The report of a comparison: a table in Markdown, CSV and JSON, pictures, and the line that says what to use and why.

table.md  table.csv  results.json  accuracy.png  loss.png  sweep.png
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerogate.comparison.cell import Result
from zerogate.comparison.pictures import draw_accuracy, draw_losses, draw_sweep
from zerogate.comparison.recipe import Comparison, file_name
from zerogate.training.callbacks import read_metrics
from zerogate.training.checkpoints import write_text

# A second share that a task counts beside its accuracy, shown in a column of its own.
_BESIDE = ("contains", "compat")


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: over the seeds.
        deviation: the sample standard deviation, or None with one seed.
        seeds: how many.
    """

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """The spread of the values that are there."""
        found = [value for value in values if value is not None]
        if not found:
            return None
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))

    def show(self, form: Callable[[float], str]) -> str:
        """`91.2% ± 0.4%`, or the mean alone."""
        return form(self.mean) + (f" ± {form(self.deviation)}" if self.deviation is not None else "")


@dataclass(frozen=True)
class Row:
    """One method on one base, over its seeds.

    Attributes:
        base, method: which; an empty method is the base alone.
        trained_parameters, adapter_bytes: of one run.
        rate: the learning rate of the runs.
        tried: the sweep's merit by rate: accuracy, or held-out loss.
        tried_as: what that is.
        seconds_per_step, peak_memory_bytes, train_loss, base_loss, held_out_loss: as in `Result`.
        accuracy: by task.
        beside: by task, the second share and its name.
        questions: by task, how many were asked.
        failed: why a run gave no figures, or None.
    """

    base: str
    method: str
    trained_parameters: int
    adapter_bytes: int
    rate: float | None
    tried: dict[float, float | None]
    tried_as: str
    seconds_per_step: Spread | None
    peak_memory_bytes: Spread | None
    train_loss: Spread | None
    base_loss: Spread | None
    held_out_loss: Spread | None
    accuracy: dict[str, Spread]
    beside: dict[str, tuple[str, Spread]]
    questions: dict[str, int]
    failed: str | None = None


@dataclass(frozen=True)
class Report:
    """What a comparison came to.

    Attributes:
        rows: by base, in the recipe's order; the base alone first.
        advice: by base, the line that says what to use.
        folder: where everything is written.
        pictures: the PNG files.
    """

    rows: dict[str, list[Row]]
    advice: dict[str, str]
    folder: Path
    pictures: list[Path] = field(default_factory=list)


def write_report(comparison: Comparison, finals: list[Result], sweeps: list[Result]) -> Report:
    """Aggregate results over seeds and write tables and pictures into the comparison's folder."""
    folder = Path(comparison.output)
    rows: dict[str, list[Row]] = {}
    for base in comparison.bases:
        names = ["", *(method.name for method in comparison.methods)]
        for name in names:
            runs = [r for r in finals if (r.base, r.method) == (base.name, name)]
            swept = [r for r in sweeps if (r.base, r.method) == (base.name, name)]
            if runs:
                rows.setdefault(base.name, []).append(_row(runs, swept))
    tasks = [task.label for task in comparison.tasks]
    advice = {base: line for base, found in rows.items() if (line := recommend(found, tasks)) is not None}
    report = Report(rows, advice, folder)
    write_text(folder / "results.json", json.dumps(_as_json(report), indent=1) + "\n")
    write_text(folder / "table.md", markdown(comparison, report))
    write_text(folder / "table.csv", _as_csv(comparison, report))
    report.pictures.extend(_draw(comparison, report, finals))
    return report


def _row(runs: list[Result], swept: list[Result]) -> Row:
    first, worked = runs[0], [run for run in runs if not run.failed]

    def spread(name: str) -> Spread | None:
        return Spread.of([getattr(run, name) for run in worked])

    by_accuracy = any(run.accuracy for run in swept)
    beside = {
        task: (name, Spread.of([run.details[task][name] for run in worked]))
        for task, details in first.details.items()
        for name in _BESIDE
        if name in details
    }
    return Row(
        base=first.base,
        method=first.method,
        trained_parameters=max(run.trained_parameters for run in runs),
        adapter_bytes=max(run.adapter_bytes for run in runs),
        rate=first.rate if first.rate is not None or first.recipe is None else first.recipe["train"]["learning_rate"],
        tried={
            run.rate: None if run.failed else next(iter(run.accuracy.values()), run.held_out_loss)
            for run in swept
            if run.rate is not None
        },
        tried_as="accuracy" if by_accuracy else "loss",
        seconds_per_step=spread("seconds_per_step"),
        peak_memory_bytes=spread("peak_memory_bytes"),
        train_loss=spread("train_loss"),
        base_loss=spread("base_loss"),
        held_out_loss=spread("held_out_loss"),
        accuracy={
            task: found for task in first.accuracy if (found := Spread.of([run.accuracy[task] for run in worked]))
        },
        beside={task: (name, found) for task, (name, found) in beside.items() if found},
        questions={task: details["n"] for task, details in first.details.items()},
        failed=next((run.failed for run in runs if run.failed), None),
    )


def recommend(rows: list[Row], tasks: list[str]) -> str | None:
    """The line `use X, because`: the best by the first task (else by held-out loss), or what is as good for less.

    Two methods count as equal where their means differ by less than two standard errors of the difference. The
    error comes from the seeds; with one seed, for an accuracy, from the number of questions.

    Returns:
        None if fewer than two methods have a figure.
    """
    task = tasks[0] if tasks else None
    figures: dict[str, tuple[Row, float, float]] = {}
    for row in rows:
        spread = row.accuracy.get(task) if task else row.held_out_loss
        if not row.method or row.failed or spread is None:
            continue
        if spread.deviation is not None:
            error = spread.deviation / math.sqrt(spread.seeds)
        elif task:
            error = math.sqrt(max(spread.mean * (1 - spread.mean), 0) / row.questions[task])
        else:
            error = 0.0
        figures[row.method] = (row, spread.mean if task else -spread.mean, error)
    if len(figures) < 2:
        return None
    best, top, best_error = max(figures.values(), key=lambda figure: figure[1])
    equals = [f for f in figures.values() if top - f[1] <= 2 * math.hypot(best_error, f[2])]
    chosen, value, _ = min(equals, key=lambda figure: (figure[0].trained_parameters, -figure[1]))

    def shown(value: float) -> str:
        return f"{value:.1%} on {task}" if task else f"a held-out loss of {-value:.4f}"

    if chosen is best:
        others = sorted((f for f in figures.values() if f[0] is not best), key=lambda f: -f[1])
        return (
            f"Use {best.method}, because it has the best result of {len(figures)} methods: {shown(top)}; next comes "
            f"{others[0][0].method} with {shown(others[0][1])}."
        )
    return (
        f"Use {chosen.method}, because its {shown(value)} cannot be told from the best ({best.method}, {shown(top)}) "
        f"by these runs, and it trains {chosen.trained_parameters:,} parameters, not {best.trained_parameters:,}."
    )


Column = tuple[str, Callable[[Row], str]]


def columns(comparison: Comparison, report: Report) -> list[Column]:
    """The table's columns: those that have a figure in some row."""
    every = [row for rows in report.rows.values() for row in rows]

    def spread(name: str, form: Callable[[float], str]) -> Callable[[Row], str]:
        return lambda row: found.show(form) if (found := getattr(row, name)) is not None else ""

    loss: Callable[[float], str] = "{:.4f}".format
    found: list[Column] = [("method", lambda row: row.method or "the base alone")]
    if len(report.rows) > 1:
        found.insert(0, ("base", lambda row: Path(row.base).name))
    found += [
        ("trained parameters", lambda row: f"{row.trained_parameters:,}"),
        ("adapter", lambda row: _size(row.adapter_bytes) if row.adapter_bytes else ""),
        ("learning rate (tried)", _rate),
        ("s/step", spread("seconds_per_step", "{:.3f}".format)),
        ("peak memory", spread("peak_memory_bytes", lambda value: _size(value))),
        ("training loss", spread("train_loss", loss)),
        ("held-out loss before", spread("base_loss", loss)),
        ("held-out loss", spread("held_out_loss", loss)),
    ]
    for task in (task.label for task in comparison.tasks):
        found.append((task, _accuracy(task)))
        names = {row.beside[task][0] for row in every if task in row.beside}
        found += [(f"{task}, {name}", _beside(task)) for name in sorted(names)]
    found.append(("failed", lambda row: (row.failed or "").split(".")[0]))
    return [column for column in found if any(column[1](row) for row in every)]


def _accuracy(task: str) -> Callable[[Row], str]:
    return lambda row: row.accuracy[task].show("{:.1%}".format) if task in row.accuracy else ""


def _beside(task: str) -> Callable[[Row], str]:
    return lambda row: row.beside[task][1].show("{:.1%}".format) if task in row.beside else ""


def _rate(row: Row) -> str:
    if row.rate is None:
        return ""

    def merit(value: float | None) -> str:
        return "diverged" if value is None else f"{value:.1%}" if row.tried_as == "accuracy" else f"{value:.3f}"

    tried = ", ".join(f"{rate:g}: {merit(value)}" for rate, value in sorted(row.tried.items()))
    return f"{row.rate:g}" + (f" ({tried})" if tried else "")


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def cells(comparison: Comparison, report: Report) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table as text."""
    chosen = columns(comparison, report)
    return [heading for heading, _ in chosen], [
        [show(row) for _, show in chosen] for rows in report.rows.values() for row in rows
    ]


def markdown(comparison: Comparison, report: Report) -> str:
    """The table with its title, and the advice below it."""
    headings, lines = cells(comparison, report)
    table = [headings, ["---"] * len(headings), *lines]
    text = [f"# {comparison.title}", "", *("| " + " | ".join(line) + " |" for line in table), ""]
    for base, line in report.advice.items():
        text += [f"{Path(base).name}: {line}" if len(report.rows) > 1 else line, ""]
    return "\n".join(text)


def _as_csv(comparison: Comparison, report: Report) -> str:
    text = io.StringIO()
    headings, lines = cells(comparison, report)
    csv.writer(text).writerows([headings, *lines])
    return text.getvalue()


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "rows": {base: [asdict(row) for row in rows] for base, rows in report.rows.items()},
        "advice": report.advice,
    }


def _draw(comparison: Comparison, report: Report, finals: list[Result]) -> list[Path]:
    made = []
    for base, rows in report.rows.items():
        ending = f"-{file_name(Path(base).name)}.png" if len(report.rows) > 1 else ".png"
        title = comparison.title if len(report.rows) == 1 else f"{comparison.title}: {Path(base).name}"
        target = report.folder / f"accuracy{ending}"
        if draw_accuracy(rows, comparison.tasks[0].label if comparison.tasks else None, target, title):
            made.append(target)
        target = report.folder / f"sweep{ending}"
        if draw_sweep(rows, target, title):
            made.append(target)
        curves = {
            run.method: read_metrics(Path(run.recipe["output"]) / "metrics.jsonl")
            for run in reversed(finals)  # so that the first seed is what is drawn
            if run.base == base and run.recipe is not None and not run.failed
        }
        if curves:
            level = [run.base_loss for run in finals if run.base == base and run.base_loss is not None]
            target = report.folder / f"loss{ending}"
            ordered = dict(reversed(curves.items()))
            draw_losses(ordered, {"base": level[0]} if level else {}, target, title)
            made.append(target)
    return made
