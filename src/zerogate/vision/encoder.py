"""A frozen vision encoder: pictures in, the global features of M of its layers out (LLaMA-Adapter, section 3.3).

    encoder = load_encoder("openai/clip-vit-large-patch14", layers=6)
    features_NF = encoder.features(pictures)      # [N, M * channels], fp32

Any CLIP, SigLIP, DINOv2 or ViT of transformers. A layer's global feature is its class token, or the mean over all
patches where the encoder has none (SigLIP).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from zerogate.bases.load import find_base
from zerogate.errors import UserError

PAPER_LAYERS = 6
"""M, how many layers an adapter looks at where nothing else is said."""


@dataclass(frozen=True)
class _Family:
    """Where a family keeps its picture side, by model_type of that side.

    Attributes:
        model: the class in transformers that is the picture side alone.
        class_token: whether position 0 is a class token.
    """

    model: str
    class_token: bool


FAMILIES = {
    "clip_vision_model": _Family("CLIPVisionModel", True),
    "siglip_vision_model": _Family("SiglipVisionModel", False),
    "siglip2_vision_model": _Family("Siglip2VisionModel", False),
    "dinov2": _Family("Dinov2Model", True),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", True),
    "vit": _Family("ViTModel", True),
}


class VisionEncoder:
    """A frozen encoder with a choice of layers.

    Args:
        name: as it was asked for.
        model: the picture side of a transformers model.
        processor: makes its input from pictures.
        layers: indices of its hidden states; 0 is what comes out of the embedding.
        class_token: whether position 0 stands for the whole picture.
    """

    def __init__(self, name: str, model: nn.Module, processor: Any, layers: Sequence[int], class_token: bool) -> None:
        self.name, self.model, self.processor = name, model, processor
        self.layers, self.class_token = list(layers), class_token
        config: Any = model.config
        self.channels = int(config.hidden_size)

    @property
    def size(self) -> int:
        """F, the length of a feature: M times the encoder's channels."""
        return len(self.layers) * self.channels

    @cached_property
    def identity(self) -> str:
        """Names the weights and the choice of layers: what features are remembered under."""
        digest = hashlib.sha256(repr(self.processor.to_dict()).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            # Sums tell two trainings apart at the cost of one look; the order of the numbers is the name's.
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.double().sum().item()!r}".encode())
            digest.update(f"{tensor.double().square().sum().item()!r}".encode())
        return f"{digest.hexdigest()[:16]}-{'.'.join(map(str, self.layers))}"

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """The features of pictures, [N, F] in fp32 on the CPU; they do not depend on the batch they came in."""
        parts = []
        parameter = next(self.model.parameters())
        for start in range(0, len(pictures), batch_size):
            pixels = self.processor(images=list(pictures[start : start + batch_size]), return_tensors="pt")
            given = pixels["pixel_values"].to(parameter.device, parameter.dtype)
            states = self.model(pixel_values=given, output_hidden_states=True).hidden_states
            chosen = [states[layer] for layer in self.layers]
            parts.append(torch.cat([x[:, 0] if self.class_token else x.mean(1) for x in chosen], -1).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.size)


def load_encoder(name: str, layers: int | Sequence[int] = PAPER_LAYERS, device: str | None = None) -> VisionEncoder:
    """Load the picture side of a model, frozen.

    Args:
        name: a folder, a Hub id, or `pocket-eye` (the one inside this package).
        layers: indices of hidden states, or how many, spread evenly up to the last.
        device: where it runs; None: the first GPU, else the CPU.

    Raises:
        UserError: it cannot be found or read, is of no known family, or has not that many layers.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor

    place = find_base(name).id
    try:
        config: Any = AutoConfig.from_pretrained(place)
        config = getattr(config, "vision_config", config)
        family = FAMILIES.get(config.model_type)
        if family is None:
            raise UserError(
                f"cannot use {name!r} as a vision encoder: it is a {config.model_type}; known are "
                f"{', '.join(sorted(FAMILIES))}"
            )
        model, info = getattr(transformers, family.model).from_pretrained(
            place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(place, use_fast=False)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot load the vision encoder {name!r}: {' '.join(str(error).split())[:300]}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # nothing is pooled here
    if missing:
        raise UserError(f"the weights of the vision encoder {name!r} lack {len(missing)} tensors, such as {missing[0]}")
    depth = int(config.num_hidden_layers)
    chosen = evenly(layers, depth) if isinstance(layers, int) else list(layers)
    if not chosen or min(chosen) < 0 or max(chosen) > depth:
        raise UserError(f"image layers {chosen} of {name!r}: it has the hidden states 0 to {depth}")
    model.requires_grad_(False)
    model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return VisionEncoder(name, model, processor, chosen, family.class_token)


def evenly(count: int, depth: int) -> list[int]:
    """`count` of the layers 1 to `depth`, evenly spread, the last among them; all where there are fewer."""
    count = min(count, depth)
    return [round((i + 1) * depth / count) for i in range(count)]
