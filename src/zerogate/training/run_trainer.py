"""What a run of ours needs on top of transformers' `Trainer`, whatever is learned: exact held-out figures,
checkpoints that are whole or absent and restore bit for bit, a seeded order with little padding, and a stop at the
first loss or gradient that is not finite.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer

from zerogate.data.batching import epoch_order
from zerogate.errors import UserError
from zerogate.training import checkpoints
from zerogate.training.gates import gate_metrics
from zerogate.training.joint import order_apart
from zerogate.training.rates import scale_rates

_WEIGHTS = "trained.safetensors"


class Diverged(UserError):
    """The loss or the gradient is no longer finite: the settings, not the files, are at fault."""


class EpochSampler(Sampler[int]):
    """Visit indices in `epoch_order` of the epoch it is set to; in `order_apart` if it is told what shows an image."""

    def __init__(
        self, lengths: list[int], batch_size: int, seed: int, group_by_length: bool, shows: list[bool] | None = None
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.group_by_length = lengths, batch_size, seed, group_by_length
        self.shows = shows
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        how = (self.batch_size, self.seed, self.epoch, self.group_by_length)
        if self.shows is not None:
            return iter(order_apart(self.lengths, self.shows, *how))
        return iter(epoch_order(self.lengths, *how))

    def __len__(self) -> int:
        return len(self.lengths)


class RunTrainer(Trainer):
    """Train one adapter. A subclass says what the loss is, and what is measured.

    Args:
        sampler: the order of the training data.
        run_folder: where `checkpoints/` goes.
        keep_checkpoints: how many to keep.
        rate_factors: as in a recipe.
        kwargs: as for `Trainer`; batches carry `rows`, the numbers of their records.
    """

    # Divided by the items of the whole step, in compute_loss.
    loss_is_scaled_for_ga: bool | None = True  # type: ignore[assignment]

    def __init__(
        self,
        *,
        sampler: EpochSampler,
        run_folder: Path,
        keep_checkpoints: int,
        rate_factors: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.zg_rate_factors = rate_factors or {}
        self.remove_callback(PrinterCallback)  # the run has its own reports
        self.model_accepts_loss_kwargs = True  # so that the items of a step are counted over all its batches
        self.zg_sampler = sampler
        self.zg_checkpoints = run_folder / "checkpoints"
        self.zg_keep = keep_checkpoints
        self.zg_rows: list[int] = []
        assert isinstance(self.model, nn.Module)
        self.zg_model: nn.Module = self.model

    def summed_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """The loss summed over what is learned in a batch, and how many items that are."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """Held-out figures, `eval_loss` among them; nothing without held-out data."""
        raise NotImplementedError

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """AdamW, with rates of their own for some parameters."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if fresh:
            scale_rates(optimizer, self.zg_model, self.zg_rate_factors)
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.zg_sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # upstream would take one more step
            self.control.should_training_stop = True
            return
        self.zg_sampler.epoch = kwargs["epoch"]
        super()._run_epoch(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the count takes longer than a small model's step and knows nothing of frozen layers."""
        return 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per learned item of the whole step, over all its batches and processes."""
        assert not return_outputs, "evaluation goes through measure"
        total, count = self.summed_loss(model, inputs)
        items = torch.as_tensor(num_items_in_batch if num_items_in_batch is not None else count).clamp(min=1)
        # num_items_in_batch counts every process's items, and DDP averages the gradients over processes.
        return total * self.accelerator.num_processes / items.to(total.device)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream; remembers which rows are in the step."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        self.zg_rows = [row for batch in batches for row in batch.pop("rows").tolist()]
        return batches, count

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As upstream; a loss that is not finite ends the run before it can reach the weights."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._stop_unless_finite(loss, "loss")
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self._stop_unless_finite(torch.as_tensor(norm), "gradient norm")
        return norm

    def _stop_unless_finite(self, value: Tensor, what: str) -> None:
        if torch.isfinite(value).all():
            return
        last = checkpoints.newest(self.zg_checkpoints)
        kept = f"the last good checkpoint is {last[1]}" if last else "there is no checkpoint yet"
        raise Diverged(
            f"the {what} became {value.item()} at step {self.state.global_step + 1}, learning rate "
            f"{self._get_learning_rate():.3g}, in the "
            f"batch of rows {', '.join(map(str, self.zg_rows))}. Training stopped before the weights took it; "
            f"{kept}. Look at those rows, or "
            "lower the learning rate, or set train.max_grad_norm"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out figures; nothing without held-out data."""
        start = time.perf_counter()
        measured = self.measure()
        if not measured:
            return {}
        metrics = {**measured, "eval_seconds": time.perf_counter() - start}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As upstream, with the gates beside the training loss."""
        if "loss" in logs:
            logs = {**logs, **gate_metrics(self.zg_model)}
        Trainer.log(self, logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.zg_checkpoints / ".staging")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside, then rename it into place."""
        staging = self.zg_checkpoints / ".staging"
        if self.accelerator.is_main_process:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            Trainer._save_checkpoint(self, model, trial)  # TRL's would also write a card beside the run
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                written = staging / f"checkpoint-{self.state.global_step}"
                checkpoints.seal(written)
                checkpoints.swap_in(written, checkpoints.checkpoint_path(self.zg_checkpoints, self.state.global_step))
                checkpoints.rotate(self.zg_checkpoints, self.zg_keep)
        except checkpoints.WRITE_ERRORS as error:
            last = checkpoints.newest(self.zg_checkpoints)
            kept = (
                f"the last complete checkpoint is {last[1]}; make room and go on with --resume"
                if last
                else "make room and start again"
            )
            raise UserError(
                f"cannot write the checkpoint of step {self.state.global_step}: {error}. Nothing half written was "
                f"left; {kept}"
            ) from error
        finally:
            if self.accelerator.is_main_process:
                shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write what is trained, as it is in memory: a saved adapter may be rounded, a checkpoint may not."""
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self._trained().items()}, Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        trained = self._trained()
        if saved.keys() != trained.keys():
            raise UserError(f"the checkpoint {resume_from_checkpoint} holds other parameters than this recipe trains")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.zg_model.named_parameters() if p.requires_grad}
