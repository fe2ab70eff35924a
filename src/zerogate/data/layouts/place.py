"""Where a published data set lies: finds its files in a folder or an archive, or says what was looked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from zerogate.data.archive import is_archive, unpacked
from zerogate.data.image_fields import Images
from zerogate.data.read import read_text
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource

# Archives are often packed with a folder or two around the data set.
_DEPTHS = ("", "*/", "*/*/")

WAY_OUT = "Name their folder or archive with data.images, or leave them out with data.use_images=false"
"""What to do about images that are nowhere, in a recipe."""


class Place:
    """A data set's folder.

    Attributes:
        path: what the user named, for messages.
        root: the folder; that of the archive's content, or of the file that was named.
        file: the file that was named, if it was one. A layout reads it, and no other in its place, or refuses it.
        use_images: whether images are wanted.
        told: called with what a user should know of the data, in words.
    """

    def __init__(
        self,
        path: str,
        layout: str,
        image_folder: Path | None = None,
        use_images: bool = True,
        way_out: str = WAY_OUT,
        told: Callable[[str], None] | None = None,
    ) -> None:
        """Take the path (a folder, an archive or a file) and, if they lie elsewhere, where its images are.

        Args:
            path: what the user named.
            layout: whose layout it has, for messages.
            image_folder: the folder of its images.
            use_images: whether images are wanted.
            way_out: what errors say to do about images that are nowhere.
            told: see above; by default nobody is told.

        Raises:
            UserError: neither is there, or an archive is broken.
        """
        named = Path(path).expanduser()
        if not named.exists():
            raise UserError(f"data not found: {path} (looked in {Path.cwd()})")
        self.path, self.layout, self.use_images = path, layout, use_images
        self.file = named if named.is_file() and not is_archive(named) else None
        self.root = named if named.is_dir() else named.parent if self.file else unpacked(named)
        self._image_folder, self._way_out = image_folder, way_out
        self.told: Callable[[str], None] = told or (lambda line: None)

    def all(self, *patterns: str) -> list[Path]:
        """Files that fit one of the patterns, the first pattern's first; at the top, or one or two folders down.

        Where a file was named, those beside it only: further down is another data set.
        """
        depths = _DEPTHS if self.file is None else _DEPTHS[:1]
        found = [file for pattern in patterns for depth in depths for file in sorted(self.root.glob(depth + pattern))]
        return [file for file in dict.fromkeys(found) if file.is_file()]

    def find(self, *patterns: str, hint: str = "", above: str = "") -> Path:
        """The first of them.

        Args:
            patterns: as for `all`.
            hint: what else the layout wants, for the error.
            above: a name to look for in the folder above, last; not above an archive.

        Raises:
            UserError: there is none; says what was looked for, and what there is.
        """
        found = self.all(*patterns)
        if not found and above and not is_archive(Path(self.path)):
            found = [file for file in sorted(self.root.resolve().parent.glob(above)) if file.is_file()]
        if found:
            return found[0]
        there = sorted(entry.name + "/" * entry.is_dir() for entry in self.root.iterdir())
        shown = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") or "nothing"
        looked = " or ".join([*patterns, *([f"../{above}"] if above else [])])
        raise UserError(
            f"{self.path} has no {patterns[0].replace('*/', '').replace('*', '')}, so it is no data set of the layout "
            f"{self.layout}: looked for {looked}{hint}; there is {shown}"
        )

    def wrong_file(self, expected: str) -> UserError:
        """The error for a file that was named and is none of the layout's."""
        return UserError(
            f"{self.path} is no file of the layout {self.layout}, which has {expected}: name that file, or the data "
            "set's folder or archive"
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
            f"{', '.join(looked) or 'it'}. {self._way_out}"
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


class Shown(TypedDict, total=False):
    """The fields of an example that say what it shows."""

    images: tuple[ImageSource, ...]
    left_out: tuple[str, ...]


def one_image(images: Images, path: str) -> Shown:
    """The image of a path, as an example holds it: only its name where images are left out."""
    return {"images": (images.source(path),)} if images.use else {"left_out": (path,)}
