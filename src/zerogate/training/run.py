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
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedTokenizerBase, TrainerState

from zerogate.bases.load import find_base, load_base
from zerogate.data.collate import Collator
from zerogate.data.load import Data, load_data
from zerogate.errors import UserError
from zerogate.training.arguments import sft_config
from zerogate.training.attach import attach, count_parameters, make_trained_fp32, save_adapter
from zerogate.training.callbacks import Bar, Best, Flow, Metrics, quiet_libraries, read_metrics
from zerogate.training.card import CardFacts, render_card
from zerogate.training.checkpoints import write_folder
from zerogate.training.gates import gate_magnitudes
from zerogate.training.methods import build_config, check_method, method_of
from zerogate.training.plots import draw_gates, draw_loss
from zerogate.training.recipe import Plan, Recipe, make_plan
from zerogate.training.run_folder import open_run, read_summary, versions, write_summary
from zerogate.training.trainer import EpochSampler, ZerogateTrainer


@dataclass(frozen=True)
class Outcome:
    """What a finished run came to.

    Attributes:
        folder: the run folder.
        summary: what `summary.json` holds.
        model: the trained model (with its last adapter), or None if the run had been finished before.
        tokenizer: the base's, or None likewise.
    """

    folder: Path
    summary: dict[str, Any]
    model: Any = None
    tokenizer: PreTrainedTokenizerBase | None = None


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    data: Data | None = None,
) -> Outcome:
    """Run a recipe.

    Args:
        recipe: from `load_recipe`.
        resume: go on from the newest whole checkpoint in the run folder.
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
    config = build_config(recipe.adapter)
    check_method(recipe.adapter, recipe.train)
    _check_trackers(recipe)
    # Before anything else: on the CPU, processes that torchrun started must meet over gloo.
    state = PartialState(cpu=recipe.base.device == "cpu" or not torch.cuda.is_available())
    console = console or Console(stderr=True)
    console.quiet = console.quiet or not state.is_main_process
    folder = Path(recipe.output)
    finished = read_summary(folder) if resume else None
    if finished is not None:
        console.print(f"{folder} is finished already")
        return Outcome(folder, finished)

    model, tokenizer = load_base(
        recipe.base.name,
        dtype="float32" if config is None else recipe.base.dtype,  # full fine-tuning trains the weights themselves
        device=recipe.base.device if state.num_processes == 1 else "cpu",  # the trainer places one copy per process
        quantization=recipe.base.quantization,
        attn_implementation=recipe.base.attn_implementation,
    )
    adapted = attach(model, config, recipe.train.seed, recorded_name(recipe.base.name))
    data = data or load_data(recipe.data, tokenizer)
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
    _announce(console, recipe, data, plan, adapted, checkpoint)
    return _run(recipe, data, plan, adapted, tokenizer, checkpoint, console)


def recorded_name(name: str) -> str:
    """How an adapter names its base: a folder by its full path, the rest as it is."""
    folder = find_base(name).folder
    return name if folder is None or name == "pocket" else str(Path(name).expanduser().resolve())


def _check_trackers(recipe: Recipe) -> None:
    for name in recipe.report_to:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to: {name} is not installed; pip install {name}, or leave it out of report_to")


def _announce(
    console: Console, recipe: Recipe, data: Data, plan: Plan, model: torch.nn.Module, checkpoint: Path | None
) -> None:
    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False)

    trained, total = count_parameters(model)
    say(f"base      {recipe.base.name}: {total:,} parameters, {trained:,} of them trained ({trained / total:.3%})")
    say(f"method    {method_of(recipe.adapter).summary}")
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
    recipe: Recipe,
    data: Data,
    plan: Plan,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path | None,
    console: Console,
) -> Outcome:
    folder = Path(recipe.output)
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
            template=data.template,
            data=[f"`{Path(recipe.data.path).name}`", *data.lines()],
            trained=trained,
            total=total,
            step=state.global_step,
            steps=plan.steps,
            batch_size=recipe.train.batch_size,
            learning_rate=plan.learning_rate,
            base_loss=base_loss[0] if base_loss else None,
            loss=metrics.get("eval_loss"),
            folder=str(folder / name),
            versions=versions(),
        )
        write_folder(folder / name, lambda target: save_adapter(model, tokenizer, target, render_card(facts)))

    best = Best(save)
    bar = Bar(console)
    trainer = ZerogateTrainer(
        sampler=EpochSampler(
            data.train.lengths.tolist(), plan.micro_batch, recipe.train.seed, recipe.train.group_by_length
        ),
        held_out=data.held_out,
        run_folder=folder,
        keep_checkpoints=recipe.train.keep_checkpoints,
        pad_token_id=tokenizer.pad_token_id,
        model=model,
        args=sft_config(recipe, plan, model, autocast, first=checkpoint is None),
        train_dataset=Dataset.from_dict(
            {"input_ids": data.train.input_ids, "labels": data.train.labels, "row": data.train.rows}
        ),
        data_collator=Collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[Flow(recipe.train), Metrics(folder / "metrics.jsonl"), best, bar],
    )
    start = time.perf_counter()
    try:
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
        draw_loss(
            metrics,
            folder / "loss.png",
            f"{recipe.adapter['method']} on {recipe.base.name}, {trained:,} trained parameters",
        )
        if gate_magnitudes(model):
            from zerogate.adapters.zero_init import gates

            final = {layer: gate.cpu() for layer, gate in gates(model).items()}
            draw_gates(metrics, final, folder / "gates.png", f"{recipe.base.name}: gates open from zero")
        write_summary(folder, summary)
    trainer.accelerator.wait_for_everyone()
    return Outcome(folder, summary, model, tokenizer)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    file = folder / "metrics.jsonl"
    return read_metrics(file) if file.exists() else []
