"""The parts of a comparison's recipe: its contestants, data sets, sweep and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from zerogate.errors import UserError
from zerogate.evaluation.tasks import find_task
from zerogate.training.recipe import Section


class MethodEntry(Section):
    """One contestant.

    Attributes:
        name: as it stands in the tables.
        adapter: `method` and its settings, as in a training recipe.
        learning_rates: the rates to choose from; one needs no sweep. None: the rate that `train` gives.
        train: settings laid over the common `train` section.
        base: settings laid over the common `base` section.
        data: settings laid over the common `data` section.
    """

    name: str
    adapter: dict[str, Any]
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)


class SweepSection(Section):
    """How learning rates are chosen.

    Attributes:
        steps: optimiser steps of a short run. None: as many as the real one.
        data: settings laid over the common `data` section, so that the choice is made on other records than the
            result. Without it the held-out part is split anew (`split_seed` + 1).
        choose_by: the lowest held-out `loss`, or the highest `accuracy`: in the first of the `tasks`, or for a task
            with labels what its runs call their best by. None: accuracy with labels, else the loss.
    """

    steps: PositiveInt | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    choose_by: Literal["loss", "accuracy"] | None = None


class TaskSection(Section):
    """What is asked of a trained model.

    Attributes:
        task: `exact_match`, or a task of `zerogate eval`.
        data: the file of questions. `exact_match` without one asks the held-out records of the `data` section.
        limit: ask the first so many only.
        batch_size: questions at a time.
        max_new_tokens: the longest answer. None: the task's own.
        beams: beams of the search. None: the task's own.
        images: which images questions are shown with, for adapters that take some: their `own`, those of `other`
            questions, or `none`. What a model gains over the last two, it gains by seeing.
        allow_leak: ask although training data holds some of the questions.
    """

    task: str
    data: str | None = None
    limit: PositiveInt | None = None
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt | None = None
    beams: PositiveInt | None = None
    images: Literal["own", "other", "none"] = "own"
    allow_leak: bool = False

    @property
    def label(self) -> str:
        """Its name in tables, which tells two files of one task apart, and says what is counted if not answers."""
        label = self.task if self.data is None else f"{self.task} ({Path(self.data).stem.split('.')[0]})"
        label += {"own": "", "other": ", other images", "none": ", no images"}[self.images]
        return f"{label}, BLEU-4" if self.captions else label

    @property
    def captions(self) -> bool:
        """Whether it asks for captions, which are not right or wrong one by one."""
        try:
            return find_task(self.task).family == "captions"
        except UserError:  # `exact_match`, or a name that is refused where questions are read
            return False


class DatasetEntry(Section):
    """One of several data sets, each compared by itself, side by side in one table.

    Attributes:
        name: as it stands in the tables.
        data: settings laid over the common `data` section.
        group: data sets of one group have their mean in the table.
    """

    name: str
    data: dict[str, Any]
    group: str | None = None
