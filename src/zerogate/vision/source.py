"""Where one image is: a file, or bytes that a record holds. Nothing is read until someone asks for it.

source = source_from("pictures/3.png", folder=Path("data"))     # also {"bytes": ...}, a data: URL, a PIL image
source.digest                                                   # the same for the same content, under any name
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from zerogate.errors import UserError
from zerogate.vision.rgb import to_rgb

MAX_BYTES = 50 * 2**20
"""Largest image file that is read: 50 MiB. The largest photographs of current cameras are smaller."""

_ADDRESS = re.compile(r"data:|file:/|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


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
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise UserError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    def open(self) -> BinaryIO:
        """The encoded image as an open file, of which nothing has been read.

        Raises:
            UserError: as `read`.
        """
        if self.path is None:
            assert self.data is not None
            self._within_limit(len(self.data))
            return io.BytesIO(self.data)
        try:
            if not self.path.is_file():  # also keeps a pipe from blocking the run
                raise UserError(f"{self.name}: " + ("not a file" if self.path.exists() else f"no such file {self._at}"))
            self._within_limit(self.path.stat().st_size)
            return self.path.open("rb")
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
        value: a path (relative to `folder`, or absolute; also `file://`, and `~` for a home folder), a `data:` URL,
            `{"bytes": ..., "path": ...}` as Hugging Face data sets have it, encoded bytes, or a PIL image.
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
        case dict() if is_nothing(value):
            raise ValueError("has neither bytes nor a path")
        case dict():
            raise ValueError(f"has the fields {', '.join(map(str, value))}; wanted are bytes or path")
    raise ValueError(f"is {type(value).__name__}, not a path, bytes or an image")


def is_nothing(value: Any) -> bool:
    """Whether a value stands for no image: nothing, an empty text, or Parquet's struct whose fields are all null."""
    if isinstance(value, dict):
        return bool(value) and value.keys() <= {"bytes", "path"} and all(field is None for field in value.values())
    return value is None or (isinstance(value, str | bytes) and not value)


def _from_text(text: str, folder: Path) -> ImageSource:
    if not text.strip():
        raise ValueError("is an empty path")
    scheme = found[0].lower() if (found := _ADDRESS.match(text)) else ""
    if scheme == "data:":
        return ImageSource("(image in a data: URL)", data=_data_url(text))
    path = text
    if scheme.startswith("file:"):
        path = _file_url(text)
    elif scheme:
        raise ValueError(f"is at {text[:80]}: nothing is downloaded; fetch it and name the file")
    if "\0" in path:
        raise ValueError("is a path with a null character")
    return ImageSource(path, path=(folder / _home(path)).absolute())


def is_address(text: str) -> bool:
    """Whether a text is a URL of any kind, and no path: to read it as a path would drop its slashes."""
    return _ADDRESS.match(text) is not None


def _home(text: str) -> Path:
    """A path with `~` as what it stands for; a name that merely begins with one, and is no user's, stays."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _file_url(text: str) -> str:
    try:
        host, path = urlsplit(text).netloc, unquote(urlsplit(text).path)
    except ValueError as error:
        raise ValueError(f"is {text[:80]}, which is no file: URL: {error}") from error
    if host.lower() not in ("", "localhost"):
        raise ValueError(
            f"is {text[:80]}, a file on the machine {host!r}; of this machine it is named with three slashes "
            "(file:///home/me/red.png), or by its path alone"
        )
    return path


def _data_url(text: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma:
        raise ValueError("is a data: URL without data")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except ValueError as error:  # binascii's, and that of letters which are not ASCII
        raise ValueError(f"is a data: URL whose base64 is broken: {error}") from error


def _from_pil(image: Image.Image) -> ImageSource:
    """Kept as PNG, so that it can be told from others, hashed, and sent to another process."""
    buffer = io.BytesIO()
    try:
        to_rgb(image).save(buffer, "PNG", compress_level=1)
    except (OSError, SyntaxError, ValueError) as error:  # a PIL image reads its file as late as here
        raise ValueError(f"cannot be read: {error}") from error
    return ImageSource(str(getattr(image, "filename", "") or "(PIL image)"), data=buffer.getvalue())
