"""The recipe of a comparison: one base and data set (or a few), a list of methods, seeds, and what is asked at the end.

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

Every cell (a base, a method, a seed) is an ordinary training run of the common sections, with the method's own laid
over them. A method with several learning rates tries each in a short run first (`sweep`) and goes on with the best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from zerogate.comparison.sections import DatasetEntry, MethodEntry, SweepSection, TaskSection
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.problems import find_problem
from zerogate.training.recipe import BaseSection, Place, Recipe, Section
from zerogate.training.recipe_file import parse_recipe, read_settings, validate


class Comparison(Section):
    """A whole comparison.

    Attributes:
        title: over tables and pictures.
        task: what is learned, as in a training recipe. With labels, the task's own held-out figures are what counts.
        base: the frozen model, or a list of them.
        data: what to learn from, as in a training recipe.
        datasets: several, in place of one; `data` is what they have in common.
        train: how, as in a training recipe; without a rate where the methods give theirs.
        methods: the contestants.
        seeds: one run each, of weights and order.
        sweep: how rates are chosen.
        tasks: what is asked at the end; the first is what the recommendation goes by.
        base_alone: also ask the base without any adapter.
        advice: end the report with the line that says what to use; not where runs are too short to tell.
        output: the folder.
    """

    title: str = "Comparison"
    task: str = "causal_lm"
    base: BaseSection | tuple[BaseSection, ...]
    data: dict[str, Any] = Field(default_factory=dict)
    datasets: tuple[DatasetEntry, ...] = ()
    train: dict[str, Any]
    methods: Annotated[tuple[MethodEntry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    sweep: SweepSection = SweepSection()
    tasks: tuple[TaskSection, ...] = ()
    base_alone: bool = True
    advice: bool = True
    output: Place

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for what, names in (
            ("methods", [method.name for method in self.methods]),
            ("bases", [base.name for base in self.bases]),
            ("tasks", [task.label for task in self.tasks]),
            ("seeds", list(map(str, self.seeds))),
            ("datasets", [dataset.name for dataset in self.datasets]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"two {what} are called {twice[0]!r}; give each a name of its own")
            places: dict[str, str] = {}
            for name in names if what in ("methods", "datasets") else ():
                if (other := places.setdefault(file_name(name), name)) != name:
                    raise ValueError(f"the {what} {other!r} and {name!r} would share a folder; name one otherwise")
        if self.sweep.choose_by == "accuracy" and not self.tasks and not self.labelled:
            raise ValueError("sweep.choose_by is accuracy, but there are no tasks to measure it with")
        if self.labelled and self.tasks:
            raise ValueError(f"tasks are asked of language models; {self.task} has held-out figures of its own")
        if not self.data and not self.datasets:
            raise ValueError("give data, or datasets")
        return self

    @property
    def labelled(self) -> bool:
        """Whether it is about a task with labels."""
        return self.task != "causal_lm"

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
    for one, base, method in (
        (one, base, method)
        for one in each_dataset(comparison).values()
        for base in comparison.bases
        for method in comparison.methods
    ):
        for cell in (*sweep_cells(one, base, method), *final_cells(one, base, method, None)):
            try:
                cell_recipe(one, cell)
            except UserError as error:
                raise UserError(f"{path}, method {method.name!r}: {error}") from error
    return comparison


def each_dataset(comparison: Comparison) -> dict[str, Comparison]:
    """A comparison by data set, each in a folder of its own; one of one data set is itself, without a name."""
    if not comparison.datasets:
        return {"": comparison}
    return {
        dataset.name: comparison.model_copy(
            update={
                "title": f"{comparison.title}: {dataset.name}",
                "data": {**comparison.data, **dataset.data},
                "datasets": (),
                "output": str(Path(comparison.output) / file_name(dataset.name)),
            }
        )
        for dataset in comparison.datasets
    }


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


def sweep_figure(comparison: Comparison) -> str | None:
    """The accuracy that chooses among a sweep's runs, or None for the held-out loss."""
    choose_by = comparison.sweep.choose_by or ("accuracy" if comparison.labelled else "loss")
    if choose_by == "loss":
        return None
    if not comparison.labelled:
        return comparison.tasks[0].label
    recipe = cell_recipe(comparison, base_cell(comparison, comparison.bases[0]))
    return find_problem(recipe).merit.key.removeprefix("eval_")


def cell_recipe(comparison: Comparison, cell: Cell) -> Recipe:
    """The training recipe of a cell; of the base alone the first method's, for what it says of base and data.

    Raises:
        UserError: the sections do not make a valid recipe.
    """
    method = next((method for method in comparison.methods if method.name == cell.method), comparison.methods[0])
    base = next(base for base in comparison.bases if base.name == cell.base)
    train = {**comparison.train, **method.train, "seed": cell.seed}
    data = {**comparison.data, **method.data}
    rate = cell.rate if cell.method else (method.learning_rates or (None,))[0]
    if rate is not None:
        train = {k: v for k, v in train.items() if k != "base_learning_rate"} | {"learning_rate": rate}
    if cell.sweep:
        data = _sweep_data(comparison, data)
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
    if comparison.labelled:
        settings["task"] = comparison.task
    return parse_recipe(settings, "recipe")


def _sweep_data(comparison: Comparison, final: dict[str, Any]) -> dict[str, Any]:
    """A sweep's data: records that the result is measured on are neither learned nor measured on."""
    data = {**final, **(comparison.sweep.data or {"split_seed": final.get("split_seed", 0) + 1})}
    same = all(data.get(key) == final.get(key) for key in ("path", "split", "labels"))
    if same and isinstance(final.get("held_out"), int):
        data["set_aside"] = {key: final[key] for key in ("held_out", "split_seed", "limit") if key in final}
    return data


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
