"""A comparison's figures over seeds: one row per method and base."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zerogate.comparison.cell import Result

# A second share that a task counts beside its accuracy, shown in a column of its own.
_BESIDE = ("contains", "compat", "cider")


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


def make_row(runs: list[Result], swept: list[Result], figure: str | None = None) -> Row:
    """The row of one method's runs, one per seed, and of the short runs that chose its learning rate by `figure`, an
    accuracy, or by the held-out loss."""
    worked = [run for run in runs if not run.failed]
    first = (worked or runs)[0]

    def spread(name: str) -> Spread | None:
        return Spread.of([getattr(run, name) for run in worked])

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
            run.rate: None if run.failed else run.held_out_loss if figure is None else run.accuracy[figure]
            for run in swept
            if run.rate is not None
        },
        tried_as="loss" if figure is None else "accuracy",
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
