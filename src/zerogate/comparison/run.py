"""Run a comparison: sweep, train and ask each cell that is not finished, then write the report.

    from zerogate.comparison import compare, load_comparison
    report = compare(load_comparison("recipes/compare/pocket.yaml"))

A cell that has its `result.json` is finished and is taken as it is; a cell that was stopped is gone on with. So a
comparison can be killed at any moment and started again, and methods or seeds added later run alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from zerogate.comparison.cell import Result
from zerogate.comparison.datasets import join
from zerogate.comparison.kept import cell_spec, read_result, refuse_others
from zerogate.comparison.processes import CellProcesses
from zerogate.comparison.questions import check_tasks
from zerogate.comparison.recipe import (
    Cell,
    Comparison,
    base_cell,
    cell_recipe,
    each_dataset,
    final_cells,
    sweep_cells,
    sweep_figure,
)
from zerogate.comparison.report import Report, write_report
from zerogate.comparison.sections import MethodEntry
from zerogate.errors import UserError
from zerogate.training.attach import attach
from zerogate.training.checkpoints import write_text
from zerogate.training.methods import build_config
from zerogate.training.problems import find_problem
from zerogate.training.recipe import BaseSection
from zerogate.training.recipe_file import dump_recipe
from zerogate.training.run_folder import versions

_PASSING = {"base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode"}
"""What an adapter's config says of where and when it was made, not of what it is."""


def compare(comparison: Comparison, *, only: list[str] | None = None, console: Console | None = None) -> Report:
    """Run what is missing of a comparison and write its report.

    Args:
        comparison: from `load_comparison`.
        only: names of the methods to run; by default all. The report has whatever is finished.
        console: where to say how far it is; standard error by default.

    Raises:
        UserError: a method that is not there or does not fit the base (before anything is trained), a finished cell
            of another recipe, or anything a training run refuses.
    """
    with CellProcesses() as processes:
        return _compare(comparison, only, console or Console(stderr=True, highlight=False), processes)


def _compare(comparison: Comparison, only: list[str] | None, console: Console, processes: CellProcesses) -> Report:
    methods = _chosen(comparison, only)
    if comparison.datasets:
        names = [method.name for method in methods]
        parts = each_dataset(comparison)
        for one in parts.values():  # a file that cannot be read is told before the first is trained on
            check_fits(one, one.bases[0], methods[0])
        reports = {name: _compare(one, names, console, processes) for name, one in parts.items()}
        return join(comparison, reports)
    if not comparison.labelled:
        for line in check_tasks(comparison, methods):
            console.print(f"warning   {line}", soft_wrap=True)
    adapters = {(b.name, m.name): check_fits(comparison, b, m) for b in comparison.bases for m in methods}

    def finish(cell: Cell) -> Result:
        return _finish(comparison, cell, adapters.get((cell.base, cell.method)), console, processes)

    folder = Path(comparison.output)
    write_text(folder / "comparison.yaml", dump_recipe(comparison))
    write_text(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    for base in comparison.bases:
        if comparison.base_alone and (comparison.tasks or whole_alone(comparison, base)):
            finish(base_cell(comparison, base))
        for method in methods:
            swept = [finish(cell) for cell in sweep_cells(comparison, base, method)]
            if _all_diverged(swept):
                console.print(f"{method.name}: no learning rate of the sweep gave a finite loss; try lower ones")
                continue
            chosen = best_rate(swept, sweep_figure(comparison))
            for cell in final_cells(comparison, base, method, chosen):
                finish(cell)
    return report(comparison)


def report(comparison: Comparison) -> Report:
    """Read every finished cell and write tables and pictures; nothing is trained.

    Raises:
        UserError: no cell is finished.
    """
    if comparison.datasets:
        return join(comparison, {name: report(one) for name, one in each_dataset(comparison).items()})
    finals, sweeps = [], []
    for base in comparison.bases:
        alone = read_result(base_cell(comparison, base))
        finals += [alone] if alone else []
        for method in comparison.methods:
            swept = [r for cell in sweep_cells(comparison, base, method) if (r := read_result(cell))]
            sweeps += swept
            if _all_diverged(swept):
                finals += swept[:1]  # the table says why there is no more
                continue
            cells = final_cells(comparison, base, method, best_rate(swept, sweep_figure(comparison)))
            finals += [r for cell in cells if (r := read_result(cell))]
    if not finals:
        raise UserError(f"{comparison.output} holds no finished cell of this comparison")
    return write_report(comparison, finals, sweeps)


def best_rate(swept: list[Result], figure: str | None = None) -> float | None:
    """The learning rate of the best short run. None where nothing was swept.

    Of runs with one accuracy, which short ones often have (none of a rare kind found yet), that with the lower held-out
    loss is better; of equals, the lower rate.

    Args:
        swept: the runs.
        figure: the accuracy to go by; None: the held-out loss.

    Raises:
        UserError: no rate gave a finite loss.
    """
    if not swept:
        return None
    worked = [result for result in swept if not result.failed]
    if not worked:
        raise UserError(f"{swept[0].method}: no learning rate of the sweep gave a finite loss; try lower ones")

    def merit(result: Result) -> tuple[float, float, float]:
        assert result.rate is not None
        if figure is None and result.held_out_loss is None:
            raise UserError(f"{result.method}: the sweep has no held-out loss to choose by; set data.held_out")
        loss = result.held_out_loss
        comparable = math.inf if loss is None or not math.isfinite(loss) else loss
        return 0.0 if figure is None else result.accuracy[figure], -comparable, -result.rate

    return max(worked, key=merit).rate


def _all_diverged(swept: list[Result]) -> bool:
    return bool(swept) and all(result.failed for result in swept)


def whole_alone(comparison: Comparison, base: BaseSection) -> bool:
    """Whether a task with labels can be asked of the base without an adapter: it has no fresh head."""
    if not comparison.labelled:
        return False
    problem = find_problem(cell_recipe(comparison, base_cell(comparison, base)))
    return not problem.heads(problem.empty_base())


def check_fits(comparison: Comparison, base: BaseSection, method: MethodEntry) -> dict[str, Any] | None:
    """Put the method on a base of the same shape without content.

    Returns:
        The adapter's settings, with every default that the recipe leaves to the libraries; None where every weight
        is trained.

    Raises:
        UserError: it does not fit, with what to do about it.
    """
    problem = find_problem(cell_recipe(comparison, final_cells(comparison, base, method, None)[0]))
    config = build_config(method.adapter, problem.peft_task)
    model = problem.empty_base()
    try:
        adapted = attach(model, config, 0, base.name, problem.heads(model))
    except UserError as error:
        raise UserError(f"method {method.name!r}: {error}") from error
    if not isinstance(adapted, PeftModel):
        return None
    settings = adapted.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    return json.loads(json.dumps({key: value for key, value in plain.items() if key not in _PASSING}, default=str))


def _chosen(comparison: Comparison, only: list[str] | None) -> list[MethodEntry]:
    known = {method.name: method for method in comparison.methods}
    unknown = [name for name in only or [] if name not in known]
    if unknown:
        raise UserError(f"no method is called {unknown[0]!r} here; there are: {', '.join(known)}")
    return [method for name, method in known.items() if only is None or name in only]


def _finish(
    comparison: Comparison, cell: Cell, adapter: dict[str, Any] | None, console: Console, processes: CellProcesses
) -> Result:
    """The cell's result, run first if it is not there. `adapter`: the method's settings, from `check_fits`."""
    spec = cell_spec(comparison, cell, adapter)
    done = read_result(cell)
    if done is not None:
        refuse_others(spec, cell.folder)
        return done
    rate = "" if cell.rate is None else f", learning rate {cell.rate:g}"
    what = f"{cell.method}{rate}, seed {cell.seed}" if cell.method else "no adapter"
    console.print(f"\n[bold]{'sweep: ' if cell.sweep else ''}{cell.base}, {what}[/bold]", soft_wrap=True)
    _run_process(spec, cell, console, processes)
    result = read_result(cell)
    assert result is not None, "a cell that ended well has its result"
    if result.failed:
        console.print(f"failed    {result.failed}", soft_wrap=True)
    elif result.accuracy:
        console.print("          " + ", ".join(f"{task} {share:.1%}" for task, share in result.accuracy.items()))
    return result


def _run_process(spec: dict[str, Any], cell: Cell, console: Console, processes: CellProcesses) -> None:
    file = cell.folder / "cell.json"
    write_text(file, json.dumps(spec, indent=1) + "\n")
    status, kept = processes.run(file, quiet=console.quiet)
    if status:
        said = kept.strip().splitlines()
        reason = said[-1].removeprefix("error: ") if said else "its message stands above"
        raise UserError(
            f"the cell {cell.folder} ended with code {status}: {reason}. Finished cells are kept; the same "
            "command goes on"
        )
