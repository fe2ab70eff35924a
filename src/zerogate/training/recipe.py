"""The recipe: one YAML file that says everything about a run, under a strict schema. Reading and overriding it is
in `recipe_file.py`.

base:    {name: pocket}
adapter: {method: zero_init, prompt_length: 10}
data:    {path: pocket}
train:   {steps: 300, batch_size: 32, learning_rate: 0.1}
output:  runs/demo
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from zerogate.bases.quantize import Quantization
from zerogate.data.section import DataSection

Tracker = Literal["tensorboard", "trackio", "wandb"]
# A folder, with ~ for the home folder.
Place = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser()))]
Often = Literal["epoch"] | Annotated[int, Field(ge=1)]

# The paper's learning rates are stated for this batch size.
PAPER_BATCH = 256


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseSection(Section):
    """The frozen model.

    Attributes:
        name: a Hub id, a folder, or `pocket` for the embedded base.
        dtype: of the frozen weights; `auto` takes the checkpoint's. What is trained is fp32 whatever this says.
        quantization: load the base in 4 (`nf4`) or 8 bits (`int8`, `torchao-int8`, `torchao-fp8`, `fp8`).
        attn_implementation: transformers' name, such as `sdpa` or `flash_attention_2`; its own choice by default.
        device: such as `cpu` or `cuda:0`; by default the best there is.
    """

    name: str
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    quantization: Quantization | None = None
    attn_implementation: str | None = None
    device: str | None = None


class TrainSection(Section):
    """How to train. The optimiser is AdamW; its defaults are the paper's.

    Attributes:
        epochs: how many passes over the data; or give `steps`.
        steps: how many optimiser steps.
        batch_size: sequences per optimiser step, over all devices and accumulation.
        micro_batch_size: sequences per forward pass on a device; by default the whole batch's share.
        learning_rate: the rate as it is used; or give `base_learning_rate`.
        base_learning_rate: the rate for a batch of 256, as the paper states it: rate = base x batch_size / 256.
        rate_factors: what the rate is multiplied by for parameters with such a word in their name, such as
            `{gate: 0.3, classifier: 0.01}`; where several words fit, the last.
        warmup_epochs: passes during which the rate rises from 0; or give `warmup_steps`.
        warmup_steps: steps during which it rises.
        schedule: what follows the warm-up: half a cosine to 0, a line to 0, or no change.
        betas: AdamW's.
        weight_decay: AdamW's, decoupled.
        max_grad_norm: clip the gradient's norm there; null never clips.
        seed: of weights, order and dropout.
        group_by_length: put sequences of like length in a batch, so that little is padding.
        joint: records with images train what lets images in, records without train the rest, in batches of their own.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        compile: torch.compile the model: minutes at the start (a C++ compiler is needed on a CPU), faster steps.
        liger: Liger's Triton kernels in the place of norms, rotations and gated MLPs (language models on a GPU; extra
            `liger`). The loss stays ours, which has logits at the learned positions only.
        evaluate_every: measure the held-out loss every so many steps, or every `epoch`. The end is always measured.
        save_every: write a checkpoint every so many steps, or every `epoch`.
        keep_checkpoints: how many of them to keep.
        log_every: steps per line of `metrics.jsonl`.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    base_learning_rate: PositiveFloat | None = None
    rate_factors: dict[str, PositiveFloat] = Field(default_factory=dict)
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    max_grad_norm: PositiveFloat | None = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    group_by_length: bool = True
    joint: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    liger: bool = False
    evaluate_every: Often = "epoch"
    save_every: Often = "epoch"
    keep_checkpoints: PositiveInt = 2
    log_every: PositiveInt = 10

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for first, second, needed in (
            ("epochs", "steps", True),
            ("learning_rate", "base_learning_rate", True),
            ("warmup_epochs", "warmup_steps", False),
        ):
            given = [name for name in (first, second) if getattr(self, name) is not None]
            if len(given) == 2:
                raise ValueError(f"give {first} or {second}, not both")
            if needed and not given:
                raise ValueError(f"give {first} or {second}")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self

    @property
    def effective_learning_rate(self) -> float:
        """The peak rate AdamW gets: as given, or base rate x batch size / 256."""
        if self.learning_rate is not None:
            return self.learning_rate
        assert self.base_learning_rate is not None  # the validator saw to it
        return self.base_learning_rate * self.batch_size / PAPER_BATCH


class Recipe(Section):
    """A whole run.

    Attributes:
        base: the frozen model.
        adapter: `method` (see `methods.py`) and that method's own settings.
        data: what to learn from.
        train: how.
        output: the run folder.
        report_to: dashboards to also log to.
    """

    base: BaseSection
    adapter: dict[str, Any]
    data: DataSection
    train: TrainSection
    output: Place
    report_to: tuple[Tracker, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What the recipe comes to for this data and these devices.

    Attributes:
        steps: optimiser steps.
        warmup_steps: those of them during which the rate rises.
        steps_per_epoch: optimiser steps in a pass over the data.
        micro_batch: sequences per forward pass on one device.
        accumulation: forward passes per step on one device.
        learning_rate: the peak rate.
    """

    steps: int
    warmup_steps: int
    steps_per_epoch: int
    micro_batch: int
    accumulation: int
    learning_rate: float


def make_plan(train: TrainSection, sequences: int, processes: int = 1) -> Plan:
    """Work out the run's numbers.

    Args:
        train: the recipe's section.
        sequences: how many there are to learn from.
        processes: devices that share a batch.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    share, rest = divmod(train.batch_size, processes)
    if rest or share == 0:
        raise ValueError(f"train.batch_size {train.batch_size} cannot be shared out evenly to {processes} processes")
    micro = train.micro_batch_size or share
    if share % micro:
        raise ValueError(
            f"train.batch_size {train.batch_size} on {processes} processes is {share} each, which is not a multiple of "
            f"train.micro_batch_size {micro}"
        )
    accumulation = share // micro
    # Every process sees the same number of batches (the last are filled up), so count one process's.
    batches = math.ceil(math.ceil(sequences / micro) / processes)
    per_epoch = math.ceil(batches / accumulation)
    if train.steps is not None:
        steps = train.steps
    else:
        assert train.epochs is not None  # the validator saw to it
        steps = math.ceil(train.epochs * per_epoch)
    warmup = train.warmup_steps or round((train.warmup_epochs or 0) * per_epoch)
    return Plan(steps, min(warmup, steps), per_epoch, micro, accumulation, train.effective_learning_rate)
