"""Pictures sorted into classes: a folder, or a tar of one, with a subfolder per class.

photos/cat/1.png  photos/dog/2.png            one part, to be split
photos/train/cat/1.png  photos/test/dog/2.png  parts by name
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from zerogate.errors import UserError
from zerogate.vision.rgb import to_rgb

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Beyond this a picture is more likely a mistake, or made to fill the memory, than one to classify.
_MOST_PIXELS = 64_000_000
# What PIL's readers raise on damaged files.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One picture and its class.

    Attributes:
        name: where it lies, for messages.
        label: its class.
        data: the file's bytes.
    """

    name: str
    label: str
    data: bytes


def read_pictures(path: str | Path, split: str | None, elsewhere: list[str] | None = None) -> list[Picture]:
    """Read a folder or a tar (also `.gz`, `.xz`, `.bz2`) of classes.

    Args:
        path: the folder or archive.
        split: the part to read: a folder above the classes; None where there are no parts.
        elsewhere: takes the names of the part's pictures that are left out, as they lie above or below a class's own.

    Returns:
        In the order of their names.

    Raises:
        UserError: nothing there, no such part, or no pictures in it.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"data.path {path} does not exist: give a folder with a subfolder per class, or a tar of one")
    depth = 2 if split is None else 3
    found, parts = [], set()
    for name, read in _files(path):
        inner = PurePosixPath(name).parts
        if PurePosixPath(name).suffix.lower() not in _ENDINGS:
            continue
        parts.add(inner[0])
        if split is not None and inner[0] != split:
            continue
        if len(inner) == depth:
            found.append(Picture(name, inner[-2], read()))
        elif elsewhere is not None:
            elsewhere.append(name)
    if not found:
        wanted = f"{split}/CLASS/PICTURE" if split is not None else "CLASS/PICTURE"
        there = f"; the folders there are {', '.join(sorted(parts)[:8])}" if parts else ""
        raise UserError(f"{path} has no pictures at {wanted}{there}. data.split names the part to learn from")
    return sorted(found, key=lambda picture: picture.name)


def list_pictures(path: Path) -> list[Path]:
    """A picture, or all in a folder and below it, in the order of their names.

    Raises:
        UserError: nothing there, or no picture in it.
    """
    if path.is_file():
        return [path]
    found = sorted(f for f in path.rglob("*") if f.suffix.lower() in _ENDINGS and f.is_file()) if path.is_dir() else []
    if not found:
        raise UserError(f"{path} {'holds no pictures' if path.is_dir() else 'does not exist'}")
    return found


def decode(picture: Picture) -> Image.Image:
    """The picture in RGB and upright, its first frame where it moves, as records' images are shown (`vision.rgb`).

    Raises:
        UserError: it cannot be read, or is too large.
    """
    try:
        image = Image.open(io.BytesIO(picture.data))
        if image.width * image.height > _MOST_PIXELS:
            raise UserError(f"{picture.name} has {image.width} x {image.height} pixels, more than {_MOST_PIXELS:,}")
        return to_rgb(image)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"{picture.name} cannot be read as a picture: {error}") from error


def check_pictures(pictures: Iterable[Picture], most: int = 10) -> None:
    """Decode every picture once, on all cores, so that none ends a run half way.

    Raises:
        UserError: those that cannot be read, by name.
    """

    def fault(picture: Picture) -> str | None:
        try:
            decode(picture)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [found for found in pool.map(fault, pictures) if found is not None]
    if faults:
        more = f"\n  and {len(faults) - most:,} more" if len(faults) > most else ""
        listed = "".join(f"\n  {one}" for one in faults[:most])
        raise UserError(f"{len(faults):,} pictures cannot be used; mend them or take them out:{listed}{more}")


def _files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield file.relative_to(path).as_posix(), file.read_bytes
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None  # it is a file
                    yield member.name.removeprefix("./"), stream.read
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is neither a folder nor a tar of pictures: {error}") from error
