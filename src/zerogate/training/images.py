"""What a run does with images: the encoder that the adapter names, and what it makes of every image of the data."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

from zerogate.adapters.zero_init import ZeroInitConfig
from zerogate.data.encode import Encoded
from zerogate.data.load import Data
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.training.recipe import Recipe
from zerogate.vision import VisionEncoder, image_features, load_encoder

_SETTINGS = {field.name: field.default for field in fields(ZeroInitConfig) if field.name.startswith("image_")}


def takes_images(adapter: dict[str, Any]) -> bool:
    """Whether the adapter that a recipe's section describes looks at images."""
    return adapter.get("image_encoder") is not None


def without_images(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """A recipe whose `data.use_images` is false, for an adapter that takes no images.

    Returns:
        The recipe (any other as it is), and what it had set in its `adapter:` section and has no more.
    """
    if not isinstance(recipe.data, DataSection) or recipe.data.use_images:
        return recipe, []
    off = [name for name in recipe.adapter if name in _SETTINGS and recipe.adapter[name] is not None]
    kept = {name: value for name, value in recipe.adapter.items() if name not in _SETTINGS}
    return recipe.model_copy(update={"adapter": kept}), off


def blind_line(off: list[str]) -> str:
    """What to say of settings that `without_images` took out."""
    return f"takes no images, as data.use_images is false: without {', '.join(off)}"


def fit_images(config: Any) -> None:
    """Fill in what a zero-init config leaves open about its images: which layers, how many channels, whose.

    Raises:
        UserError: the encoder cannot be used; or there is none, and settings that mean nothing without one.
    """
    if not isinstance(config, ZeroInitConfig):
        return
    settings = vars(config)
    if not takes_images(settings):
        idle = [f"{name}={settings[name]}" for name, default in _SETTINGS.items() if settings[name] != default]
        if idle:
            raise UserError(
                f"adapter: {', '.join(idle)} without image_encoder: name the encoder that the adapter looks with, or "
                "leave it all out for an adapter that takes no images"
            )
        return
    encoder = encoder_of(settings)
    config.image_encoder, config.image_fingerprint = encoder.name, encoder.fingerprint
    config.image_layers, config.image_channels = encoder.layers, encoder.channels


def see_images(data: Data, adapter: dict[str, Any]) -> None:
    """Look at every image of the data once, if the adapter takes images; features come from disk where they can.

    Raises:
        UserError: the adapter takes images and there are none.
    """
    if not takes_images(adapter):
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
    layers = settings.get("image_layers")
    return _load(settings["image_encoder"], tuple(layers) if isinstance(layers, list) else layers)


@lru_cache(maxsize=1)
def _load(name: str, layers: int | tuple[int, ...] | None) -> VisionEncoder:
    return load_encoder(name, layers)
