"""A run's folder: who may write to it, and what is written there besides checkpoints and adapters.

recipe.yaml  versions.json  metrics.jsonl  summary.json  loss.png  gates.png  best/  last/  checkpoints/
"""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from zerogate.errors import UserError
from zerogate.training.checkpoints import newest, write_text
from zerogate.training.recipe import Recipe
from zerogate.training.recipe_file import dump_recipe

_LIBRARIES = ("zerogate", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "safetensors")
_OURS = (
    "recipe.yaml",
    "versions.json",
    "metrics.jsonl",
    "summary.json",
    "loss.png",
    "gates.png",
    "metric.png",
    "best",
    "last",
    "checkpoints",
)


def versions() -> dict[str, str]:
    """Versions of Python and the libraries a run depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def open_run(recipe: Recipe, resume: bool, overwrite: bool) -> Path | None:
    """Make the run folder ready, or refuse it.

    Args:
        recipe: of the run that wants the folder.
        resume: go on with the run that is there.
        overwrite: delete the run that is there.

    Returns:
        The checkpoint to resume from, or None to start from the beginning.

    Raises:
        UserError: the folder holds a run and neither was asked for; or a resumed recipe has changed; or it cannot
            be written.
    """
    folder = Path(recipe.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output {folder} is a file, not a folder")
    if (folder / "recipe.yaml").exists():
        if overwrite:
            _delete(folder)
        elif not resume:
            raise UserError(
                f"{folder} already holds a run: go on with it (--resume), replace it (--overwrite), or choose "
                f"another output="
            )
        else:
            _same_recipe(folder, recipe)
    write_text(folder / "recipe.yaml", dump_recipe(recipe))
    write_text(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
    found = newest(folder / "checkpoints") if resume else None
    return found[1] if found else None


def read_finished(recipe: Recipe) -> dict[str, Any] | None:
    """The summary of a recipe's run where that is finished; None where it is not, or there is no run.

    Raises:
        UserError: the folder holds a run of another recipe, finished or not, or a finished one whose recipe is gone.
    """
    folder = Path(recipe.output)
    summary = read_summary(folder)
    if (folder / "recipe.yaml").exists():
        _same_recipe(folder, recipe)
    elif summary is not None:
        raise UserError(
            f"{folder} holds a finished run without its recipe.yaml, so nothing says what was trained there; put the "
            f"file back, choose another output, or --overwrite"
        )
    return summary


def recipe_changes(folder: Path, recipe: Recipe) -> list[str]:
    """The settings in which a recipe differs from that of the run in a folder, each as `key: there -> here`.

    Where results are written and reported makes no difference. Empty where the folder holds no run.
    """
    file = folder / "recipe.yaml"
    if not file.exists():
        return []
    old, new = yaml.safe_load(file.read_text(encoding="utf-8")), yaml.safe_load(dump_recipe(recipe))
    return [change for change in _differences(old, new) if not change.startswith(("output:", "report_to:"))]


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`; that it is there says the run is finished."""
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    file = folder / "summary.json"
    if not file.is_file():
        return None
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return summary


def _delete(folder: Path) -> None:
    # Only what a run of ours makes: the folder may hold other things of the user's.
    for name in _OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _same_recipe(folder: Path, recipe: Recipe) -> None:
    changed = recipe_changes(folder, recipe)
    if changed:
        raise UserError(
            f"{folder} was started with another recipe ({'; '.join(changed[:5])}); resume with the same one, choose "
            f"another output, or --overwrite"
        )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            d for key in keys for d in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    return [] if old == new else [f"{where}: {old} -> {new}"]
