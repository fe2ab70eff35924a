"""A comparison's rows as text: the columns that have a figure, in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from zerogate.comparison.recipe import short_names
from zerogate.comparison.rows import Row

Column = tuple[str, Callable[[Row], str]]


# Left out where there is little room, as in a terminal.
_DETAILS = ("adapter", "learning rate (tried)", "peak memory", "training loss", "held-out loss before")


def columns(rows: list[Row], brief: bool = False) -> list[Column]:
    """The table's columns: those that have a figure in some row; `brief` leaves details out."""

    def spread(name: str, form: Callable[[float], str]) -> Callable[[Row], str]:
        return lambda row: found.show(form) if (found := getattr(row, name)) is not None else ""

    loss: Callable[[float], str] = "{:.4f}".format
    found: list[Column] = [("method", lambda row: row.method or "the base alone")]
    bases = short_names(row.base for row in rows)
    if len(bases) > 1:
        found.insert(0, ("base", lambda row: bases[row.base]))
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
    for task in dict.fromkeys(task for row in rows for task in row.accuracy):
        found.append((task, _accuracy(task)))
        names = {row.beside[task][0] for row in rows if task in row.beside}
        found += [(f"{task}, {name}", _beside(task)) for name in sorted(names)]
    found.append(("failed", lambda row: (row.failed or "").split(". ")[0]))  # its first sentence
    wanted = [column for column in found if not (brief and column[0] in _DETAILS)]
    return [column for column in wanted if any(column[1](row) for row in rows)]


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


def cells(rows: list[Row], brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table as text."""
    chosen = columns(rows, brief)
    return [heading for heading, _ in chosen], [[show(row) for _, show in chosen] for row in rows]


def markdown(title: str, rows: list[Row], advice: list[str]) -> str:
    """The table under its title, and the advice below it."""
    return markdown_text(title, *cells(rows), advice)


def markdown_text(title: str, headings: list[str], lines: list[list[str]], advice: list[str]) -> str:
    """A table in Markdown, under a title and above the advice."""
    table = [headings, ["---"] * len(headings), *lines]
    text = [f"# {title}", "", *("| " + " | ".join(line) + " |" for line in table), ""]
    for line in advice:
        text += [line, ""]
    return "\n".join(text)


def as_csv(rows: list[Row]) -> str:
    """The table as comma-separated values."""
    return csv_text(*cells(rows))


def csv_text(headings: list[str], lines: list[list[str]]) -> str:
    """A table as comma-separated values."""
    text = io.StringIO()
    csv.writer(text).writerows([headings, *lines])
    return text.getvalue()
