"""`SideModel`: the PEFT tuner that puts a small network beside a frozen vision transformer."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..bank import RowAdapters
from ..hooked import HookedModel
from .config import SideConfig
from .layer import SideLayer


class SideModel(HookedModel):
    """A frozen image classifier with a side network (arXiv 1912.13503)."""

    layer_class = SideLayer
    child = "side"
    prefix = "side."

    def choose(self, config: SideConfig, model: Any) -> dict[str, tuple[int, int]]:
        """The backbone, with the picture's channels and the features' width.

        Raises:
            ValueError: It takes no pictures, or has no backbone that gives features of one width.
        """
        settings = self.get_model_config(model)
        width = settings.get("hidden_size")
        if getattr(model, "main_input_name", None) != "pixel_values" or not isinstance(width, int):
            raise ValueError(
                f"{type(model).__name__} takes no pictures alone, or its configuration has not one hidden_size for all "
                "layers: side-tuning is for vision transformers such as ViT, DeiT and DINOv2."
            )
        backbone = model.base_model_prefix
        if backbone not in dict(model.named_children()):
            raise ValueError(f"{type(model).__name__} has no backbone below a head for side-tuning to sit beside.")
        return {backbone: (int(settings.get("num_channels") or 3), width)}

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        layer.update_layer(adapter_name, config, *chosen)

    def _asked_rows(self, names: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RowAdapters:
        raise ValueError("Adapters with side networks cannot share a batch (adapter_names); run them one by one.")
