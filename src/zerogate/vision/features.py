"""Image features, computed once: a file on disk remembers them across epochs and runs.

    features = image_features(sources, encoder)     # digest -> [F]

One SQLite file per encoder and choice of layers; a key is the SHA-256 of the encoded image, so a renamed file costs
nothing and a changed one is seen. SQLite lets several processes write at once and loses nothing when one is killed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zerogate.cache import cache_folder
from zerogate.errors import UserError
from zerogate.vision.encoder import VisionEncoder
from zerogate.vision.images import MAX_PIXELS, image_size, open_image
from zerogate.vision.source import ImageSource

_AT_ONCE = 64
_PIXELS_AT_ONCE = MAX_PIXELS
"""Most pixels of the pictures that are open at one time, 200 MB of them; one alone may have as many."""

_SHOW_PROGRESS_FROM = 4

Item = TypeVar("Item")


def image_features(
    sources: Iterable[ImageSource], encoder: VisionEncoder, folder: Path | None = None
) -> dict[str, Tensor]:
    """Features by digest, from disk where they have been computed before.

    Args:
        sources: the images; the same content counts once.
        encoder: what looks at new ones.
        folder: where they are remembered; `features` in zerogate's cache by default.

    Raises:
        UserError: an image cannot be read (`check_images` looks before), or the folder cannot be written.
    """
    wanted = {source.digest: source for source in sources}
    folder = folder or cache_folder() / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / f"{encoder.identity}.sqlite", timeout=60)) as store:
            return _remembered(store, wanted, encoder)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"cannot remember image features in {folder}: {error}; another place is named with the environment "
            "variable ZEROGATE_CACHE"
        ) from error


def _remembered(
    store: sqlite3.Connection, wanted: Mapping[str, ImageSource], encoder: VisionEncoder
) -> dict[str, Tensor]:
    store.execute("CREATE TABLE IF NOT EXISTS features (digest TEXT PRIMARY KEY, feature BLOB NOT NULL)")
    found = _read(store, list(wanted))
    missing = [source for digest, source in wanted.items() if digest not in found]
    for part in _with_progress(_parts(missing, _AT_ONCE)):
        features_NF = encoder.features(_opened(part))
        rows = [(s.digest, f.numpy().tobytes()) for s, f in zip(part, features_NF, strict=True)]
        with store:
            store.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
        found |= {source.digest: feature for source, feature in zip(part, features_NF, strict=True)}
    return found


def _read(store: sqlite3.Connection, digests: Sequence[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in _parts(digests, 500):
        marks = ", ".join("?" * len(part))
        for digest, blob in store.execute(f"SELECT digest, feature FROM features WHERE digest IN ({marks})", part):
            found[digest] = torch.from_numpy(np.frombuffer(blob, dtype=np.float32).copy())
    return found


def _opened(sources: Sequence[ImageSource]) -> Iterator[Image.Image]:
    """The pictures one by one, opened in parallel and never more of them than memory has room for."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group in _groups(sources):
            yield from pool.map(open_image, group)


def _groups(sources: Iterable[ImageSource]) -> Iterator[list[ImageSource]]:
    """The sources in their order, parted so that the pictures of a group have at most `_PIXELS_AT_ONCE` pixels."""
    group: list[ImageSource] = []
    room = _PIXELS_AT_ONCE
    for source in sources:
        width, height = image_size(source)
        if group and width * height > room:
            yield group
            group, room = [], _PIXELS_AT_ONCE
        group.append(source)
        room -= width * height
    if group:
        yield group


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _with_progress(parts: list[Sequence[ImageSource]]) -> Iterable[Sequence[ImageSource]]:
    """The same, with a bar on standard error where there are many."""
    from rich.console import Console
    from rich.progress import track

    few = len(parts) < _SHOW_PROGRESS_FROM
    return track(parts, "Looking at images", console=Console(stderr=True), transient=True, disable=few)
