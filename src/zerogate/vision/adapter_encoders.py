"""The vision encoders of a model's adapters: from the images of a batch to the features that `generate` takes.

    encoders = AdapterEncoders(model)
    model.generate(..., **arguments(encoders.features(["eye", "__base__"], [[picture], []])))

An adapter that takes images records its encoder's name and layers. Each encoder is loaded when its first image comes,
once however many adapters look with it, to the device of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from zerogate.adapters.zero_init import ZeroInitConfig
from zerogate.errors import UserError
from zerogate.vision.encoder import VisionEncoder, load_encoder
from zerogate.vision.features import image_features
from zerogate.vision.source import ImageSource

BASE = "__base__"


class AdapterEncoders:
    """What the adapters of one model look with.

    Args:
        model: a base, or a base with adapters; adapters may be added later.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._loaded: dict[tuple[str, tuple[int, ...]], VisionEncoder] = {}

    @property
    def seeing(self) -> list[str]:
        """The adapters that take images."""
        if not isinstance(self.model, PeftModel):
            return []
        configs: dict[str, Any] = self.model.peft_config
        return [
            name
            for name, config in configs.items()
            if isinstance(config, ZeroInitConfig) and config.image_layers is not None
        ]

    def refuse(self, adapter: str, images: Sequence[ImageSource]) -> None:
        """Stop where there are images and the adapter takes none.

        Args:
            adapter: its name, or `__base__`.
            images: what it would be shown.

        Raises:
            UserError: names the adapter, the first image and the way out.
        """
        if not images or adapter in self.seeing:
            return
        blind = f"the adapter {adapter!r}" if adapter != BASE else "the base without an adapter"
        others = f" (here: {', '.join(self.seeing)})" if self.seeing else ""
        raise UserError(
            f"{blind} takes no images, and there is {images[0].name}: ask without it, or choose an adapter that was "
            f"trained with images{others}"
        )

    def features(self, adapters: Sequence[str], images: Sequence[Sequence[ImageSource]]) -> list[Tensor | None]:
        """The features of a batch's images.

        Args:
            adapters: per row the name of its adapter, or `__base__`.
            images: per row what it shows, possibly nothing.

        Returns:
            Per row [n, F] of its adapter's encoder, or None where it shows nothing.

        Raises:
            UserError: a row has an image and its adapter takes none; an encoder or an image cannot be read.
        """
        wanted: dict[str, list[int]] = {}
        for row, (name, shown) in enumerate(zip(adapters, images, strict=True)):
            self.refuse(name, shown)
            if shown:
                wanted.setdefault(name, []).append(row)
        found: list[Tensor | None] = [None] * len(adapters)
        for name, rows in wanted.items():
            known = image_features([source for row in rows for source in images[row]], self.encoder(name))
            for row in rows:
                found[row] = torch.stack([known[source.digest] for source in images[row]])
        return found

    def encoder(self, adapter: str) -> VisionEncoder:
        """The encoder of an adapter that takes images.

        Raises:
            UserError: the adapter does not record which, it cannot be loaded, or it is not the one of the training.
        """
        config = self.model.peft_config[adapter]
        if config.image_encoder is None:
            raise UserError(
                f"the adapter {adapter!r} takes images but does not record of which vision encoder: name it as "
                "image_encoder in its adapter_config.json"
            )
        key = (config.image_encoder, tuple(config.image_layers))
        if key not in self._loaded:
            try:
                self._loaded[key] = load_encoder(*key, device=str(self.model.device))
            except UserError as error:
                raise UserError(
                    f"the adapter {adapter!r} (image_encoder in its adapter_config.json): {error}"
                ) from error
        encoder = self._loaded[key]
        if encoder.channels != config.image_channels:
            raise UserError(
                f"the adapter {adapter!r} was trained on features of {config.image_channels} channels, and the "
                f"vision encoder {config.image_encoder!r} gives {encoder.channels}: it is another one than in training"
            )
        warn_of_other_weights(adapter, config, encoder)
        return encoder


def warn_of_other_weights(adapter: str, config: ZeroInitConfig, encoder: VisionEncoder) -> None:
    """Warn where an adapter was trained with other weights than its encoder has; once, as long as that is loaded.

    It is no error: the same encoder saved in another precision has other numbers, too, and nearly the same features.
    An adapter that records no fingerprint may have been trained with any.

    Args:
        adapter: its name.
        config: its configuration.
        encoder: what it is about to look with.
    """
    recorded = config.image_fingerprint
    if recorded is not None and recorded != encoder.fingerprint and adapter not in encoder.warned_of:
        encoder.warned_of.add(adapter)
        warnings.warn(
            f"the adapter {adapter!r} was trained with other weights (fingerprint {recorded}) than its vision encoder "
            f"{encoder.name!r} has ({encoder.fingerprint}). Unless these are a copy in another precision, it does not "
            "know what it is shown: bring back the encoder of the training, or train anew",
            stacklevel=3,
        )


def arguments(features: Sequence[Tensor | None]) -> dict[str, Any]:
    """What a model's `forward` and `generate` are told of a batch's images: nothing at all where there are none."""
    return {"image_features": list(features)} if any(feature is not None for feature in features) else {}


def active_adapter(model: Any) -> str:
    """The adapter that answers where none is named; `__base__` for a base alone."""
    return str(model.active_adapter) if isinstance(model, PeftModel) else BASE
