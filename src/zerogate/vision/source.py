"""Where one image is: a file, or bytes that a record holds. Nothing is read until someone asks for it.

source = source_from("pictures/3.png", folder=Path("data"))     # also {"bytes": ...}, a data: URL, a PIL image
source.digest                                                   # the same for the same content, under any name
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from zerogate.errors import UserError
from zerogate.vision.rgb import to_rgb

MAX_BYTES = 50 * 2**20
"""Largest image file that is read: 50 MiB. The largest photographs of current cameras are smaller."""


@dataclass(frozen=True)
class ImageSource:
    """One image of a record, not yet read.

    Attributes:
        name: what to call it in messages: as the record wrote it.
        path: the file; None where the record holds the image itself.
        data: the encoded bytes (PNG, JPEG, ...) where there is no file.
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Tells images apart without reading them: the file's place, or the digest of what the record holds."""
        return str(self.path) if self.path is not None else self.digest

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded image, as 64 hexadecimal digits. Computed once for each source.

        Raises:
            UserError: as `read`.
        """
        return hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UserError: no such file, no plain file, not readable, empty, or over `MAX_BYTES`.
        """
        if self.path is None:
            assert self.data is not None
            self._within_limit(len(self.data))
            return self.data
        try:
            if not self.path.is_file():  # also keeps a pipe from blocking the run
                raise UserError(f"{self.name}: " + ("not a file" if self.path.exists() else f"no such file {self._at}"))
            self._within_limit(self.path.stat().st_size)
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    def _within_limit(self, size: int) -> None:
        if size == 0:
            raise UserError(f"{self.name}: is empty")
        if size > MAX_BYTES:
            raise UserError(
                f"{self.name}: {size / 2**20:,.0f} MiB, over the limit of {MAX_BYTES // 2**20} MiB for one image; "
                "scale it down"
            )

    @property
    def _at(self) -> str:
        return f"({self.path})" if str(self.path) != self.name else ""


def source_from(value: Any, folder: Path) -> ImageSource:
    """What a record writes as an image.

    Args:
        value: a path (relative to `folder`, or absolute; also `file://`), a `data:` URL, `{"bytes": ..., "path": ...}`
            as Hugging Face data sets have it, encoded bytes, or a PIL image.
        folder: where relative paths start.

    Raises:
        ValueError: none of these; the message goes on from "the image".
    """
    match value:
        case ImageSource():
            return value
        case Path() | str():
            return _from_text(str(value), folder)
        case bytes():
            return ImageSource("(image in the record)", data=value)
        case {"bytes": bytes() as data, **rest}:
            return ImageSource(str(rest.get("path") or "(image in the record)"), data=data)
        case {"path": str() as path}:
            return _from_text(path, folder)
        case Image.Image():
            return _from_pil(value)
        case dict():
            raise ValueError(f"has the fields {', '.join(map(str, value))}; wanted are bytes or path")
    raise ValueError(f"is {type(value).__name__}, not a path, bytes or an image")


def _from_text(text: str, folder: Path) -> ImageSource:
    if not text.strip():
        raise ValueError("is an empty path")
    if text.startswith("data:"):
        return ImageSource("(image in a data: URL)", data=_data_url(text))
    if text.startswith(("http://", "https://")):
        raise ValueError(f"is at {text[:80]}: nothing is downloaded; fetch it and name the file")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "\0" in text:
        raise ValueError("is a path with a null character")
    return ImageSource(text, path=(folder / Path(text).expanduser()).absolute())


def _data_url(text: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma:
        raise ValueError("is a data: URL without data")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except binascii.Error as error:
        raise ValueError(f"is a data: URL whose base64 is broken: {error}") from error


def _from_pil(image: Image.Image) -> ImageSource:
    """Kept as PNG, so that it can be told from others, hashed, and sent to another process."""
    buffer = io.BytesIO()
    try:
        to_rgb(image).save(buffer, "PNG", compress_level=1)
    except (OSError, SyntaxError, ValueError) as error:  # a PIL image reads its file as late as here
        raise ValueError(f"cannot be read: {error}") from error
    return ImageSource(str(getattr(image, "filename", "") or "(PIL image)"), data=buffer.getvalue())
