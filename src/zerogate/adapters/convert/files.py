"""Reading checkpoints that may be pickles, and writing files and folders so that nothing is ever half there."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_OF_AN_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "README.md")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def read_pickle(path: Path) -> Any:
    """A `.pth` or `.bin` through `torch.load(weights_only=True)`, on the CPU; never an arbitrary pickle.

    Of Python's classes, `argparse.Namespace` is allowed besides torch's own list: the official training script stores
    its arguments in one, and it only holds values.

    Raises:
        ValueError: Not a torch checkpoint, cut short, or it needs another class or function, which is named.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped, so that a whole training checkpoint of 13 GB costs only the adapter's part of it.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch puts pages of advice around its message; the message itself is what that was raised from.
        reason = str(error.__context__ or error)
        asks = re.search(r"GLOBAL (\S+)", reason)
        if asks is None:
            raise ValueError(f"{path} is not a checkpoint that can be read safely: {reason.splitlines()[0]}") from error
        raise ValueError(
            f"{path} is refused: opening it would call {asks[1]}, and a pickle that calls more than tensors and plain "
            "values need can run any code. If you trust its source, load it there with torch.load(..., "
            "weights_only=False) and save the tensors alone."
        ) from error
    except (EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        detail = str(error).split("\n")[0][:300] or type(error).__name__
        raise ValueError(f"{path} is not a whole torch checkpoint: {detail}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        ValueError: There is none, or it is not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def tensors_only(state: Any, path: Path) -> dict[str, Tensor]:
    """`state`, made sure to be a dict of tensors by name.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} does not hold a table of tensors by name, so it is no adapter.")
    return state


def to_bytes(state: dict[str, Any]) -> bytes:
    """`state` as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def cast(tensor: Tensor, dtype: str) -> Tensor:
    """A contiguous tensor of its own in `dtype`, `float32` or `bfloat16`.

    Raises:
        ValueError: Another dtype.
    """
    check_dtype(dtype)
    return tensor.detach().to(DTYPES[dtype]).contiguous().clone()


def check_dtype(dtype: str) -> None:
    """Raises ValueError unless adapters can be stored in `dtype`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: adapters are stored in {' or '.join(DTYPES)}.")


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Writes a file under a temporary name beside its place and renames it: it is there whole or not at all.

    Raises:
        ValueError: Something is in its place and may not be overwritten, or it is a folder.
        OSError: The disk is full, or may not be written to.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and this format is a single file: give the file's name.")
    with _partial(path, overwrite) as partial:
        partial.write_bytes(content)
        os.replace(partial, path)


def write_folder(path: Path, files: dict[str, bytes], *, overwrite: bool = False) -> None:
    """Writes a folder under a temporary name beside its place and renames it.

    Only a folder with an adapter's files and nothing else is ever replaced, whatever `overwrite` says.

    Raises:
        ValueError: Something is in its place and may not be overwritten.
        OSError: The disk is full, or may not be written to.
    """
    if overwrite and path.exists():
        there = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
        if other := sorted(name for name in there if name not in _OF_AN_ADAPTER):
            raise ValueError(
                f"{path} holds more than an adapter ({other[0]}), so it is not replaced. Give another name."
            )
    with _partial(path, overwrite) as partial:
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
        if path.exists():
            old = _beside(path, "old")
            os.replace(path, old)  # a folder with content cannot be replaced in one step
            try:
                os.replace(partial, path)
            except OSError:
                os.replace(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.replace(partial, path)


def check_free(path: Path, overwrite: bool) -> None:
    """Raises ValueError if there is something at `path` already and it may not be overwritten."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already. Give another name, or allow it to be replaced (--overwrite).")


@contextmanager
def _partial(path: Path, overwrite: bool) -> Iterator[Path]:
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path, "partial")
    _remove(partial)
    try:
        yield partial
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{kind}-{os.getpid()}"
