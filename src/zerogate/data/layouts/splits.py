"""Names of splits and parts of them, counted in images: `train`, `train[:90%]`, `dev[100:]`.

The brackets are those of Hugging Face's data sets. A part is cut between groups (`cluster`), in the order of the file:
no image stands in both `train[:90%]` and `train[90%:]`.
"""

from __future__ import annotations

import re
from pathlib import Path

from zerogate.data.layouts.example import Example
from zerogate.data.split import cluster
from zerogate.errors import UserError

Bounds = tuple[str, str] | None

_SPLIT = re.compile(r"(?P<name>[\w-]+)(?:\[(?P<low>-?\d+%?)?:(?P<high>-?\d+%?)?\])?")
_WITH_PATH = re.compile(rf"(?P<path>.+?):(?P<split>{_SPLIT.pattern})")


def path_and_split(path: str, split: str) -> tuple[str, str]:
    """`PATH:SPLIT` in its two parts; a path without a split keeps the other argument's."""
    match = _WITH_PATH.fullmatch(path)
    if match is None or Path(path).expanduser().exists():
        return path, split
    return match["path"], match["split"]


def parse_split(text: str) -> tuple[str, Bounds]:
    """The split's name, and the bounds in its brackets or None.

    Raises:
        UserError: it is no split.
    """
    match = _SPLIT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"data.split={text!r} is no split; such as train, train[:90%], dev[100:]")
    return match["name"], (match["low"] or "0", match["high"] or "") if "[" in text else None


def take_slice(examples: list[Example], bounds: Bounds, where: str) -> list[Example]:
    """The part of the examples between two bounds, in groups or per cent of the groups.

    Raises:
        UserError: nothing lies between them.
    """
    if bounds is None:
        return examples
    groups = cluster(examples)
    low, high = (_position(bound, len(groups)) for bound in (bounds[0], bounds[1] or "100%"))
    chosen = sorted(index for group in groups[low:high] for index in group)
    if not chosen:
        raise UserError(f"{where} holds nothing: there are {len(groups)} images or groups of them")
    return [examples[index] for index in chosen]


def _position(bound: str, groups: int) -> int:
    number = int(bound.rstrip("%"))
    if bound.endswith("%"):
        number = round(number * groups / 100)
    return max(0, groups + number) if bound.startswith("-") else number
