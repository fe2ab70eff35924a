"""What a caller gives as the images of a batch, checked, and made into each adapter's `Images`; and the checks of
configs that take images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import ZeroInitConfig
from .image import ImageProjector, Images


def images_of(
    features: Any,
    mask: Any,
    names: Sequence[str] | None,
    projectors: dict[str, ImageProjector],
    active: Sequence[str] = (),
    repeats: int = 1,
) -> dict[str, Images]:
    """The images of a batch, by the adapter that looks at them.

    Nothing here but errors depends on the numbers in a tensor, so that it can be compiled without a break.

    Args:
        features: [B, N, F], or [B, F] for one image a row, or a list with [n, F] (or [F], or None) for each row.
        mask: [B, N], which images there are, for features in one tensor. None: all.
        names: the adapter of each row; None where the active ones serve all.
        projectors: by adapter, of those that take images.
        active: the active adapters, whether they take images or not.
        repeats: how many times a generation may repeat each row.

    Raises:
        TypeError: features or mask are no tensors.
        ValueError: a row has an image and its adapter takes none; sizes that do not fit.
    """
    if features is None:
        raise ValueError("image_mask says which images there are, and image_features, the images, are missing.")
    rows = _in_one_tensor(features, mask) if isinstance(features, Tensor) else _row_by_row(features, mask)
    B = len(rows[0])
    if names is not None and len(names) != B:
        raise ValueError(f"image_features are for {B} rows, adapter_names for {len(names)}.")
    blind = [not projectors if names is None else name not in projectors for name in names or range(B)]
    if any(blind):
        _refuse_what_nobody_sees(_own(rows, blind), names, active)
    found = {}
    for name, projector in projectors.items():
        own = _own(rows, None if names is None else [owner == name for owner in names])
        if _any(own):
            found[name] = Images(*_padded(own, projector), projector, repeats)
    return found


Rows = tuple[Tensor, Tensor | None] | tuple[list[Tensor]]
"""The images of each row: [B, N, F] and which of them there are (None: all), or a list with [n, F] for each row."""


def _in_one_tensor(features: Tensor, mask: Any) -> Rows:
    if features.dim() not in (2, 3):
        raise ValueError(f"image_features must be [rows, images, channels], not of shape {tuple(features.shape)}.")
    features_BNF = features if features.dim() == 3 else features[:, None]
    if mask is None:
        return features_BNF, None
    if not isinstance(mask, Tensor):
        raise TypeError(f"image_mask must be a tensor [rows, images], not a {type(mask).__name__}.")
    if mask.shape != features_BNF.shape[:2]:
        raise ValueError(
            f"image_mask has the shape {tuple(mask.shape)}, but image_features of the shape {tuple(features.shape)} "
            f"need one of {tuple(features_BNF.shape[:2])}: [rows, images]."
        )
    return features_BNF, mask.to(features.device).bool()


def _row_by_row(features: Any, mask: Any) -> Rows:
    if mask is not None:
        raise ValueError("image_mask goes with image_features in one tensor; in a list, a row without images is None.")
    rows = []
    for row, given in enumerate(features):
        if given is not None and not isinstance(given, Tensor):
            raise TypeError(f"image_features of row {row} must be a tensor or None, not a {type(given).__name__}.")
        if given is not None and given.dim() not in (1, 2):
            raise ValueError(
                f"image_features of row {row} must be [images, channels], or [channels] for one image, not of shape "
                f"{tuple(given.shape)}."
            )
        rows.append(torch.empty(0, 0) if given is None else given if given.dim() == 2 else given[None])
    return (rows,)


def _own(rows: Rows, mine: list[bool] | None) -> Rows:
    """`rows` with the images of some alone. None: of all."""
    if mine is None or all(mine):
        return rows
    if len(rows) == 1:
        return ([images if own else images[:0] for images, own in zip(rows[0], mine, strict=True)],)
    features_BNF, mask_BN = rows
    mine_B1 = torch.tensor(mine, device=features_BNF.device)[:, None]
    return features_BNF, mine_B1.expand(features_BNF.shape[:2]) if mask_BN is None else mask_BN & mine_B1


def _any(rows: Rows) -> bool:
    """Whether there is an image at all. While compiling a mask may not be looked at, and then there may be."""
    if len(rows) == 1:
        return any(map(len, rows[0]))
    features_BNF, mask_BN = rows
    if mask_BN is None or torch.compiler.is_compiling():
        return features_BNF.shape[0] * features_BNF.shape[1] > 0
    return bool(mask_BN.any())


def _padded(rows: Rows, projector: ImageProjector) -> tuple[Tensor, Tensor]:
    """Features [B, N, F], zero where there is no image, and where there is one [B, N]: on the projector's device."""
    device = projector.down.weight.device
    if len(rows) == 2:
        features_BNF, mask_BN = rows
        projector.check(features_BNF)
        if mask_BN is None:
            return features_BNF.to(device), torch.ones(features_BNF.shape[:2], dtype=torch.bool, device=device)
        return features_BNF.masked_fill(~mask_BN[..., None], 0.0).to(device), mask_BN.to(device)
    counts = [len(images) for images in rows[0]]
    N = max(counts)
    places_NF = torch.zeros(N, projector.layers * projector.channels, device=device)
    padded = []
    for images in rows[0]:
        if len(images):
            projector.check(images)
        padded.append(F.pad(images.to(device), (0, 0, 0, N - len(images))) if len(images) else places_NF)
    mask_BN = torch.tensor([[n < count for n in range(N)] for count in counts], device=device)
    return torch.stack(padded), mask_BN


def _refuse_what_nobody_sees(rows: Rows, names: Sequence[str] | None, active: Sequence[str]) -> None:
    """Raises ValueError if one of these rows, whose adapters take no images, has one."""
    if len(rows) == 1:
        shows = [len(images) > 0 for images in rows[0]]
    else:
        features_BNF, mask_BN = rows
        shows = [features_BNF.shape[1] > 0] * len(features_BNF) if mask_BN is None else mask_BN.any(-1).tolist()
    for row, shown in enumerate(shows):
        if not shown:
            continue
        if names is not None:
            whose = f"its adapter {names[row]!r} takes none"
        elif len(active) > 1:
            whose = f"none of the active adapters {', '.join(map(repr, active))} takes any"
        else:
            whose = f"the active adapter {active[0]!r} takes none" if active else "no adapter is active"
        raise ValueError(f"row {row} comes with an image, but {whose} (image_layers is not set).")


def check_images(config: ZeroInitConfig) -> None:
    """Raises ValueError where a config names an encoder and nobody has looked what it gives."""
    takes_images = config.image_layers is not None or config.image_encoder is not None
    if takes_images and (not isinstance(config.image_layers, list) or config.image_channels is None):
        raise ValueError(
            f"image_layers={config.image_layers} and image_channels={config.image_channels}: an adapter that takes "
            "images needs the list of its encoder's layers and their channels. `zerogate train` fills them in; from "
            "Python: encoder = zerogate.vision.load_encoder(NAME); image_layers=encoder.layers, "
            "image_channels=encoder.channels."
        )
    if takes_images and config.task_type is None:
        raise ValueError(
            "An adapter that takes images needs a task_type, such as task_type='CAUSAL_LM': without one PEFT passes "
            "the adapter by and gives image_features to the base, which does not know them."
        )


def check_one_encoder(configs: dict[str, ZeroInitConfig]) -> None:
    """Raises ValueError unless the same features fit all these adapters, which are to look at one image at once."""
    for name, other in list(configs.items())[1:]:
        first, one = next(iter(configs.items()))
        known = [
            what
            for what in ("image_fingerprint", "image_encoder")
            if getattr(one, what) is not None and getattr(other, what) is not None
        ]
        for what in ("image_layers", "image_channels", *known[:1]):  # an encoder's name tells less than its weights
            here, there = getattr(one, what), getattr(other, what)
            if here != there:
                raise ValueError(
                    f"Adapters {first!r} and {name!r} are both active and both take images, but of different encoders: "
                    f"{what} is {here!r} and {there!r}, and image_features are of one. Make one of them active at a "
                    "time, or give each row its own by adapter_names."
                )
