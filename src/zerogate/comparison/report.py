"""The report of a comparison: a table in Markdown, CSV and JSON, pictures, and the line that says what to use and why.

table.md  table.csv  results.json  accuracy.png  loss.png  sweep.png
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerogate.comparison.advice import recommend
from zerogate.comparison.cell import Result
from zerogate.comparison.pictures import draw_accuracy, draw_losses, draw_sweep
from zerogate.comparison.recipe import Comparison, file_name, short_names, sweep_figure
from zerogate.comparison.rows import Row, make_row
from zerogate.comparison.table import as_csv, cells, markdown
from zerogate.training.callbacks import read_metrics
from zerogate.training.checkpoints import write_text


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

    @property
    def every_row(self) -> list[Row]:
        """The rows of all bases."""
        return [row for rows in self.rows.values() for row in rows]

    def table(self, brief: bool = False) -> tuple[list[str], list[list[str]]]:
        """Headings and rows as text; `brief` leaves details out."""
        return cells(self.every_row, brief)

    @property
    def advice_lines(self) -> list[str]:
        """The advice, with the base it is for where there are several."""
        names = short_names(self.rows)
        return [f"{names[base]}: {line}" if len(names) > 1 else line for base, line in self.advice.items()]


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
                rows.setdefault(base.name, []).append(make_row(runs, swept, sweep_figure(comparison)))
    # A task with labels has its own figures, which its results name.
    tasks = [task.label for task in comparison.tasks] or figure_names(row for group in rows.values() for row in group)
    lines = {base: recommend(found, tasks) for base, found in rows.items()} if comparison.advice else {}
    advice = {base: line for base, line in lines.items() if line is not None}
    report = Report(rows, advice, folder)
    write_text(folder / "results.json", json.dumps(_as_json(report), indent=1) + "\n")
    write_text(folder / "table.md", markdown(comparison.title, report.every_row, report.advice_lines))
    write_text(folder / "table.csv", as_csv(report.every_row))
    report.pictures.extend(_draw(comparison, report, finals))
    return report


def figure_names(rows: Iterable[Row]) -> list[str]:
    """What was measured, in the rows' order."""
    return list(dict.fromkeys(name for row in rows for name in row.accuracy))


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "rows": {base: [asdict(row) for row in rows] for base, rows in report.rows.items()},
        "advice": report.advice,
    }


def _draw(comparison: Comparison, report: Report, finals: list[Result]) -> list[Path]:
    made = []
    names = short_names(report.rows)
    for base, rows in report.rows.items():
        ending = f"-{file_name(names[base])}.png" if len(names) > 1 else ".png"
        title = comparison.title if len(names) == 1 else f"{comparison.title}: {names[base]}"
        target = report.folder / f"accuracy{ending}"
        if draw_accuracy(rows, next(iter(figure_names(rows)), None), target, title):
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
