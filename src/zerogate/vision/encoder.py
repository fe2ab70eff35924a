"""A frozen vision encoder: pictures in, the global features of M of its layers out (LLaMA-Adapter, section 3.3).

    encoder = load_encoder("openai/clip-vit-large-patch14", layers=6)
    features_NF = encoder.features(pictures)      # [N, M * channels], fp32

Any CLIP, SigLIP, SigLIP 2, DINOv2 or ViT of transformers. A layer's global feature is its class token, or the mean
over all patches where the encoder has none (SigLIP); SigLIP 2's padding is no patch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from zerogate.bases.load import find_base
from zerogate.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_POOLER = "pooler."
_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

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
        name: the name that finds it from any folder: a full path, a Hub id, or `pocket-eye`.
        model: the picture side of a transformers model.
        processor: makes its input from pictures.
        layers: indices of its hidden states; 0 is what comes out of the embedding.
        class_token: whether position 0 stands for the whole picture.

    Attributes:
        warned_of: adapters that were trained with other weights, as their users have been told.
    """

    def __init__(self, name: str, model: nn.Module, processor: Any, layers: Sequence[int], class_token: bool) -> None:
        self.name, self.model, self.processor = name, model, processor
        self.layers, self.class_token = list(layers), class_token
        self.warned_of: set[str] = set()
        config: Any = model.config
        self.channels = int(config.hidden_size)

    @property
    def size(self) -> int:
        """F, the length of a feature: M times the encoder's channels."""
        return len(self.layers) * self.channels

    @cached_property
    def fingerprint(self) -> str:
        """Tells the weights from any others, whatever name, device or precision they were loaded to: 16 hex digits.

        It is made of the numbers alone, as fp32 has them. What tensors are called is transformers' affair, and the
        pooler, which a checkpoint may lack, has no part in features.
        """
        parts = []
        for name, tensor in self.model.state_dict().items():
            if not name.startswith(_POOLER):
                digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
                digest.update(tensor.float().flatten().cpu().numpy())
                parts.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(parts))).hexdigest()[:16]

    @cached_property
    def identity(self) -> str:
        """Names weights, preprocessing and the choice of layers: what features are remembered under."""
        digest = hashlib.sha256(f"{self.fingerprint} {self.processor.to_dict()!r}".encode())
        return f"{digest.hexdigest()[:16]}-{'.'.join(map(str, self.layers))}"

    @torch.no_grad()
    def features(self, pictures: Iterable[Image.Image], batch_size: int = 32) -> Tensor:
        """The features of pictures, [N, F] in fp32 on the CPU; they do not depend on the batch they came in.

        Each picture is let go once it is scaled: where they come one by one, no batch of whole ones is held.
        """
        parts = []
        scaled = (self._scaled(picture) for picture in pictures)
        while batch := list(islice(scaled, batch_size)):
            parts.append(self._look({name: torch.cat([one[name] for one in batch]) for name in batch[0]}))
        return torch.cat(parts) if parts else torch.empty(0, self.size)

    def _scaled(self, picture: Image.Image) -> dict[str, Tensor]:
        """What the model is given of one picture: `pixel_values`, and of SigLIP 2 which of its patches are padding."""
        made = self.processor(images=[picture], return_tensors="pt")
        return {name: made[name] for name in _INPUTS if name in made}

    def _look(self, pixels: dict[str, Tensor]) -> Tensor:
        """[B, F], fp32, on the CPU."""
        parameter = next(self.model.parameters())
        given = {name: tensor.to(parameter.device) for name, tensor in pixels.items()}
        given["pixel_values"] = given["pixel_values"].to(parameter.dtype)
        states = self.model(**given, output_hidden_states=True).hidden_states
        chosen_BPC = (states[layer] for layer in self.layers)
        if self.class_token:
            return torch.cat([x[:, 0] for x in chosen_BPC], -1).float().cpu()
        patches_BP = given.get("pixel_attention_mask")
        if patches_BP is None:
            return torch.cat([x.mean(1) for x in chosen_BPC], -1).float().cpu()
        share_BP = patches_BP / patches_BP.sum(1, keepdim=True)
        return torch.cat([(x * share_BP[..., None].to(x.dtype)).sum(1) for x in chosen_BPC], -1).float().cpu()


def load_encoder(name: str, layers: int | Sequence[int] | None = None, device: str | None = None) -> VisionEncoder:
    """Load the picture side of a model, frozen.

    Args:
        name: a folder, a Hub id, or `pocket-eye` (the one inside this package).
        layers: indices of hidden states, or how many, spread evenly up to the last. None: as many as in the paper, or
            all where there are fewer.
        device: where it runs; None: the first GPU, else the CPU.

    Raises:
        UserError: it cannot be found or read, is of no known family, or has not that many layers.
    """
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoImageProcessor

    place = _find(name)
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
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot load the vision encoder {name!r}: {_reason(name, place, error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_POOLER))  # nothing is pooled here
    if missing:
        raise UserError(f"the weights of the vision encoder {name!r} lack {len(missing)} tensors, such as {missing[0]}")
    depth = int(config.num_hidden_layers)
    if isinstance(layers, int) and layers > depth:
        raise UserError(f"{layers} image layers of {name!r}: it has {depth}; ask for at most so many")
    chosen = list(layers) if isinstance(layers, Sequence) else evenly(layers or min(PAPER_LAYERS, depth), depth)
    if not chosen or min(chosen) < 0 or max(chosen) > depth:
        raise UserError(f"image layers {chosen} of {name!r}: it has the hidden states 0 to {depth}")
    model.requires_grad_(False)
    model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return VisionEncoder(_full_name(name), model, processor, chosen, family.class_token)


def _find(name: str) -> str:
    """What transformers is given for a name.

    Raises:
        UserError: a path to nothing, or to something else than a model.
    """
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"cannot load the vision encoder {name!r}: there is no such user's folder") from error
    if not folder.exists() and not _HUB_ID.fullmatch(name):
        raise UserError(f"cannot load the vision encoder {name!r}: {_no_folder(folder)}")
    try:
        return find_base(name).id
    except UserError as error:
        raise UserError(f"cannot load the vision encoder {name!r}: {error}") from error


def _full_name(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _reason(name: str, place: str, error: Exception) -> str:
    """Why an encoder was not loaded, on one line."""
    said = " ".join(str(error).split())[:300]
    if Path(place).exists():
        return said
    if "/" not in name or Path(name).parent.exists():
        return _no_folder(Path(name))
    return f"there is no such folder here ({Path(name).absolute()}), and from the Hub it cannot be had: {said}"


def _no_folder(path: Path) -> str:
    return (
        f"there is no such folder here ({path.absolute()}); give the full path of one that transformers saved, or a "
        "model of the Hub as org/model"
    )


def evenly(count: int, depth: int) -> list[int]:
    """`count` of the layers 1 to `depth`, evenly spread, the last among them; all where there are fewer."""
    count = min(count, depth)
    return [round((i + 1) * depth / count) for i in range(count)]
