"""NLVR: is a sentence true of a picture? Three boxes of coloured shapes, the boxes in each of their six orders.

    dev.json                     one JSON object a line: sentence, label ("true" or "false"), identifier, directory
    images/2/dev-1572-0-3.png    directory, split, identifier, and the order of the boxes, 0 to 5

Each order is an example of its own, as in the published figures. All orders of one scene are one group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import Place, one_image
from zerogate.data.read import read_rows
from zerogate.errors import UserError

INSTRUCTION = "Is the sentence true of the picture? Answer true or false."
WORDS = ("true", "false")
_SPLITS = ("train", "dev", "test", "test-hidden")
_ORDERS = 6


def read(place: Place, split: str) -> list[Example]:
    """Read a split.

    Raises:
        UserError: no such files, an unknown split, or a row without its fields.
    """
    wanted = [f"{name}.json*" for name in _SPLITS]
    if place.file is not None:
        if place.file.name.split(".")[0] not in _SPLITS:
            raise place.wrong_file(", ".join(f"{name}.json" for name in _SPLITS))
        found = [place.file]
    else:
        place.find(*wanted, hint=", and the pictures as images/2/dev-1572-0-3.png")
        found = place.all(*wanted)
    files = {file.name.split(".")[0]: file for file in found}
    if split not in files:
        raise place.no_split(split, files)
    file = files[split]
    rows = read_rows(str(file))
    for number, row in rows:
        _check(row, f"{file}, row {number}")
    probes = (_path(row, split, order) for _, row in rows for order in range(_ORDERS))
    images = place.images([str(file.parent.relative_to(place.root) / "images"), "images"], probes)
    return [
        Example(
            number,
            INSTRUCTION,
            (row["label"],),
            row["label"],
            input=row["sentence"],
            group=f"scene {row['identifier']}",
            kinds=("true or false",),
            **one_image(images, _path(row, split, order)),
        )
        for number, row in rows
        for order in _orders(images.folder, row, split)
    ]


def _orders(folder: Path, row: dict[str, Any], split: str) -> list[int]:
    """The orders that are there; the first where there is none, so that the check of images names it."""
    return [order for order in range(_ORDERS) if (folder / _path(row, split, order)).is_file()] or [0]


def _path(row: dict[str, Any], split: str, order: int) -> str:
    name = f"{split}-{row['identifier']}-{order}.png"
    return f"{row['directory']}/{name}" if row.get("directory") else name


def _check(row: dict[str, Any], where: str) -> None:
    missing = [name for name in ("sentence", "label", "identifier") if not isinstance(row.get(name), str)]
    if missing:
        raise UserError(
            f"{where}: no field {', '.join(map(repr, missing))} with text; NLVR has sentence, label, identifier"
        )
    if row["label"] not in WORDS:
        raise UserError(f"{where}: the label {row['label']!r} is neither true nor false")
