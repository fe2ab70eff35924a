"""A whole run, from recipe to saved adapter. This is what `zerogate train` calls; from Python:

    from zerogate.training.recipe_file import load_recipe
    from zerogate.training.run import train
    outcome = train(load_recipe("recipes/demo.yaml"))

It also runs under `accelerate launch` and `torchrun`; the batch is then shared out over the processes.
"""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from transformers import TrainerState

from zerogate.bases.load import EMBEDDED, find_base
from zerogate.errors import UserError
from zerogate.training.arguments import sft_config
from zerogate.training.attach import attach, count_parameters, make_trained_fp32, save_adapter
from zerogate.training.callbacks import Bar, Best, Flow, Metrics, quiet_libraries, read_metrics
from zerogate.training.card import CardFacts, render_card
from zerogate.training.checkpoints import step_of, write_folder
from zerogate.training.gates import gate_magnitudes
from zerogate.training.images import blind_line, without_images
from zerogate.training.methods import build_config, check_method, method_of
from zerogate.training.plots import draw_figure, draw_gates, draw_loss
from zerogate.training.problems import find_problem
from zerogate.training.problems.problem import Problem, RunData
from zerogate.training.problems.sections import LabelledRecipe
from zerogate.training.recipe import Plan, Recipe, make_plan
from zerogate.training.run_folder import open_run, read_finished, versions, write_summary
from zerogate.training.stopping import told_when_stopped


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to.

    Attributes:
        folder: the run folder.
        summary: what `summary.json` holds.
        model: the trained model (with its last adapter), or None if the run had been finished before.
        tokenizer: the base's (or its image processor), or None likewise.
    """

    folder: Path
    summary: dict[str, Any]
    model: Any = None
    tokenizer: Any = None


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    data: RunData | None = None,
) -> Outcome:
    """Run a recipe.

    Args:
        recipe: from `load_recipe`.
        resume: go on from the newest whole checkpoint in the run folder; a finished run is returned as it is.
        overwrite: replace a run that is there.
        console: where to report; standard error by default.
        data: what `load_data` gave for this recipe before; several runs on the same records need not tokenise them
            again.

    Raises:
        UserError: anything wrong with recipe, data, base or disk, before training where it can be known; a loss
            that is not finite.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    quiet_libraries()
    recipe, blinded = without_images(recipe)
    problem = find_problem(recipe)
    config = build_config(recipe.adapter, problem.peft_task)
    check_method(recipe.adapter, recipe.train)
    _check_trackers(recipe)
    # Before anything else: on the CPU, processes that torchrun started must meet over gloo.
    state = PartialState(cpu=recipe.base.device == "cpu" or not torch.cuda.is_available())
    console = console or Console(stderr=True)
    console.quiet = console.quiet or not state.is_main_process
    folder = Path(recipe.output)
    finished = read_finished(recipe) if resume else None
    if finished is not None:
        console.print(f"{folder} is finished already")
        return Outcome(folder, finished)

    model, processor = problem.load_base(
        whole=config is None,  # full fine-tuning trains the weights themselves
        device=recipe.base.device if state.num_processes == 1 else "cpu",  # the trainer places one copy per process
    )
    adapted = attach(model, config, recipe.train.seed, recorded_name(recipe.base.name), problem.heads(model))
    data = data or problem.load_data(processor)
    try:
        plan = make_plan(recipe.train, len(data.train), state.num_processes)
    except ValueError as error:
        raise UserError(str(error)) from error

    checkpoint = None
    if state.is_main_process:
        checkpoint = open_run(recipe, resume, overwrite)
    state.wait_for_everyone()
    if not state.is_main_process and resume:
        checkpoint = open_run(recipe, resume, overwrite)
    _announce(console, recipe, data, plan, adapted, checkpoint, blinded)
    return _run(problem, recipe, data, plan, adapted, processor, checkpoint, console)


def finished_run(recipe: Recipe) -> dict[str, Any] | None:
    """What `train` with `resume` would return of a run that is finished: its summary, or None where it would train.

    Raises:
        UserError: the folder holds a run of another recipe, finished or not.
    """
    return read_finished(without_images(recipe)[0])


def recorded_name(name: str) -> str:
    """How an adapter names its base: a folder by its full path, the rest as it is."""
    folder = find_base(name).folder
    return name if folder is None or name in EMBEDDED else str(Path(name).expanduser().resolve())


def _check_trackers(recipe: Recipe) -> None:
    for name in recipe.report_to:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to: {name} is not installed; pip install {name}, or leave it out of report_to")


def _announce(
    console: Console,
    recipe: Recipe,
    data: RunData,
    plan: Plan,
    model: torch.nn.Module,
    checkpoint: Path | None,
    blinded: list[str],
) -> None:
    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    trained, total = count_parameters(model)
    say(f"base      {recipe.base.name}: {total:,} parameters, {trained:,} of them trained ({trained / total:.3%})")
    say(f"method    {method_of(recipe.adapter).summary}")
    if blinded:
        say(f"          {blind_line(blinded)}")
    for index, line in enumerate(data.lines()):
        say(f"{'data' if index == 0 else '':<10}{line}")
    rate = f"{plan.learning_rate:.4g}"
    if recipe.train.base_learning_rate is not None:
        rate += f" effective (base rate {recipe.train.base_learning_rate:.4g} x batch {recipe.train.batch_size} / 256)"
    accumulated = f" in {plan.accumulation} passes" if plan.accumulation > 1 else ""
    say(
        f"training  {plan.steps:,} steps of {recipe.train.batch_size}{accumulated} "
        f"({plan.steps / plan.steps_per_epoch:.2f} epochs), "
        f"{plan.warmup_steps:,} warm-up; learning rate {rate}, then {recipe.train.schedule}"
    )
    if checkpoint is not None:
        say(f"resuming  from {checkpoint}")


def _run(
    problem: Problem,
    recipe: Recipe,
    data: RunData,
    plan: Plan,
    model: Any,
    processor: Any,
    checkpoint: Path | None,
    console: Console,
) -> Outcome:
    folder = Path(recipe.output)
    labelled = isinstance(recipe, LabelledRecipe)
    autocast = make_trained_fp32(model)
    trained, total = count_parameters(model)
    base_loss = [m["base_loss"] for m in _metrics(folder) if "base_loss" in m]

    def save(name: str, state: TrainerState, metrics: dict[str, float]) -> None:
        if not base_loss:
            base_loss.extend(m["base_loss"] for m in _metrics(folder) if "base_loss" in m)
        facts = CardFacts(
            base=recipe.base.name,
            method=recipe.adapter["method"],
            summary=method_of(recipe.adapter).summary,
            settings=recipe.adapter,
            template=problem.describe(data),
            data=[f"`{Path(recipe.data.path).name}`", *data.lines()],
            trained=trained,
            total=total,
            step=state.global_step,
            steps=plan.steps,
            batch_size=recipe.train.batch_size,
            learning_rate=plan.learning_rate,
            base_loss=base_loss[0] if base_loss else None,
            loss=metrics.get("eval_loss"),
            figures=_figures(metrics) if labelled else {},
            pipeline=problem.pipeline,
            folder=str(folder / name),
            versions=versions(),
        )

        def write(target: Path) -> None:
            save_adapter(model, processor, target, render_card(facts))
            problem.save_extras(target)

        write_folder(folder / name, write)

    best = Best(save, problem.merit)
    done = step_of(checkpoint) if checkpoint is not None else 0
    best.latest = _measured_at(_metrics(folder), done) if done else {}
    # An untrained adapter's loss is the base's; an untrained head's figures mean nothing. A run that was killed after
    # its last step takes no other one, so it measures only where the last figures were lost.
    measure_first = not best.latest if done >= plan.steps else done == 0 and not labelled
    bar = Bar(console, problem.merit)
    trainer = problem.make_trainer(
        data,
        plan,
        processor,
        run_folder=folder,
        keep_checkpoints=recipe.train.keep_checkpoints,
        rate_factors=recipe.train.rate_factors,
        model=model,
        args=sft_config(recipe, plan, model, autocast, measure_first),
        callbacks=[Flow(recipe.train), Metrics(folder / "metrics.jsonl"), best, bar],
    )
    start = time.perf_counter()
    try:
        with told_when_stopped(folder / "checkpoints", trainer.accelerator.num_processes):
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    summary = {
        "steps": result.global_step,
        "seconds": round(time.perf_counter() - start, 1),
        "trained_parameters": trained,
        "total_parameters": total,
        "learning_rate": plan.learning_rate,
        "base_loss": base_loss[0] if base_loss else None,
        "best_loss": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step,
        "last_loss": best.latest.get("eval_loss"),
        "train_records": len(data.train),
        "held_out_records": len(data.held_out) if data.held_out is not None else 0,
    }
    if trainer.accelerator.is_main_process:
        metrics = _metrics(folder)
        title = f"{recipe.adapter['method']} on {recipe.base.name}, {trained:,} trained parameters"
        draw_loss(metrics, folder / "loss.png", title, "label" if labelled else "token")
        if labelled and best.latest:
            at_best = _measured_at(metrics, trainer.state.best_global_step)
            summary |= {"best_loss": at_best.get("eval_loss"), "best": _figures(at_best), "last": _figures(best.latest)}
            draw_figure(metrics, problem.merit.key, problem.merit.name, folder / "metric.png", title)
        if gate_magnitudes(model):
            from zerogate.adapters.zero_init import gates

            final = {layer: gate.cpu() for layer, gate in gates(model).items()}
            draw_gates(metrics, final, folder / "gates.png", f"{recipe.base.name}: gates open from zero")
        write_summary(folder, summary)
    trainer.accelerator.wait_for_everyone()
    return Outcome(folder, summary, model, processor)


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    """The held-out figures of a measurement besides the loss, by their plain names."""
    return {
        key.removeprefix("eval_"): value
        for key, value in metrics.items()
        if key.startswith("eval_") and key not in ("eval_loss", "eval_seconds")
    }


def _measured_at(metrics: list[dict[str, Any]], step: int | None) -> dict[str, float]:
    """The held-out measurement of a step; empty where there is none."""
    return next((entry for entry in reversed(metrics) if entry["step"] == step and "eval_loss" in entry), {})


def _metrics(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []
