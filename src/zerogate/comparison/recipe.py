"""The recipe of a comparison: one base and one data set (or a few bases), a list of methods, seeds, and what is asked
at the end.

base:    {name: pocket}
data:    {path: pocket}
train:   {steps: 300, batch_size: 32}
methods:
  - {name: zero-init, adapter: {method: zero_init}, learning_rates: [0.03, 0.1]}
  - {name: LoRA, adapter: {method: lora, r: 3}, learning_rates: [0.003, 0.01]}
seeds:   [0, 1, 2]
sweep:   {steps: 100}
tasks:   [{task: exact_match}]
output:  runs/compare

Every cell (a base, a method, a seed) is an ordinary training run: a recipe made of the common sections, with the
method's own `base`, `data` and `train` settings laid over them. A method with several learning rates tries each in a
short run first (`sweep`), on records of its own, and goes on with the best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.recipe import BaseSection, Recipe, Section
from zerogate.training.recipe_file import parse_recipe, read_settings, validate


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
        choose_by: the lowest held-out `loss`, or the highest accuracy in the first of the `tasks`.
    """

    steps: PositiveInt | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    choose_by: Literal["loss", "accuracy"] = "loss"


class TaskSection(Section):
    """What is asked of a trained model.

    Attributes:
        task: `exact_match`, or a task of `zerogate eval`.
        data: the file of questions. `exact_match` without one asks the held-out records of the `data` section.
        limit: ask the first so many only.
        batch_size: questions at a time.
        max_new_tokens: the longest answer. None: the task's own.
        beams: beams of the search. None: the task's own.
        allow_leak: ask although training data holds some of the questions.
    """

    task: str
    data: str | None = None
    limit: PositiveInt | None = None
    batch_size: PositiveInt = 64
    max_new_tokens: PositiveInt | None = None
    beams: PositiveInt | None = None
    allow_leak: bool = False

    @property
    def label(self) -> str:
        """Its name in tables, which tells two files of one task apart."""
        return self.task if self.data is None else f"{self.task} ({Path(self.data).stem.split('.')[0]})"


class Comparison(Section):
    """A whole comparison.

    Attributes:
        title: over tables and pictures.
        base: the frozen model, or a list of them.
        data: what to learn from, as in a training recipe.
        train: how, as in a training recipe; without a rate where the methods give theirs.
        methods: the contestants.
        seeds: one run each, of weights and order.
        sweep: how rates are chosen.
        tasks: what is asked at the end; the first is what the recommendation goes by.
        base_alone: also ask the base without any adapter.
        output: the folder.
    """

    title: str = "Comparison"
    base: BaseSection | tuple[BaseSection, ...]
    data: dict[str, Any]
    train: dict[str, Any]
    methods: Annotated[tuple[MethodEntry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    sweep: SweepSection = SweepSection()
    tasks: tuple[TaskSection, ...] = ()
    base_alone: bool = True
    output: str

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for what, names in (
            ("methods", [method.name for method in self.methods]),
            ("bases", [base.name for base in self.bases]),
            ("tasks", [task.label for task in self.tasks]),
            ("seeds", list(map(str, self.seeds))),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"two {what} are called {twice[0]!r}; give each a name of its own")
        if self.sweep.choose_by == "accuracy" and not self.tasks:
            raise ValueError("sweep.choose_by is accuracy, but there are no tasks to measure it with")
        return self

    @property
    def bases(self) -> tuple[BaseSection, ...]:
        """The bases, however many were given."""
        return self.base if isinstance(self.base, tuple) else (self.base,)


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        base: the base's name.
        method: the contestant's name; empty for the base alone.
        seed: of weights and order.
        rate: the learning rate; None where the recipe's own stands.
        sweep: whether it is a short run that serves to choose a rate.
        folder: its place under the comparison's output.
    """

    base: str
    method: str
    seed: int
    rate: float | None
    sweep: bool
    folder: Path


def load_comparison(path: str | Path, overrides: list[str] | None = None) -> Comparison:
    """Read and check a comparison, every recipe that it stands for included.

    Raises:
        UserError: what `load_recipe` would say of a training recipe, with the method it concerns.
    """
    settings = read_settings(path, Comparison, overrides)
    comparison = validate(Comparison, settings, str(path))
    for base in comparison.bases:
        for method in comparison.methods:
            for cell in (*sweep_cells(comparison, base, method), *final_cells(comparison, base, method, None)):
                try:
                    cell_recipe(comparison, cell)
                except UserError as error:
                    raise UserError(f"{path}, method {method.name!r}: {error}") from error
    return comparison


def sweep_cells(comparison: Comparison, base: BaseSection, method: MethodEntry) -> list[Cell]:
    """The short runs of a method; none where there is nothing to choose."""
    rates = method.learning_rates or ()
    if len(rates) < 2:
        return []
    seed = comparison.seeds[0]
    place = _place(comparison, base) / "sweep"
    return [Cell(base.name, method.name, seed, r, True, place / f"{file_name(method.name)}-{r:g}") for r in rates]


def final_cells(comparison: Comparison, base: BaseSection, method: MethodEntry, chosen: float | None) -> list[Cell]:
    """The real runs of a method, one per seed; `chosen` is the rate the sweep found."""
    rate = chosen if chosen is not None else method.learning_rates[0] if method.learning_rates else None
    place = _place(comparison, base)
    return [
        Cell(base.name, method.name, seed, rate, False, place / f"{file_name(method.name)}-seed{seed}")
        for seed in comparison.seeds
    ]


def base_cell(comparison: Comparison, base: BaseSection) -> Cell:
    """The base without an adapter: asked, not trained."""
    return Cell(base.name, "", comparison.seeds[0], None, False, _place(comparison, base) / "base-alone")


def cell_recipe(comparison: Comparison, cell: Cell) -> Recipe:
    """The training recipe of a cell.

    Raises:
        UserError: the sections do not make a valid recipe.
    """
    method = next(method for method in comparison.methods if method.name == cell.method)
    base = next(base for base in comparison.bases if base.name == cell.base)
    train = {**comparison.train, **method.train, "seed": cell.seed}
    data = {**comparison.data, **method.data}
    if cell.rate is not None:
        train = {k: v for k, v in train.items() if k != "base_learning_rate"} | {"learning_rate": cell.rate}
    if cell.sweep:
        data |= comparison.sweep.data or {"split_seed": data.get("split_seed", 0) + 1}
        if comparison.sweep.steps is not None:
            train = {k: v for k, v in train.items() if k not in ("epochs", "warmup_epochs", "warmup_steps")}
            train |= {"steps": comparison.sweep.steps, "warmup_steps": max(comparison.sweep.steps // 10, 1)}
            train |= {"evaluate_every": comparison.sweep.steps, "save_every": comparison.sweep.steps}
    settings = {
        "base": {**base.model_dump(exclude_none=True), **method.base},
        "adapter": method.adapter,
        "data": data,
        "train": train,
        "output": str(cell.folder / "run"),
    }
    return parse_recipe(settings, "recipe")


def cell_data(comparison: Comparison, cell: Cell) -> DataSection:
    """The data section that a cell's held-out questions come from; the base alone has the common one."""
    if cell.method:
        return cell_recipe(comparison, cell).data
    return validate(DataSection, comparison.data, "data")


def file_name(name: str) -> str:
    """A method's or a base's name as a folder's."""
    kept = "".join(letter if letter.isalnum() or letter in ".=+" else "-" for letter in name)
    return "-".join(part for part in kept.split("-") if part)


def short_names(bases: Iterable[str]) -> dict[str, str]:
    """What to call each base: the last parts of its name, as few as tell the bases apart."""
    parts = {base: Path(base).parts for base in bases}
    for count in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {base: "/".join(found[-count:]) for base, found in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {base: base for base in parts}


def _place(comparison: Comparison, base: BaseSection) -> Path:
    place = Path(comparison.output) / "cells"
    names = short_names(base.name for base in comparison.bases)
    return place / file_name(names[base.name]) if len(names) > 1 else place
