"""`GatedPrefixModel`: the zero-init tuner with layers whose prompts are keys and values."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..attention import CHILD
from ..thin_seams import THIN_SEAMS
from ..zero_init.model import ZeroInitModel
from .layer import GatedPrefixLayer


class GatedPrefixModel(ZeroInitModel):
    """A transformers model with P-tuning v2's prefixes behind zero-init gates."""

    tuner_layer_cls = GatedPrefixLayer

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layout = self._targets[current_key].layout
        if CHILD not in target._modules:
            target.add_module(CHILD, GatedPrefixLayer(layout, target))
            if layout.seam != "interface":
                self._thin_seams.append(THIN_SEAMS[layout.seam](target, layout))
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)
