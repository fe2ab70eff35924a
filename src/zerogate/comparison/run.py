"""Run a comparison: sweep, train and ask each cell that is not finished, then write the report.

    from zerogate.comparison import compare, load_comparison
    report = compare(load_comparison("recipes/compare/pocket.yaml"))

A cell that has its `result.json` is finished and is taken as it is; a cell that was stopped is gone on with. So a
comparison can be killed at any moment and started again, and methods or seeds added later run alone.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from zerogate.comparison.cell import Result
from zerogate.comparison.datasets import join
from zerogate.comparison.questions import check_tasks
from zerogate.comparison.recipe import (
    Cell,
    Comparison,
    base_cell,
    cell_data,
    cell_recipe,
    each_dataset,
    final_cells,
    sweep_cells,
)
from zerogate.comparison.report import Report, write_report
from zerogate.comparison.sections import MethodEntry, TaskSection
from zerogate.data.jsonl import changed_settings
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.attach import attach
from zerogate.training.checkpoints import write_text
from zerogate.training.methods import build_config
from zerogate.training.problems import find_problem
from zerogate.training.recipe import BaseSection
from zerogate.training.recipe_file import dump_recipe, parse_recipe, validate
from zerogate.training.run_folder import versions


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
    console = console or Console(stderr=True, highlight=False)
    methods = _chosen(comparison, only)
    if comparison.datasets:
        names = [method.name for method in methods]
        parts = each_dataset(comparison)
        for one in parts.values():  # a file that cannot be read is told before the first is trained on
            check_fits(one, one.bases[0], methods[0])
        reports = {name: compare(one, only=names, console=console) for name, one in parts.items()}
        return join(comparison, reports)
    if not comparison.labelled:
        check_tasks(comparison)
    for base in comparison.bases:
        for method in methods:
            check_fits(comparison, base, method)
    folder = Path(comparison.output)
    write_text(folder / "comparison.yaml", dump_recipe(comparison))
    write_text(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    for base in comparison.bases:
        if comparison.base_alone and comparison.tasks:
            _finish(comparison, base_cell(comparison, base), console)
        for method in methods:
            chosen = best_rate([_finish(comparison, cell, console) for cell in sweep_cells(comparison, base, method)])
            for cell in final_cells(comparison, base, method, chosen):
                _finish(comparison, cell, console)
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
            cells = final_cells(comparison, base, method, best_rate(swept))
            finals += [r for cell in cells if (r := read_result(cell))]
    if not finals:
        raise UserError(f"{comparison.output} holds no finished cell of this comparison")
    return write_report(comparison, finals, sweeps)


def best_rate(swept: list[Result]) -> float | None:
    """The learning rate of the best short run; the lower one of equals. None where nothing was swept.

    Raises:
        UserError: no rate gave a finite loss.
    """
    if not swept:
        return None
    worked = [result for result in swept if not result.failed]
    if not worked:
        raise UserError(f"{swept[0].method}: no learning rate of the sweep gave a finite loss; try lower ones")

    def merit(result: Result) -> tuple[float, float]:
        assert result.rate is not None
        if result.accuracy:
            return next(iter(result.accuracy.values())), -result.rate
        return -_known(result.held_out_loss, result), -result.rate

    return max(worked, key=merit).rate


def _known(loss: float | None, result: Result) -> float:
    if loss is None:
        raise UserError(f"{result.method}: the sweep has no held-out loss to choose by; set data.held_out")
    return loss if math.isfinite(loss) else math.inf


def read_result(cell: Cell) -> Result | None:
    """The result of a finished cell, or None."""
    file = cell.folder / "result.json"
    return Result(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def check_fits(comparison: Comparison, base: BaseSection, method: MethodEntry) -> None:
    """Put the method on a base of the same shape without content.

    Raises:
        UserError: it does not fit, with what to do about it.
    """
    problem = find_problem(cell_recipe(comparison, final_cells(comparison, base, method, None)[0]))
    config = build_config(method.adapter, problem.peft_task)
    model = problem.empty_base()
    try:
        attach(model, config, 0, base.name, problem.heads(model))
    except UserError as error:
        raise UserError(f"method {method.name!r}: {error}") from error


def _chosen(comparison: Comparison, only: list[str] | None) -> list[MethodEntry]:
    known = {method.name: method for method in comparison.methods}
    unknown = [name for name in only or [] if name not in known]
    if unknown:
        raise UserError(f"no method is called {unknown[0]!r} here; there are: {', '.join(known)}")
    return [method for name, method in known.items() if only is None or name in only]


def _finish(comparison: Comparison, cell: Cell, console: Console) -> Result:
    """The cell's result, run first if it is not there."""
    recipe = cell_recipe(comparison, cell).model_dump(mode="json") if cell.method else None
    spec = _spec(comparison, cell, recipe)
    done = read_result(cell)
    if done is not None:
        _same(spec, cell)
        return done
    rate = "" if cell.rate is None else f", learning rate {cell.rate:g}"
    what = f"{cell.method}{rate}, seed {cell.seed}" if cell.method else "no adapter"
    console.print(f"\n[bold]{'sweep: ' if cell.sweep else ''}{cell.base}, {what}[/bold]", soft_wrap=True)
    _run_process(spec, cell, console)
    result = read_result(cell)
    assert result is not None, "a cell that ended well has its result"
    if result.failed:
        console.print(f"failed    {result.failed}", soft_wrap=True)
    elif result.accuracy:
        console.print("          " + ", ".join(f"{task} {share:.1%}" for task, share in result.accuracy.items()))
    return result


def _spec(comparison: Comparison, cell: Cell, recipe: dict[str, Any] | None) -> dict[str, Any]:
    tasks = comparison.tasks if not cell.sweep else ()
    if cell.sweep and comparison.sweep.choose_by == "accuracy":
        tasks = comparison.tasks[:1]
    base = next(base for base in comparison.bases if base.name == cell.base)
    return {
        "cell": {key: value for key, value in asdict(cell).items() if key != "folder"},
        "recipe": recipe,
        "base": base.model_dump(mode="json"),
        "data": None if comparison.labelled else cell_data(comparison, cell).model_dump(mode="json"),
        "tasks": [task.model_dump(mode="json") for task in tasks],
    }


def _run_process(spec: dict[str, Any], cell: Cell, console: Console) -> None:
    file = cell.folder / "cell.json"
    write_text(file, json.dumps(spec, indent=1) + "\n")
    command = [sys.executable, "-m", "zerogate.comparison", str(file)]
    ended = subprocess.run(command, check=False, stderr=None if not console.quiet else subprocess.PIPE, text=True)
    if ended.returncode:
        said = (ended.stderr or "").strip().splitlines()
        reason = said[-1].removeprefix("error: ") if said else "its message stands above"
        raise UserError(
            f"the cell {cell.folder} ended with code {ended.returncode}: {reason}. Finished cells are kept; the same "
            "command goes on"
        )


def _same(spec: dict[str, Any], cell: Cell) -> None:
    """Refuse a result that was made under other settings: of the recipe, the base, the data or the questions.

    Settings that did not exist when it was made had their defaults.
    """

    def filled(kind: type[BaseModel], section: dict[str, Any] | None) -> dict[str, Any]:
        return {} if section is None else validate(kind, section, str(cell.folder)).model_dump(mode="json")

    def settings(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["recipe"] is not None:
            recipe = parse_recipe(spec["recipe"], str(cell.folder)).model_dump(mode="json")
        else:
            recipe = {"base": filled(BaseSection, spec["base"]), "data": filled(DataSection, spec["data"])}
        sections = {name: values for name, values in recipe.items() if isinstance(values, dict)}
        keys = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
        return {**keys, "tasks": [filled(TaskSection, task) for task in spec["tasks"]]}

    changed = changed_settings(settings(json.loads((cell.folder / "cell.json").read_text())), settings(spec))
    if changed:
        raise UserError(
            f"{cell.folder} holds a result of other settings than the recipe has now ({changed}); delete that folder "
            "to run it again, or choose another output="
        )
