"""Language models: what `zerogate train` does when a recipe names no task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils import is_liger_kernel_available

from zerogate.bases.load import load_base, read_config
from zerogate.data.collate import Collator
from zerogate.data.load import Data, load_data
from zerogate.errors import UserError
from zerogate.training.images import see_images, takes_images
from zerogate.training.problems.problem import Merit
from zerogate.training.recipe import Plan, Recipe
from zerogate.training.run_trainer import EpochSampler, RunTrainer
from zerogate.training.trainer import ZerogateTrainer


class CausalLM:
    """Continue a text."""

    peft_task = "CAUSAL_LM"
    pipeline = "text-generation"
    merit = Merit()

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def load_base(self, whole: bool, device: str | None) -> tuple[PreTrainedModel, Any]:
        """The frozen model and its tokenizer."""
        base = self.recipe.base
        if self.recipe.train.liger:
            _check_liger(on_cpu=base.device == "cpu" or not torch.cuda.is_available())
        model, tokenizer = load_base(
            base.name,
            dtype="float32" if whole else base.dtype,
            device=device,
            quantization=base.quantization,
            attn_implementation=base.attn_implementation,
        )
        if self.recipe.train.liger:
            apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
        return model, tokenizer

    def empty_base(self) -> PreTrainedModel:
        """The model without content."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(read_config(self.recipe.base.name))
        return model

    def heads(self, model: PreTrainedModel) -> list[str]:
        """None: the base's own head stays."""
        return []

    def load_data(self, processor: Any) -> Data:
        """Read, split, check for leaks and tokenise; look at the images if the adapter takes some."""
        data = load_data(self.recipe.data, processor, takes_images(self.recipe.adapter))
        see_images(data, self.recipe.adapter)
        return data

    def make_trainer(self, data: Data, plan: Plan, processor: Any, **common: Any) -> RunTrainer:
        """TRL's trainer, with ours on top."""
        train = self.recipe.train
        shows = self._shows(data) if train.joint else None
        lengths = data.train.lengths.tolist()
        return ZerogateTrainer(
            sampler=EpochSampler(lengths, plan.micro_batch, train.seed, train.group_by_length, shows),
            joint=train.joint,
            held_out=data.held_out,
            pad_token_id=processor.pad_token_id,
            train_dataset=Dataset.from_dict(data.train.columns()),
            data_collator=Collator(processor.pad_token_id, data.train.features),
            processing_class=processor,
            **common,
        )

    def _shows(self, data: Data) -> list[bool]:
        """Which training records show an image.

        Raises:
            UserError: all of them, or none, or there are several processes.
        """
        shows = [bool(images) for images in data.train.images]
        if len(set(shows)) < 2:
            has = "every record has an image" if any(shows) else "no record has an image"
            raise UserError(f"train.joint needs records with images and records without, and here {has}; leave it out")
        if PartialState().num_processes > 1:
            raise UserError("train.joint runs in one process: several would mix the two kinds' gradients")
        return shows

    def describe(self, data: Data) -> str:
        """The template."""
        return data.template

    def save_extras(self, folder: Path) -> None:
        """Nothing: the card says it all."""


def _check_liger(on_cpu: bool) -> None:
    if not is_liger_kernel_available():
        raise UserError("train.liger needs liger-kernel, which is not installed: pip install 'zerogate[liger]'")
    if on_cpu:
        raise UserError("train.liger needs a GPU: its kernels are Triton's; leave it out")
