"""Images as they come: every colour mode becomes upright RGB, and what cannot be used is refused in words."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zerogate.errors import UserError
from zerogate.vision import image_size, open_image, source_from
from zerogate.vision.images import MAX_PIXELS, check_image
from zerogate.vision.source import MAX_BYTES, ImageSource

RED = (254, 0, 0)


def noise(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.effect_noise(size, 60).convert("RGB").convert(mode)


def encoded(image: Image.Image, format: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = open_image(ImageSource("x", data=data))
    assert image.mode == "RGB"
    return image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data: a decompression bomb is as small."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_plain_rgb_is_left_as_it_is() -> None:
    image = noise()
    assert np.array_equal(np.asarray(opened(encoded(image, "PNG"))), np.asarray(image))


def test_transparency_is_laid_over_white() -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half.putpixel((0, 0), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 128))
    image = opened(encoded(half, "PNG"))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((3, 3)) == (255, 255, 255)
    assert image.getpixel((1, 0)) == (127, 127, 127)


def test_palettes_with_and_without_a_transparent_colour() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, *RED])
    image.putpixel((0, 0), 0)
    assert opened(encoded(image, "PNG")).getpixel((0, 0)) == (0, 0, 255)
    clear = opened(encoded(image, "PNG", transparency=0))
    assert clear.getpixel((0, 0)) == (255, 255, 255) and clear.getpixel((1, 1)) == RED


def test_grey_with_alpha_and_a_transparent_grey() -> None:
    grey = Image.new("LA", (4, 4), (0, 0))
    grey.putpixel((0, 0), (10, 255))
    image = opened(encoded(grey, "PNG"))
    assert image.getpixel((0, 0)) == (10, 10, 10) and image.getpixel((1, 1)) == (255, 255, 255)
    keyed = opened(encoded(Image.new("L", (4, 4), 7), "PNG", transparency=7))
    assert keyed.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_greyscale_and_black_and_white() -> None:
    cmyk = opened(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    red, green, blue = cmyk.getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15
    assert opened(encoded(Image.new("L", (4, 4), 99), "PNG")).getpixel((0, 0)) == (99, 99, 99)
    assert opened(encoded(Image.new("1", (4, 4), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_and_floats_keep_their_shades() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for format in ("PNG", "TIFF"):
        image = np.asarray(opened(encoded(Image.fromarray(ramp), format)))[..., 0]
        assert np.array_equal(image.reshape(-1), np.arange(256)), format
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert [opened(encoded(floats, "TIFF")).getpixel((x, 0)) for x in range(3)] == [(v,) * 3 for v in (0, 128, 255)]
    whole = Image.fromarray(np.array([[0, 7, 255]], dtype=np.int32))
    assert [opened(encoded(whole, "TIFF")).getpixel((x, 0)) for x in range(3)] == [(v,) * 3 for v in (0, 7, 255)]


@pytest.mark.parametrize("value", [-1.0, 1e6, float("nan"), float("inf")])
def test_values_beyond_any_range_are_refused(value: float) -> None:
    data = encoded(Image.fromarray(np.array([[value, 0.0]], dtype=np.float32)), "TIFF")
    for read in (open_image, check_image):
        with pytest.raises(UserError, match="its values run from"):
            read(ImageSource("x.tif", data=data))


def test_a_turned_photograph_is_turned_upright() -> None:
    image = Image.new("RGB", (60, 40), "white")
    image.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees, clockwise
    upright = opened(encoded(image, "JPEG", exif=exif, quality=100))
    assert upright.size == (40, 60)
    assert upright.getpixel((37, 2))[0] > 240 and upright.getpixel((37, 2))[1] < 30  # type: ignore[index]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "white")]
    settings = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **settings)
    assert opened(data).getpixel((5, 5)) in ((255, 0, 0), RED)
    assert check_image(ImageSource("x", data=data)) == 3


def test_a_jpeg_is_checked_to_its_end() -> None:
    data = encoded(noise(size=(400, 300)), "JPEG")
    assert check_image(ImageSource("x", data=data)) == 1
    for read in (open_image, check_image):
        with pytest.raises(UserError, match="photo: broken or truncated"):
            read(ImageSource("photo", data=data[: len(data) * 9 // 10]))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files(format: str) -> None:
    data = encoded(noise(size=(90, 90)), format)
    assert opened(data).size == (90, 90)
    for read in (open_image, check_image):
        with pytest.raises(UserError, match=r"^x: (broken or truncated|not an image)"):
            read(ImageSource("x", data=data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "x: is empty"),
        (b"hello there", "x: not an image .it begins with b'hello th'"),
        (b"<!DOCTYPE html><html>404</html>", "a web page: the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),  # would start Ghostscript
        (png_header(20_000, 20_000), "over the limit of 50,000,000"),
        (png_header(200_000, 200_000), "over the limit of 50,000,000"),
        (png_header(30_000, 10), "30,000 x 10 pixels; the long side"),
    ],
)
def test_what_is_refused(data: bytes, said: str) -> None:
    for read in (open_image, check_image, image_size):
        with pytest.raises(UserError, match=said):
            read(ImageSource("x", data=data))


def test_limits_hold_to_the_pixel_and_the_byte(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    assert image_size(ImageSource("x", data=png_header(side, side))) == (side, side)
    file = tmp_path / "huge.png"
    with file.open("wb") as opened_file:
        opened_file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"huge\.png: 50 MiB, over the limit of 50 MiB"):
        open_image(source_from("huge.png", tmp_path))


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a/b\.png: no such file \({tmp_path}/a/b\.png\)"):
        open_image(source_from("a/b.png", tmp_path))
    with pytest.raises(UserError, match=r"\.: not a file"):
        open_image(source_from(".", tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: not a file"):
        open_image(source_from("pipe.png", tmp_path))


def test_every_way_to_name_an_image(tmp_path: Path) -> None:
    image = noise()
    data = encoded(image, "PNG")
    (tmp_path / "a b.png").write_bytes(data)
    same = [
        "a b.png",
        tmp_path / "a b.png",
        str(tmp_path / "a b.png"),
        f"file://{tmp_path}/a%20b.png",
        f"FILE://localhost{tmp_path}/a%20b.png",
        f"file:{tmp_path}/a%20b.png",
        data,
        {"bytes": data, "path": "gone.png"},
        {"bytes": None, "path": "a b.png"},
        "data:image/png;base64," + base64.b64encode(data).decode(),
        "DATA:image/png;base64," + base64.b64encode(data).decode(),
    ]
    sources = [source_from(value, tmp_path) for value in same]
    assert {source.digest for source in sources} == {sources[0].digest}
    assert all(np.array_equal(np.asarray(open_image(source)), np.asarray(image)) for source in sources)
    pil = source_from(image.convert("RGBA"), tmp_path)
    assert np.array_equal(np.asarray(open_image(pil)), np.asarray(image))
    assert pil.digest == source_from(image.copy(), tmp_path).digest != source_from(noise(), tmp_path).digest


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is an empty path"),
        (3, "is int, not a path"),
        (None, "is NoneType"),
        ({"url": "x"}, "has the fields url; wanted are bytes or path"),
        ({"bytes": None, "path": None}, "has neither bytes nor a path"),
        ("https://example.org/a.png", "nothing is downloaded"),
        ("HTTPS://example.org/a.png", "nothing is downloaded"),
        ("s3://bucket/a.png", "nothing is downloaded"),
        ("file://red.png", r"is file://red\.png, a file on the machine 'red\.png'.*three slashes"),
        ("file://[red.png", "no file: URL"),
        ("data:image/png;base64,\u00e9", "base64 is broken"),
        ("data:image/png;base64,***", "base64 is broken"),
        ("data:image/png", "without data"),
        ("a\0b", "null character"),
    ],
)
def test_what_names_no_image(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source_from(value, Path("."))


def test_a_name_that_begins_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a home folder's where there is one, and else a name like any other."""
    noise().save(tmp_path / "~a.png")
    assert open_image(source_from("~a.png", tmp_path)).size == (60, 40)
    with pytest.raises(UserError, match=r"~nobody-of-that-name/a\.png: no such file"):
        open_image(source_from("~nobody-of-that-name/a.png", tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_from("~/a.png", Path("/elsewhere")).path == tmp_path / "a.png"


def test_a_size_is_read_from_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(size=(600, 400)).save(tmp_path / "a.png")
    source = source_from("a.png", tmp_path)

    def read(self: Any) -> bytes:
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(ImageSource, "read", read)
    assert image_size(source) == (600, 400)
    (tmp_path / "a.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match="it is a web page"):
        image_size(source)


def test_damaged_files_are_read_or_refused_and_never_crash() -> None:
    """Random damage to every format. What is raised is a `UserError`, and no warning is shown."""
    frames = {"save_all": True, "append_images": [noise()]}
    files = [
        encoded(noise(mode), format, **settings)
        for format, mode, settings in [
            ("PNG", "RGB", {}), ("PNG", "P", {"transparency": 3}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}),
            ("GIF", "P", frames), ("WEBP", "RGB", frames), ("BMP", "RGB", {}), ("TIFF", "RGB", {}), ("PPM", "RGB", {}),
            ("PNG", "RGB", frames),
        ]
    ]  # fmt: skip
    rng = random.Random(0)
    outcomes = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1500):
            data = bytearray(rng.choice(files))
            if rng.random() < 0.3:
                data = data[: rng.randrange(1, len(data))]
            for _ in range(rng.choice([1, 2, 5, 20])):
                data[rng.randrange(min(len(data), rng.choice([200, 10_000])))] = rng.randrange(256)
            for read in (open_image, check_image):
                try:
                    read(ImageSource("x", data=bytes(data)))
                    outcomes["read"] += 1
                except UserError:
                    outcomes["refused"] += 1
    assert min(outcomes.values()) > 300
