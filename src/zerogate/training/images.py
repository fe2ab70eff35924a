"""What a run does with images: the encoder that the adapter names, and what it makes of every image of the data."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from zerogate.data.encode import Encoded
from zerogate.data.load import Data
from zerogate.errors import UserError
from zerogate.vision import VisionEncoder, image_features, load_encoder
from zerogate.vision.encoder import PAPER_LAYERS


def fit_images(config: Any) -> None:
    """Fill in what a zero-init config leaves open about its images: which layers, how many channels.

    Raises:
        UserError: the encoder cannot be used.
    """
    settings = vars(config)
    if settings.get("image_encoder") is None:
        return
    encoder = encoder_of(settings)
    config.image_layers, config.image_channels = encoder.layers, encoder.channels


def see_images(data: Data, adapter: dict[str, Any]) -> None:
    """Look at every image of the data once, if the adapter takes images; features come from disk where they can.

    Raises:
        UserError: the adapter takes images and there are none.
    """
    if adapter.get("image_encoder") is None:
        return
    parts: list[Encoded] = [part for part in (data.train, data.held_out) if part is not None]
    sources = [source for part in parts for images in part.images for source in images]
    if not sources:
        raise UserError(
            "adapter.image_encoder is set, but no record has an image: name them in a column `image`, or leave it out"
        )
    features = image_features(sources, encoder_of(adapter))
    for part in parts:
        part.see(features)


def encoder_of(settings: dict[str, Any]) -> VisionEncoder:
    """The encoder that an adapter's settings name."""
    layers = settings.get("image_layers") or PAPER_LAYERS
    return _load(settings["image_encoder"], layers if isinstance(layers, int) else tuple(layers))


@lru_cache(maxsize=1)
def _load(name: str, layers: int | tuple[int, ...]) -> VisionEncoder:
    return load_encoder(name, layers)
