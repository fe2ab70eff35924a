"""`VPTModel`: the PEFT tuner that gives a vision transformer prompts beside its patches."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from ..bank import RowAdapters
from ..hooked import HookedModel
from ..layouts import find_blocks, unknown_family
from .config import VPTConfig
from .layer import VPTLayer


class Place(NamedTuple):
    """One encoder layer: its width, the numbers in a patch, and whether it is the first or the last."""

    width: int
    patch: int
    first: bool
    last: bool


class VPTModel(HookedModel):
    """A vision transformer with visual prompts (arXiv 2203.12119)."""

    layer_class = VPTLayer
    child = "vpt"
    prefix = "vpt."

    def choose(self, config: VPTConfig, model: nn.Module) -> dict[str, Place]:
        """All encoder layers.

        Raises:
            ValueError: It is no vision model, or one whose attention is not known, or has several stacks.
        """
        if getattr(model, "main_input_name", None) != "pixel_values":
            raise ValueError(
                f"{type(model).__name__} takes no pictures, and VPT is for those. For text there are prompt_tuning and "
                "prefix_tuning."
            )
        blocks = find_blocks(model)
        if not blocks:
            raise ValueError(unknown_family(model))
        if len({block.stack for block in blocks}) > 1:
            stacks = ", ".join(sorted({block.stack for block in blocks}))
            raise ValueError(f"{type(model).__name__} has several stacks of attention ({stacks}); VPT takes one.")
        settings = self.get_model_config(model)
        settings = settings.get("vision_config") or settings
        patch = int(settings.get("patch_size") or 16) ** 2 * int(settings.get("num_channels") or 3)
        return {
            f"{block.stack}.{block.index}": Place(
                block.layout.shape(model.get_submodule(block.name))[3], patch, block is blocks[0], block is blocks[-1]
            )
            for block in blocks
        }

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        layer.update_layer(
            adapter_name,
            config.prompt_length,
            chosen.width,
            chosen.patch,
            puts_on=config.deep or chosen.first,
            takes=config.deep or chosen.last,
        )

    def _asked_rows(self, names: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RowAdapters:
        raise ValueError("Adapters with visual prompts cannot share a batch (adapter_names); run them one by one.")
