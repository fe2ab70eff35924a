"""What a task has to say so that the one training loop can run it."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from zerogate.training.recipe import Plan
from zerogate.training.run_trainer import RunTrainer


@dataclass(frozen=True)
class Merit:
    """The held-out figure that says which adapter is best.

    Attributes:
        key: its name in `metrics.jsonl`.
        higher_is_better: or the other way round.
    """

    key: str = "eval_loss"
    higher_is_better: bool = False

    @property
    def name(self) -> str:
        """The figure in words."""
        return self.key.removeprefix("eval_").replace("_", " ")

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` beats the best so far."""
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best


def figure_text(name: str, value: float) -> str:
    """A held-out figure for people: margins are logits, all others shares."""
    return f"{value:+.2f}" if name.endswith("margin") else f"{value:.2%}"


class RunData(Protocol):
    """What is learned and what is measured, as a run needs to know it."""

    @property
    def train(self) -> Sized:
        """What to learn from."""

    @property
    def held_out(self) -> Sized | None:
        """What to measure on."""

    def lines(self) -> list[str]:
        """What was read, in words."""


class Problem(Protocol):
    """A task of one recipe."""

    @property
    def peft_task(self) -> str | None:
        """PEFT's name of it, or None where PEFT has none."""

    @property
    def pipeline(self) -> str:
        """transformers' name of it, for the card."""

    @property
    def merit(self) -> Merit:
        """What says which adapter is best."""

    def load_base(self, whole: bool, device: str | None) -> tuple[PreTrainedModel, Any]:
        """The frozen base with the task's head, and its tokenizer or image processor.

        Args:
            whole: every weight will be trained, so they are to be fp32.
            device: where it belongs.
        """

    def empty_base(self) -> PreTrainedModel:
        """The same model without content, on the meta device: for asking whether an adapter fits."""

    def heads(self, model: PreTrainedModel) -> list[str]:
        """Names of the modules that are fresh, and trained whatever the method."""

    def load_data(self, processor: Any) -> RunData:
        """Read and encode."""

    def make_trainer(self, data: Any, plan: Plan, processor: Any, **common: Any) -> RunTrainer:
        """The trainer with this task's loss and measurements."""

    def describe(self, data: Any) -> str:
        """How records are worded, in a word, for the card; empty where there is nothing to say."""

    def save_extras(self, folder: Path) -> None:
        """Write what an adapter's user needs to know besides the adapter."""
