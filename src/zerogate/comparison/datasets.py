"""Several data sets side by side: each is a comparison of its own, and one table has a row per method, as papers do."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerogate.comparison.recipe import Comparison
from zerogate.comparison.report import Report, figure_names
from zerogate.comparison.rows import Row
from zerogate.comparison.table import csv_text, markdown_text
from zerogate.training.checkpoints import write_text


@dataclass(frozen=True)
class JointReport(Report):
    """The reports of several data sets; `rows` and `advice` are by data set (and base, where there are several).

    Attributes:
        headings: of the joint table.
        lines: its rows, as text.
    """

    headings: list[str] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)

    def table(self, brief: bool = False) -> tuple[list[str], list[list[str]]]:
        """The joint table, which has no details."""
        return self.headings, self.lines


def join(comparison: Comparison, reports: dict[str, Report]) -> JointReport:
    """Write `table.md`, `table.csv` and `results.json` of all data sets beside their folders."""
    folder = Path(comparison.output)
    rows: dict[str, list[Row]] = {}
    advice: dict[str, str] = {}
    for name, report in reports.items():
        for base, found in report.rows.items():
            key = name if len(comparison.bases) == 1 else f"{name} ({Path(base).name})"
            rows[key] = found
            if base in report.advice:
                advice[key] = report.advice[base]
    headings, lines = _table(comparison, rows)
    pictures = [picture for report in reports.values() for picture in report.pictures]
    joint = JointReport(rows, advice, folder, pictures, headings, lines)
    results: dict[str, Any] = {
        name: json.loads((report.folder / "results.json").read_text(encoding="utf-8"))
        for name, report in reports.items()
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "table.md", markdown_text(comparison.title, headings, lines, joint.advice_lines))
    write_text(folder / "table.csv", csv_text(headings, lines))
    return joint


def _table(comparison: Comparison, rows: dict[str, list[Row]]) -> tuple[list[str], list[list[str]]]:
    """A row per method; a column per data set and figure, then the means of groups."""
    methods = list(dict.fromkeys(row.method for found in rows.values() for row in found))
    headings, columns = ["method", "trained parameters"], []
    for key, found in rows.items():
        figures = figure_names(found)
        for figure in figures:
            headings.append(key if len(figures) == 1 else f"{key}, {figure.replace('_', ' ')}")
            columns.append({row.method: row.accuracy[figure] for row in found if figure in row.accuracy})
    # A group's mean is over its data sets' first figures, where a method has them all.
    groups: dict[str, list[dict[str, float]]] = {}
    for dataset in comparison.datasets:
        for key, found in rows.items():
            if dataset.group is not None and (key == dataset.name or key.startswith(f"{dataset.name} (")):
                first = next(iter(figure_names(found)), "")
                means = {row.method: row.accuracy[first].mean for row in found if first in row.accuracy}
                groups.setdefault(dataset.group, []).append(means)
    lines = []
    for method in methods:
        most = max(row.trained_parameters for found in rows.values() for row in found if row.method == method)
        line = [method or "the base alone", f"{most:,}"]
        line += [column[method].show("{:.1%}".format) if method in column else "" for column in columns]
        for members in groups.values():
            whole = all(method in member for member in members)
            line.append(f"{statistics.fmean(member[method] for member in members):.1%}" if whole else "")
        lines.append(line)
    return [*headings, *(f"{group} (mean)" for group in groups)], lines
