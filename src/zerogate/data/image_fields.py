"""The images of a row: the column `image` or `images`, `<image>` in the text, typed parts in a message's content.

An image conditions the whole sequence and takes no place in the text. So `<image>` is cut out of it: with the white
space beside it where it opens or ends a text, as in LLaVA's files, and inside a sentence it becomes "image 1".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zerogate.data.records import Record
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource, is_nothing, source_from

MARKER = "<image>"
COLUMNS = ("images", "image")
PART_TYPES = ("image", "image_url", "input_image")
"""Types of content parts that are images: transformers' and TRL's, OpenAI's two."""


class Images:
    """Turns what rows write into sources, one object for each file however many rows share it."""

    def __init__(self, folder: Path, use: bool = True) -> None:
        """Take the folder where relative paths start, and whether images are wanted at all (else only counted)."""
        self.folder = folder
        self.use = use
        self._known: dict[str, ImageSource] = {}

    def source(self, value: Any) -> ImageSource:
        """One image.

        Raises:
            ValueError: it is none; the message goes on from "the image".
        """
        if not self.use:
            return ImageSource("(left out)", data=b"")
        if isinstance(value, str) and value in self._known:
            return self._known[value]
        source = source_from(value, self.folder)
        if source.path is not None:
            source = self._known.setdefault(str(source.path), source)
        return self._known.setdefault(value, source) if isinstance(value, str) else source

    def of_columns(self, row: dict[str, Any]) -> tuple[ImageSource, ...]:
        """The images of a row's columns: none, one or several.

        Raises:
            ValueError: a value is no image, or both columns have images.
        """
        values = {name: _as_list(row.get(name)) for name in COLUMNS}
        if all(values.values()):
            raise ValueError("the fields 'image' and 'images' both hold images; leave one of them out")
        found = []
        for name, listed in values.items():
            for value in listed:
                try:
                    found.append(self.source(value))
                except ValueError as error:
                    raise ValueError(f"the field {name!r}: the image {error}") from None
        return tuple(found)


def shows_images(row: dict[str, Any]) -> bool:
    """Whether a row has something in an image column. One such row makes `<image>` a marker in all of the data."""
    return any(_as_list(row.get(name)) for name in COLUMNS)


def part_value(part: dict[str, Any]) -> Any:
    """What a content part of an image type shows; None where it only marks the place of the column's next image."""
    keys = ("image", "image_url", "url", "path", "base64")
    value = next((part[key] for key in keys if part.get(key) and not is_nothing(part[key])), None)
    if "base64" in part and value == part["base64"]:
        return f"data:;base64,{value}"
    return value.get("url") if isinstance(value, dict) and "url" in value else value


def place_images(record: Record, images: tuple[ImageSource, ...]) -> Record:
    """Give a record its images and cut the markers out of its text.

    Raises:
        ValueError: there are markers, but not as many as images; or a marker in an answer.
    """
    texts = [text for turn in record.turns for text in (turn.content, turn.input)]
    markers = sum(text.count(MARKER) for text in texts)
    if markers and markers != len(images):
        raise ValueError(f"the text has {markers} times the marker {MARKER}, the row {len(images)} images")
    if any(MARKER in turn.content for turn in record.turns if turn.role == "assistant"):
        raise ValueError(f"an answer holds the marker {MARKER}; only what is asked can show an image")
    worded = iter(_worded(texts, 0))
    turns = [replace(turn, content=next(worded), input=next(worded)) for turn in record.turns]
    return replace(record, turns=tuple(turns), images=images)


def word_markers(texts: Sequence[str], images: int, before: int = 0) -> list[str]:
    """What is asked in one go, with its markers cut out as `place_images` does it. Without images they are text.

    Args:
        texts: the parts of what is asked.
        images: how many images are shown with it.
        before: how many were shown before.

    Raises:
        UserError: there are markers, but not as many as images.
    """
    if not images:
        return list(texts)
    markers = sum(text.count(MARKER) for text in texts)
    if markers not in (0, images):
        raise UserError(
            f"the text has {markers} times the marker {MARKER}, there are {images} images: write one for each, or none"
        )
    return _worded(texts, before)


def _worded(texts: Sequence[str], placed: int) -> list[str]:
    worded = []
    for text in texts:
        worded.append(_without_markers(text, placed))
        placed += text.count(MARKER)
    return worded


def _without_markers(text: str, placed: int) -> str:
    """`placed` is how many markers came before this text."""
    opening = re.match(rf"(?:\s*{MARKER})+\s*", text)
    if opening:
        placed += opening[0].count(MARKER)
        text = text[opening.end() :]
    text = re.sub(rf"\s*(?:{MARKER}\s*)+$", "", text)
    while MARKER in text:
        placed += 1
        text = text.replace(MARKER, f"image {placed}", 1)
    return text


def _as_list(value: Any) -> list[Any]:
    if is_nothing(value):
        return []
    if isinstance(value, list | tuple):
        return [one for one in value if not (isinstance(one, dict) and is_nothing(one))]
    return [value]
