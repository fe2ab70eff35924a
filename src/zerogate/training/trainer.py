"""The trainer of language models: TRL's `SFTTrainer` with what a run of ours needs (`run_trainer.py`), a loss over the
learned positions only, and exact held-out loss.
"""

from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from trl import SFTTrainer

from zerogate.bases.loss import output_head, summed_loss
from zerogate.data.encode import Encoded
from zerogate.training.held_out import HeldOut, held_out_loss
from zerogate.training.joint import Apart
from zerogate.training.methods import starts_as_base
from zerogate.training.run_trainer import Diverged, EpochSampler, RunTrainer

__all__ = ["Diverged", "EpochSampler", "ZerogateTrainer"]


class ZerogateTrainer(RunTrainer, SFTTrainer):  # type: ignore[misc]
    """Train one adapter of a language model.

    Args:
        held_out: what `evaluate` measures on, or None.
        pad_token_id: what to pad with.
        joint: batches with images and batches without train different parameters (`joint.py`).
        kwargs: as for `RunTrainer` and `SFTTrainer`; the data set is tokenised and carries `input_ids`, `labels` and
            `row`.
    """

    def __init__(self, *, held_out: Encoded | None, pad_token_id: int, joint: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.zg_apart = Apart(self.zg_model) if joint else None
        self.zg_held_out = held_out
        self.zg_pad_token_id = pad_token_id
        self.zg_head = output_head(self.zg_model)

    def _send_telemetry(self) -> None:
        """Nothing is reported to anyone."""

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: list[str] = ["input_ids", "labels", "row", "shown"]  # type: ignore[assignment]

    def summed_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """Cross-entropy over the learned tokens of a batch, and how many there are."""
        return summed_loss(model, self.zg_head, inputs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As upstream; in joint training the gradients reach what the batch is to train."""
        if self.zg_apart is None:
            return super().training_step(model, inputs, num_items_in_batch)
        with self.zg_apart.learning(images=bool(inputs["image_mask"].any())):
            return super().training_step(model, inputs, num_items_in_batch)

    def measure(self) -> dict[str, float]:
        """Held-out loss and token accuracy; at the first step the base's loss too."""
        if self.zg_held_out is None:
            return {}
        result = self._measure(self.zg_held_out)
        metrics = {"eval_loss": result.loss, "eval_accuracy": result.accuracy}
        if self.state.global_step == 0:
            metrics["base_loss"] = self._base_loss(self.zg_held_out, result.loss)
        return metrics

    def _measure(self, held_out: Encoded) -> HeldOut:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return held_out_loss(self.zg_model, held_out, self.zg_pad_token_id, rank=rank, world=world)

    def _base_loss(self, held_out: Encoded, untrained: float) -> float:
        """The base's own loss. Most untrained adapters change nothing; vanilla prompts and their like are noise."""
        model = self.zg_model
        if not isinstance(model, PeftModel) or starts_as_base(model.active_peft_config):
            return untrained
        with model.disable_adapter():
            return self._measure(held_out).loss
