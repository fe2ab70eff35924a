"""What the tasks with labels share: a base with a fresh head, one loss for all of them, and held-out figures.

Every batch has `labels` (-100 is not learned), and a task gives logits with one axis more than its labels. So the loss
is one cross-entropy, the mean over all labels that are learned, which is what transformers' own heads compute (but for
questions, where theirs counts padding among the places that an answer may have).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, set_seed

from zerogate.bases.loss import IGNORE
from zerogate.training.problems.base import empty_model, find_heads, load_model, mixed_precision
from zerogate.training.problems.problem import Merit
from zerogate.training.problems.sections import LabelledSection
from zerogate.training.recipe import Plan, Recipe
from zerogate.training.run_trainer import EpochSampler, RunTrainer

Example = dict[str, Any]

LENGTHS_FILE = "lengths.json"
"""In a saved adapter's folder: how its texts were cut, by the names that the recipe's data has."""


@dataclass(frozen=True)
class Part:
    """Examples to learn from or to measure on.

    Attributes:
        examples: one per forward row: input tensors without a batch axis, `labels`, and `row`, the record's number.
        lengths: of each example, for batches of like length.
        records: what was read; `row` counts them from 0.
    """

    examples: Dataset[Example]
    lengths: list[int]
    records: Sequence[Any]

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class LabelledData:
    """What a run learns from and measures on, and what is to be told of it."""

    train: Part
    held_out: Part | None
    told: tuple[str, ...]

    def lines(self) -> list[str]:
        """What was read, in words."""
        return list(self.told)


class LabelledProblem:
    """A task whose head is trained from nothing. A subclass reads, encodes, and scores."""

    peft_task: str | None
    pipeline: str
    merit: Merit
    auto_class: str  # transformers' class, such as AutoModelForTokenClassification

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        assert isinstance(recipe.data, LabelledSection)  # the schema saw to it

    @property
    def shown(self) -> tuple[str, ...]:
        """Those of `score`'s figures that tables show; a comparison's advice goes by the first."""
        raise NotImplementedError

    # --- what a task says ---------------------------------------------------------------------------------------------

    def label_names(self) -> list[str] | None:
        """The classes in their order; None where there are none."""
        raise NotImplementedError

    def load_processor(self) -> Any:
        """The base's tokenizer or image processor."""
        raise NotImplementedError

    def load_data(self, processor: Any) -> LabelledData:
        """Read and encode."""
        raise NotImplementedError

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """A batch of examples: inputs, `labels`, and `rows`."""
        raise NotImplementedError

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Logits [*labels.shape, classes]."""
        raise NotImplementedError

    def predict(self, logits: Tensor, inputs: dict[str, Tensor], examples: list[Example]) -> list[Any]:
        """What the model says of each example, small enough to keep for all of them."""
        raise NotImplementedError

    def score(self, predictions: list[Any], part: Part) -> dict[str, float]:
        """The figures of predictions, one per example of the part and in its order; `merit` is one of them."""
        raise NotImplementedError

    def check_base(self, model: PreTrainedModel, processor: Any) -> None:
        """Refuse a base that this recipe's data does not fit; every base, unless a task says more.

        Raises:
            UserError: with what does not fit.
        """

    # --- what they share ----------------------------------------------------------------------------------------------

    def load_base(self, whole: bool, device: str | None) -> tuple[PreTrainedModel, Any]:
        """The frozen backbone with a fresh head, and its processor."""
        set_seed(self.recipe.train.seed)  # of the head
        base = self.recipe.base.model_copy(update={"dtype": "float32"} if whole else {})
        model, processor = load_model(self.auto_class, base, self.label_names(), device), self.load_processor()
        self.check_base(model, processor)
        return model, processor

    def empty_base(self) -> PreTrainedModel:
        """The model without content."""
        return empty_model(self.auto_class, self.recipe.base.name, self.label_names())

    def heads(self, model: PreTrainedModel) -> list[str]:
        """The head."""
        return find_heads(model)

    def make_trainer(self, data: LabelledData, plan: Plan, processor: Any, **common: Any) -> RunTrainer:
        """transformers' trainer, with ours on top."""
        train = self.recipe.train
        return LabelledTrainer(
            problem=self,
            held_out=data.held_out,
            sampler=EpochSampler(data.train.lengths, plan.micro_batch, train.seed, train.group_by_length),
            train_dataset=data.train.examples,
            data_collator=self.collate,
            processing_class=processor,
            **common,
        )

    def describe(self, data: LabelledData) -> str:
        """Nothing is worded."""
        return ""

    def save_extras(self, folder: Path) -> None:
        """`labels.json`: the head's classes in their order; `lengths.json`: how texts are cut."""
        if (names := self.label_names()) is not None:
            (folder / "labels.json").write_text(json.dumps(names, ensure_ascii=False, indent=1) + "\n", "utf-8")
        if lengths := self.recipe.data.model_dump(include={"max_length", "stride", "max_answer_length"}):
            (folder / LENGTHS_FILE).write_text(json.dumps(lengths, indent=1) + "\n", "utf-8")

    def summed_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, int, Tensor]:
        """Cross-entropy in fp32 summed over the learned labels, how many there are, and the logits."""
        labels = inputs["labels"]
        with mixed_precision(model):
            logits = self.logits(model, {name: tensor for name, tensor in inputs.items() if name != "labels"})
        loss = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum")
        return loss, int((labels != IGNORE).sum()), logits

    @torch.no_grad()
    def measure(self, model: nn.Module, part: Part, batch_size: int, rank: int = 0, world: int = 1) -> dict[str, float]:
        """Held-out figures: `eval_loss`, nats per label, and `eval_` with each that `score` gives.

        Args:
            model: with the adapter on it.
            part: what to measure on.
            batch_size: rows at a time.
            rank, world: with several processes, which of how many this is.
        """
        device = next(model.parameters()).device
        order = sorted(range(len(part)), key=lambda index: part.lengths[index])
        batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        was_training = model.training
        model.eval()
        sums = [0.0, 0.0]
        said: dict[int, Any] = {}
        try:
            for indices in batches[rank::world]:
                examples = [part.examples[index] for index in indices]
                inputs = {name: t.to(device) for name, t in self.collate(examples).items() if name != "rows"}
                loss, count, logits = self.summed_loss(model, inputs)
                sums = [sums[0] + loss.item(), sums[1] + count]
                said.update(zip(indices, self.predict(logits, inputs, examples), strict=True))
        finally:
            model.train(was_training)
        if world > 1:
            gathered: list[Any] = [None] * world
            torch.distributed.all_gather_object(gathered, (sums, said))
            sums = [sum(one[0][i] for one in gathered) for i in (0, 1)]
            said = {index: one for _, part_said in gathered for index, one in part_said.items()}
        scores = self.score([said[index] for index in range(len(part))], part)
        return {"eval_loss": sums[0] / max(sums[1], 1), **{f"eval_{name}": value for name, value in scores.items()}}


class LabelledTrainer(RunTrainer):
    """Train one adapter on a task with labels.

    Args:
        problem: the task.
        held_out: what `evaluate` measures on, or None.
        kwargs: as for `RunTrainer`.
    """

    def __init__(self, *, problem: LabelledProblem, held_out: Part | None, **kwargs: Any) -> None:
        kwargs["args"].remove_unused_columns = False  # examples hold nothing else
        super().__init__(**kwargs)
        self.zg_problem = problem
        self.zg_held_out = held_out

    def summed_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, int]:
        """Cross-entropy over the learned labels of a batch, and how many there are."""
        loss, count, _ = self.zg_problem.summed_loss(model, inputs)
        return loss, count

    def measure(self) -> dict[str, float]:
        """The task's held-out figures."""
        if self.zg_held_out is None:
            return {}
        size = max(self.args.per_device_train_batch_size, 32)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return self.zg_problem.measure(self.zg_model, self.zg_held_out, size, rank, world)
