"""What happens along a run: when to measure and save, `metrics.jsonl`, the best adapter, and the progress bar."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from zerogate.training.checkpoints import write_text
from zerogate.training.problems.problem import Merit
from zerogate.training.recipe import TrainSection


class Flow(TrainerCallback):
    """Ask for measurements and checkpoints as the recipe says, and always at the end.

    Both are asked for together, and the trainer measures first: a checkpoint knows the best adapter of its own step.
    """

    def __init__(self, train: TrainSection) -> None:
        self.train = train

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Steps the recipe names, ends of epochs if it names them, and the last step."""
        last = state.global_step >= state.max_steps
        control.should_evaluate = self._due(self.train.evaluate_every, state) or last
        control.should_save = self._due(self.train.save_every, state) or last
        control.should_log = control.should_log or last

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Nothing more: the epoch's last step has asked."""
        control.should_evaluate = control.should_save = False

    def _due(self, every: int | str, state: TrainerState) -> bool:
        if isinstance(every, int):
            return state.global_step % every == 0
        return state.epoch is not None and float(state.epoch).is_integer()


class Metrics(TrainerCallback):
    """Append every log to a JSON lines file; a resumed run first forgets what came after its checkpoint."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.start = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop lines of steps that will be run again."""
        if state.is_world_process_zero and self.file.exists():
            kept = [entry for entry in read_metrics(self.file) if entry["step"] <= state.global_step]
            write_text(self.file, "".join(json.dumps(entry) + "\n" for entry in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one line."""
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        entry = {"step": state.global_step, **logs, "seconds": round(time.perf_counter() - self.start, 2)}
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class Best(TrainerCallback):
    """Save the adapter whenever its held-out figure is the best so far. Checkpoints keep the record of it."""

    def __init__(self, save: Callable[[str, TrainerState, dict[str, float]], None], merit: Merit | None = None) -> None:
        self.save = save
        self.merit = merit or Merit()
        self.latest: dict[str, float] = {}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare, and save if it is better. The untrained adapter (step 0) does not count."""
        metrics: dict[str, float] = kwargs["metrics"]
        self.latest = metrics
        if state.global_step == 0:
            return
        value = metrics[self.merit.key]
        if self.merit.improves(value, state.best_metric):
            state.best_metric = value
            state.best_global_step = state.global_step
            if state.is_world_process_zero:
                self.save("best", state, metrics)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the last adapter."""
        if state.is_world_process_zero:
            self.save("last", state, self.latest)


class Bar(TrainerCallback):
    """A progress bar with the loss; where the output is no terminal, a line now and then."""

    def __init__(self, console: Console, merit: Merit | None = None) -> None:
        self.console = console
        self.merit = merit or Merit()
        self.progress: Progress | None = None
        self.note = ""
        self.latest_printed = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the bar."""
        if state.is_world_process_zero and self.console.is_terminal:
            columns = (
                "training",
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.progress = Progress(*columns, console=self.console)
            self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, note="")
            self.progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move it on."""
        if self.progress is not None:
            self.progress.update(self.task, completed=state.global_step, note=self.note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Note the losses; without a bar print them, at most every ten seconds."""
        if not state.is_world_process_zero or logs is None:
            return
        if "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}"
        elif "eval_loss" in logs:
            figure = "" if self.merit.key == "eval_loss" else f", {self.merit.name} {logs[self.merit.key]:.2%}"
            self.console.print(f"step {state.global_step}: held-out loss {logs['eval_loss']:.4f}{figure}")
            return
        else:
            return
        now = time.perf_counter()
        if self.progress is None and now - self.latest_printed > 10:
            self.latest_printed = now
            self.console.print(
                f"step {state.global_step}/{state.max_steps}: {self.note}, learning rate {logs['learning_rate']:.2e}"
            )

    def close(self) -> None:
        """Take the bar away, however the run ended."""
        if self.progress is not None:
            self.progress.stop()


def quiet_libraries() -> None:
    """Keep the libraries' own bars and notices out of ours."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
