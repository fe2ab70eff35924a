"""Where a published data set lies: finds its files in a folder or an archive, or says what was looked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from zerogate.data.archive import is_archive, unpacked
from zerogate.data.image_fields import Images
from zerogate.data.read import read_text
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource

# Archives are often packed with a folder or two around the data set.
_DEPTHS = ("", "*/", "*/*/")


class Place:
    """A data set's folder.

    Attributes:
        path: what the user named, for messages.
        root: the folder; that of the archive's content, or of the file that was named.
        file: the file that was named, if it was one.
        use_images: whether images are wanted.
    """

    def __init__(self, path: str, layout: str, image_folder: Path | None = None, use_images: bool = True) -> None:
        """Take the path (a folder, an archive or a file) and, if they lie elsewhere, where its images are.

        Raises:
            UserError: neither is there, or an archive is broken.
        """
        named = Path(path).expanduser()
        if not named.exists():
            raise UserError(f"data not found: {path} (looked in {Path.cwd()})")
        self.path, self.layout, self.use_images = path, layout, use_images
        self.file = named if named.is_file() and not is_archive(named) else None
        self.root = named if named.is_dir() else named.parent if self.file else unpacked(named)
        self._image_folder = image_folder

    def all(self, *patterns: str) -> list[Path]:
        """Files that fit one of the patterns, the first pattern's first; at the top, or one or two folders down."""
        found = [file for pattern in patterns for depth in _DEPTHS for file in sorted(self.root.glob(depth + pattern))]
        return [file for file in dict.fromkeys(found) if file.is_file()]

    def find(self, *patterns: str, hint: str = "") -> Path:
        """The first of them.

        Raises:
            UserError: there is none; says what was looked for, and what there is.
        """
        found = self.all(*patterns)
        if found:
            return found[0]
        there = sorted(entry.name + "/" * entry.is_dir() for entry in self.root.iterdir())
        shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
        raise UserError(
            f"{self.path} has no {patterns[0].replace('*/', '').replace('*', '')}, so it is no data set of the layout "
            f"{self.layout}: looked for {' or '.join(patterns)}{hint}; there is {shown}"
        )

    def images(self, names: Iterable[str], probes: Iterable[str], archives: Iterable[str] = ()) -> Images:
        """What turns relative paths into images, from the folder where they are.

        Args:
            names: folders that the layout puts them in; the root itself is tried last.
            probes: some of the paths; the folder is the one that has one of them.
            archives: patterns of archives beside the data set that hold them.

        Raises:
            UserError: they are nowhere.
        """
        probes, names = list(islice(probes, 100)), list(names)
        archives = list(archives) if self.use_images else []
        for folder in self._candidates(names, archives):
            if any((folder / probe).is_file() for probe in probes):
                return Images(folder, self.use_images)
        if not self.use_images or not probes:
            return Images(self.root, self.use_images)
        looked = [f"{name}/" for name in names] + archives
        where = str(self._image_folder) if self._image_folder else self.path
        raise UserError(
            f"{where} has no images for {self.layout}: looked for {probes[0]} and others, in "
            f"{', '.join(looked) or 'it'}. Name their folder or archive with data.images, or leave them out with "
            "data.use_images=false"
        )

    def _candidates(self, names: list[str], archives: list[str]) -> Iterator[Path]:
        yield from _inside(self._image_folder or self.root, names)
        if self._image_folder is None:
            for pattern in archives:
                for file in sorted(self.root.glob(pattern)):
                    if file.is_file() and is_archive(file):
                        yield from _inside(unpacked(file), names)

    def read_object(self, file: Path) -> dict[str, Any]:
        """A JSON file that holds one object.

        Raises:
            UserError: it cannot be read, or holds something else.
        """
        found = self.read_json(file)
        if not isinstance(found, dict):
            raise UserError(f"{file}: expected an object, found {type(found).__name__}")
        return found

    def read_json(self, file: Path) -> Any:
        """A JSON file.

        Raises:
            UserError: it cannot be read, or is malformed (with the line).
        """
        try:
            return json.loads(read_text(file))
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {error.lineno}: malformed JSON: {error.msg}") from error

    def no_split(self, split: str, splits: Iterable[str]) -> UserError:
        """The error for a split that is not there."""
        return UserError(
            f"{self.path} has no split {split!r}; it has {', '.join(splits) or 'none'}. Name one as data.split, or as "
            f"{self.path}:SPLIT, also a part of one: {self.path}:train[90%:]"
        )


def _inside(root: Path, names: list[str]) -> Iterator[Path]:
    for depth in _DEPTHS:
        for name in names:
            yield from (folder for folder in sorted(root.glob(depth + name)) if folder.is_dir())
    yield root
    yield from (folder for folder in sorted(root.glob("*")) if folder.is_dir())


def one_image(images: Images, path: str) -> tuple[ImageSource, ...]:
    """The image of a path, as an example holds it: none where images are left out."""
    return (images.source(path),) if images.use else ()
