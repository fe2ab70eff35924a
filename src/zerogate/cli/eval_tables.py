"""The tables that `zerogate eval` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from zerogate.data.leaks import LeakCheck
    from zerogate.evaluation.accuracy import KindScore, Score
    from zerogate.evaluation.captions import CaptionScore
    from zerogate.evaluation.evaluate import TaskResult


def show(results: list[TaskResult], leaks: dict[str, LeakCheck], harness: dict[str, Any] | None) -> None:
    """Print accuracies, those of each kind of question, captions' figures, and lm-eval's."""
    from rich.console import Console

    from zerogate.evaluation.accuracy import Score
    from zerogate.evaluation.captions import CaptionScore

    console = Console(highlight=False)
    judged = [result for result in results if isinstance(result.score, Score)]
    if judged:
        console.print(_accuracies(judged, leaks))
    for result in results:
        if isinstance(result.score, Score) and result.score.kinds:
            console.print(_kinds(result.task, result.score))
        elif isinstance(result.score, CaptionScore):
            console.print(_captions(result.task, result.score, _seen(result, leaks)))
    if harness is not None:
        console.print(_harness(harness))


def _accuracies(results: list[TaskResult], leaks: dict[str, LeakCheck]) -> Table:
    from rich.table import Table

    from zerogate.evaluation.evaluate import mean_accuracy

    table = Table("task", show_footer=len(results) > 1)
    table.columns[0].footer = "mean"
    means = mean_accuracy(results)
    for name, footer in (("n", ""), *zip(("compat", "strict"), (f"{mean:.1%}" for mean in means), strict=True)):
        table.add_column(name, footer, justify="right")
    table.add_column("unanswered", justify="right")
    table.add_column("seen in training", justify="right")
    for result in results:
        shares = (f"{result.compat:.1%}", f"{result.strict:.1%}")
        table.add_row(result.task, f"{result.n:,}", *shares, f"{result.unanswered:,}", _seen(result, leaks))
    return table


def _kinds(task: str, score: Score) -> Table:
    """A column for each kind of question and one for all, as the papers' tables have them."""
    from rich.table import Table

    table = Table(task, *score.kinds, "all")
    columns: list[Score | KindScore] = [*score.kinds.values(), score]
    table.add_row("n", *(f"{column.n:,}" for column in columns))
    table.add_row("compat", *(f"{column.compat:.1%}" for column in columns))
    if score.compat_guess is not None:
        guesses = (column.compat_guess for column in columns)
        table.add_row("compat, guessing", *("" if guess is None else f"{guess:.1%}" for guess in guesses))
    table.add_row("strict", *(f"{column.strict:.1%}" for column in columns))
    if score.majority is not None:
        table.add_row("majority", *(f"{column.majority:.1%}" for column in columns if column.majority is not None))
    return table


def _captions(task: str, score: CaptionScore, seen: str) -> Table:
    from rich.table import Table

    table = Table("captions", "n", "BLEU-4", "CIDEr", "empty", "seen in training")
    cider = "-" if score.cider is None else f"{100 * score.cider:.1f}"
    table.add_row(task, f"{score.n:,}", f"{100 * score.bleu4:.1f}", cider, f"{score.empty:,}", seen)
    return table


def _seen(result: TaskResult, leaks: dict[str, LeakCheck]) -> str:
    return str(len(leaks[result.task].leaks)) if result.task in leaks else "not checked"


def _harness(harness: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("lm-eval task", "metric", "value")
    for name, metrics in harness["results"].items():
        for metric, value in metrics.items():
            if isinstance(value, float):
                table.add_row(name, metric, f"{value:.4f}")
    return table
