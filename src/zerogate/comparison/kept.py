"""A cell's file: what it is to do, its result once that is done, and whether the result is of the same settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zerogate.comparison.cell import Result
from zerogate.comparison.recipe import Cell, Comparison, cell_data, cell_recipe
from zerogate.comparison.sections import TaskSection
from zerogate.data.jsonl import changed_settings
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.recipe import BaseSection
from zerogate.training.recipe_file import parse_recipe, validate


def cell_spec(comparison: Comparison, cell: Cell, adapter: dict[str, Any] | None) -> dict[str, Any]:
    """What `zerogate.comparison.cell` reads.

    Args:
        comparison: the whole.
        cell: which one.
        adapter: the method's settings with the libraries' defaults; None where every weight is trained.
    """
    tasks = comparison.tasks if not cell.sweep else ()
    if cell.sweep and comparison.sweep.choose_by == "accuracy":
        tasks = comparison.tasks[:1]
    base = next(base for base in comparison.bases if base.name == cell.base)
    return {
        "cell": {key: value for key, value in asdict(cell).items() if key != "folder"},
        "recipe": cell_recipe(comparison, cell).model_dump(mode="json") if cell.method or comparison.labelled else None,
        "adapter": adapter,
        "base": base.model_dump(mode="json"),
        "data": None if comparison.labelled else cell_data(comparison, cell).model_dump(mode="json"),
        "tasks": [task.model_dump(mode="json") for task in tasks],
    }


def read_result(cell: Cell) -> Result | None:
    """The result of a finished cell, or None."""
    file = cell.folder / "result.json"
    return Result(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def refuse_others(spec: dict[str, Any], folder: Path) -> None:
    """Refuse a result that was made under other settings: of the recipe, the base, the data or the questions.

    Args:
        spec: what the cell should be now.
        folder: of the finished cell.

    Settings that did not exist when it was made had their defaults; defaults of the libraries that have changed since
    are a difference like any other.

    Raises:
        UserError: which settings differ.
    """

    def filled(kind: type[BaseModel], section: dict[str, Any] | None) -> dict[str, Any]:
        return {} if section is None else validate(kind, section, str(folder)).model_dump(mode="json")

    def settings(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["recipe"] is not None:
            recipe = parse_recipe(spec["recipe"], str(folder)).model_dump(mode="json")
        else:
            recipe = {"base": filled(BaseSection, spec["base"]), "data": filled(DataSection, spec["data"])}
        sections = {name: values for name, values in recipe.items() if isinstance(values, dict)}
        keys = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
        return {**keys, "tasks": [filled(TaskSection, task) for task in spec["tasks"]]}

    kept = json.loads((folder / "cell.json").read_text())
    was, now = (one.get("adapter") or {} for one in (kept, spec))
    defaults = {key: (was[key], now[key]) for key in was if key in now}  # what only one version knows had no effect
    changed = changed_settings(
        settings(kept) | {f"adapter.{key}": old for key, (old, _) in defaults.items()},
        settings(spec) | {f"adapter.{key}": new for key, (_, new) in defaults.items()},
    )
    if changed:
        raise UserError(
            f"{folder} holds a result of other settings than the recipe has now ({changed}); delete that folder "
            "to run it again, or choose another output="
        )
