"""Open an image as RGB, within limits, or say what is wrong with it.

    image = open_image(source)                # PIL, mode RGB, upright
    width, height = image_size(source)        # from the header alone

Every fault is a `UserError` that names the image. Only formats that PIL reads by itself are tried (PostScript, for
one, would start another program). Of an animated or multi-page image the first frame is taken.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from zerogate.errors import UserError
from zerogate.vision.rgb import to_rgb
from zerogate.vision.source import ImageSource

MAX_PIXELS = 50_000_000
"""Most pixels of an image, as its header states them: 150 MB once it is unpacked."""

MAX_RATIO = 100
"""Longest side over the shortest. Encoders scale the shortest side up, which makes a thin line of pixels enormous."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is read; photographs with a second picture inside (MPO) count as JPEG."""

# Modes that become RGB whatever their values are: a check can leave that out.
_ALWAYS_RGB = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# What PIL's readers raise on damaged files: the first five were seen in 50,000 files with random damage.
_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, IndexError,
    KeyError, EOFError, OverflowError, struct.error, zlib.error,
)  # fmt: skip


def open_image(source: ImageSource) -> Image.Image:
    """Read an image.

    Returns:
        Mode RGB, 8 bits a channel, turned upright, transparency laid over white.

    Raises:
        UserError: missing, empty, not an image, broken or truncated, too large, too thin, or of an unknown colour mode.
    """
    with _opened(source) as image:
        return to_rgb(image)


def image_size(source: ImageSource) -> tuple[int, int]:
    """(width, height) in pixels as the file's header has them, before it is turned upright.

    Raises:
        UserError: as `open_image`, but for what only shows when the pixels are read.
    """
    with _opened(source, header_only=True) as image:
        return image.size


def check_image(source: ImageSource) -> int:
    """Read an image to its end, as cheaply as it can be done.

    Returns:
        How many frames it has.

    Raises:
        UserError: as `open_image`.
    """
    with _opened(source) as image:
        frames = int(getattr(image, "n_frames", 1))  # PIL sets it only on formats that can have several
        if image.format in ("JPEG", "MPO"):
            # An eighth of the size: every byte of the file is still decoded, at a third of the time.
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        if image.mode not in _ALWAYS_RGB:
            to_rgb(image)
    return frames


@contextmanager
def _opened(source: ImageSource, header_only: bool = False) -> Iterator[Image.Image]:
    """The image with its header read; what goes wrong inside the `with` is said in our words, too.

    With `header_only` no more than that is read of its file.
    """
    with source.open() if header_only else io.BytesIO(source.read()) as file, _image_in(file, source) as image:
        yield image


@contextmanager
def _image_in(file: BinaryIO, source: ImageSource) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # PIL's own limit, remarks on odd metadata: we have our limits, and the picture is what matters.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                _within_limits(source, image.width, image.height)
                yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        file.seek(0)
        like = _looks_like(file.read(512))
        raise UserError(f"{source.name}: not an image ({like}; known: {', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{source.name}: over the limit of {MAX_PIXELS:,} pixels; scale it down") from error
    except _BROKEN as error:
        raise UserError(f"{source.name}: broken or truncated: {error or type(error).__name__}") from error


def _within_limits(source: ImageSource, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{source.name}: {width:,} x {height:,} pixels, over the limit of {MAX_PIXELS:,}; scale it down"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            f"{source.name}: {width:,} x {height:,} pixels; the long side may have {MAX_RATIO} times the short one's"
        )


def _looks_like(data: bytes) -> str:
    head = data.lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page: the download failed"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run git lfs pull"
    if head.startswith((b"<svg", b"<?xml")):
        return "it looks like SVG or other XML"
    return f"it begins with {data[:8]!r}"
