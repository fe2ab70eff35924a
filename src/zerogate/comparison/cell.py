"""One cell of a comparison, in a process of its own: train, load what was saved, ask, write `result.json`.

    python -m zerogate.comparison FOLDER/cell.json

A process of its own is what makes the peak memory the cell's, and what a crash takes with it. What is asked is the
saved adapter on a freshly loaded base, as a user would have it.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import warnings
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console

from zerogate.bases import load_adapted, load_base
from zerogate.comparison.questions import ask
from zerogate.comparison.sections import TaskSection
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.callbacks import quiet_libraries, read_metrics
from zerogate.training.checkpoints import write_text
from zerogate.training.methods import build_config
from zerogate.training.problems import find_problem
from zerogate.training.problems.labelled import LabelledProblem
from zerogate.training.problems.sections import LabelledRecipe
from zerogate.training.problems.trained import load_trained
from zerogate.training.recipe import BaseSection, Recipe
from zerogate.training.recipe_file import parse_recipe, validate
from zerogate.training.run import train
from zerogate.training.trainer import Diverged


@dataclass
class Result:
    """What a cell came to; `result.json` holds it.

    Attributes:
        base, method, seed, rate, sweep: which cell it is.
        recipe: the training recipe, resolved; None for the base alone.
        failed: why there are no figures: the loss was not finite at this rate.
        trained_parameters: how many.
        adapter_bytes: size of the saved weights.
        steps: optimiser steps taken.
        seconds_per_step: median over the training's reports, without measuring and saving.
        peak_memory_bytes: on a GPU what its allocator held at most, on a CPU the process's largest resident size.
        train_loss: mean of the last tenth of the training's reports.
        base_loss, held_out_loss: nats per learned token on the held-out records, before and after.
        accuracy: by task, the share that is right (exact match, or the strict scorer).
        details: by task, all that was counted.
    """

    base: str
    method: str
    seed: int
    rate: float | None
    sweep: bool
    recipe: dict[str, Any] | None = None
    failed: str | None = None
    trained_parameters: int = 0
    adapter_bytes: int = 0
    steps: int = 0
    seconds_per_step: float | None = None
    peak_memory_bytes: int | None = None
    train_loss: float | None = None
    base_loss: float | None = None
    held_out_loss: float | None = None
    accuracy: dict[str, float] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_cell(spec: dict[str, Any], folder: Path, console: Console) -> Result:
    """Train and ask.

    Args:
        spec: `cell` (base, method, seed, rate, sweep), `recipe` or None, `base`, `data`, and `tasks` to ask.
        folder: of the cell; a run that is there is gone on with.
        console: where training reports.
    """
    result = Result(**spec["cell"])
    result.recipe = spec["recipe"] if result.method else None
    base = validate(BaseSection, spec["base"], "base")
    adapter: Path | None = None
    if spec["recipe"] is not None and not result.method:
        _measure_base(parse_recipe(spec["recipe"]), result)
    elif spec["recipe"] is not None:
        recipe = parse_recipe(spec["recipe"])
        base = recipe.base
        try:
            _train(recipe, result, console)
        except Diverged as error:
            result.failed = str(error)
            return result
        adapter = Path(recipe.output) / "last"
        if isinstance(recipe, LabelledRecipe):
            _measure(recipe, adapter, result)
    if spec["tasks"]:
        model, tokenizer = _load(base, adapter, spec["recipe"])
        for settings in spec["tasks"]:
            task = validate(TaskSection, settings, "tasks")
            details = ask(task, validate(DataSection, spec["data"], "data"), model, tokenizer, folder)
            result.details[task.label] = details
            result.accuracy[task.label] = details["accuracy"]
    return result


def _train(recipe: Recipe, result: Result, console: Console) -> None:
    outcome = train(recipe, resume=(Path(recipe.output) / "recipe.yaml").exists(), console=console)
    memory = outcome.folder / "peak_memory.json"
    if outcome.model is not None:
        write_text(memory, json.dumps(peak_memory()))
    summary, metrics = outcome.summary, read_metrics(outcome.folder / "metrics.jsonl")
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    result.trained_parameters, result.steps = summary["trained_parameters"], summary["steps"]
    result.base_loss, result.held_out_loss = summary["base_loss"], summary["last_loss"]
    result.train_loss = statistics.fmean(losses[-max(1, len(losses) // 10) :])
    result.seconds_per_step = seconds_per_step(metrics)
    result.peak_memory_bytes = json.loads(memory.read_text()) if memory.exists() else None
    result.adapter_bytes = sum(file.stat().st_size for file in (outcome.folder / "last").glob("*.safetensors"))
    del outcome
    gc.collect()


def _measure(recipe: LabelledRecipe, saved: Path, result: Result) -> None:
    """The task's figures on the held-out records, of what was saved on a freshly loaded base."""
    problem = _labelled(recipe)
    model, processor, *_ = load_trained(saved, recipe.base.name, device=recipe.base.device, dtype=recipe.base.dtype)
    _record(problem, recipe, model, processor, result)


def _measure_base(recipe: Recipe, result: Result) -> None:
    """The same figures of the base alone."""
    problem = _labelled(recipe)
    result.held_out_loss = _record(problem, recipe, *problem.load_base(False, recipe.base.device), result)["eval_loss"]


def _labelled(recipe: Recipe) -> LabelledProblem:
    problem = find_problem(recipe)
    assert isinstance(problem, LabelledProblem)
    return problem


def _record(problem: LabelledProblem, recipe: Recipe, model: Any, processor: Any, result: Result) -> dict[str, float]:
    held_out = problem.load_data(processor).held_out
    if held_out is None:
        raise UserError("a comparison needs held-out records to measure on (data.held_out)")
    figures = problem.measure(model, held_out, max(recipe.train.batch_size, 32))
    for name in problem.shown:
        result.accuracy[name] = figures[f"eval_{name}"]
        result.details[name] = {**figures, "accuracy": figures[f"eval_{name}"], "n": len(held_out.records)}
    return figures


def seconds_per_step(metrics: list[dict[str, Any]]) -> float | None:
    """The median time of a step between two reports of a run with neither a measurement nor a resumption between."""
    times = [
        (later["seconds"] - earlier["seconds"]) / (later["step"] - earlier["step"])
        for earlier, later in pairwise(metrics)
        if "loss" in earlier and "loss" in later and later["seconds"] > earlier["seconds"]
    ]
    return statistics.median(times) if times else None


def peak_memory() -> int:
    """Bytes: the GPU allocator's largest, or without a GPU this process's largest resident size so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load(base: BaseSection, adapter: Path | None, recipe: dict[str, Any] | None) -> tuple[Any, Any]:
    options = base.model_dump(exclude={"name"}, exclude_none=True)
    model: Any
    if adapter is None or recipe is None:
        model, tokenizer = load_base(base.name, **options)
    elif build_config(recipe["adapter"]) is None:  # the base itself was trained: a folder like any base's
        model, tokenizer = load_base(str(adapter), **options)
    else:
        model, tokenizer = load_adapted(base.name, {"cell": adapter}, **options)
    return model.eval(), tokenizer


def main(file: Path) -> None:
    """Run the cell that a file describes; wait if another process is at it."""
    result_file = file.parent / "result.json"
    quiet_libraries()
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # the libraries' advice to programmers
    with FileLock(file.parent / ".lock"):
        if result_file.is_file():
            return
        try:
            spec = json.loads(file.read_text(encoding="utf-8"))
            result = run_cell(spec, file.parent, Console(stderr=True, highlight=False))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(130)  # the comparison, which was stopped by the same key, says so
        write_text(result_file, json.dumps(asdict(result), indent=1) + "\n")
