"""Folders that are there whole or not at all, and the checkpoints of a run made that way.

A folder is written under a hidden name beside its place, then renamed. A process killed at any moment leaves either
the old folder or the new one. Each checkpoint also carries a list of its files and their sizes, so one that was
damaged later is passed over when a run resumes.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from zerogate.errors import UserError

_MANIFEST = "complete.json"
_NAME = re.compile(r"step-(\d+)")

# What a full disk looks like: the system's error, or what torch and safetensors make of it.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make `target` hold exactly what `write` puts into the folder it is given, all of it or nothing.

    Args:
        target: the folder to make or replace.
        write: fills an empty folder.

    Raises:
        UserError: the disk is full or the place cannot be written. What was there before is still there, nothing
            half written is.
    """
    staging = target.parent / f".{target.name}.new"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write(staging)
        swap_in(staging, target)
    except WRITE_ERRORS as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(f"cannot write {target}: {error}. Nothing half written was left; is the disk full?") from error


def swap_in(staging: Path, target: Path) -> None:
    """Put a finished folder in its place by renaming; the one that was there goes."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    staging = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(text, encoding="utf-8")
        os.replace(staging, target)
    except OSError as error:
        with suppress(OSError):
            staging.unlink()
        raise UserError(f"cannot write {target}: {error}") from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run's checkpoint folder."""
    return folder / f"step-{step:07d}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written after."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None  # `newest` gave it
    return int(match[1])


def seal(checkpoint: Path) -> None:
    """List the files of a finished checkpoint and their sizes in it."""
    sizes = {file.name: file.stat().st_size for file in sorted(checkpoint.iterdir())}
    (checkpoint / _MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there in full."""
    try:
        sizes = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def newest(folder: Path) -> tuple[int, Path] | None:
    """The newest whole checkpoint as (step, folder), or None."""
    whole = [(step, path) for step, path in _checkpoints(folder) if is_whole(path)]
    return max(whole, default=None)


def rotate(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and remains of killed writers."""
    for _, path in sorted(_checkpoints(folder))[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
