"""Any PIL image as eight-bit RGB, upright: what a vision encoder is given.

| input | becomes |
|---|---|
| transparency (RGBA, LA, palette or PNG colour key) | laid over white |
| 16-bit greyscale | the upper eight bits |
| 32-bit integers and floats | by the range of their values: 0 to 1, to 255, or to 65,535 |
| CMYK, YCbCr, palette, greyscale, black and white | RGB |
| a turned photograph (EXIF orientation) | turned upright |
"""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image; an animated one gives the frame that it stands at, the first when just opened.

    Returns:
        A new image of mode RGB.

    Raises:
        ValueError: values that fit no range, or a mode that PIL cannot convert (LAB).
        OSError, SyntaxError: what PIL raises for a broken file when it has not been read yet.
    """
    image.load()
    image = _upright(image)
    if image.mode in _DEEP:
        image = _eight_bits(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        # La and RGBa hold colours already multiplied by alpha; PIL divides them when it converts.
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error, OverflowError):
        return image  # broken notes on the camera do not spoil the picture


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of more than eight bits, as mode L."""
    values_HW = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        top = 65535.0
    else:
        low, high = float(values_HW.min()), float(values_HW.max())
        # NaN and infinity fail both comparisons, too.
        if not (low >= 0 and high <= 65535):
            raise ValueError(f"its values run from {low:g} to {high:g}: save it with eight or sixteen bits")
        top = 65535.0 if high > 255 else 255.0 if high > 1 or image.mode == "I" else 1.0
    grey_HW = np.floor(values_HW * (256 / (top + 1))) if top == 65535.0 else np.rint(values_HW * (255 / top))
    grey = Image.fromarray(grey_HW.astype(np.uint8))
    if isinstance(key := image.info.get("transparency"), int):  # a PNG's transparent grey, in its sixteen bits
        alpha = Image.fromarray(np.where(values_HW == key, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey
