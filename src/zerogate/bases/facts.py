"""What a base or a saved adapter is, read from configurations and file headers: no weights of a base are ever loaded.

`zerogate inspect` prints these. A base is built on torch's meta device, where tensors have shapes and no content.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zerogate.adapters.layouts import find_blocks
from zerogate.bases.adapted import AdapterFiles
from zerogate.bases.decode import context_length
from zerogate.bases.load import find_base, read_config
from zerogate.errors import UserError

_LAYER = re.compile(r"\.(\d+)\.")
_GATES = (".zero_init.gate", ".adaption_gate")
_PROJECTOR = ".zero_init.projector."
_PROMPTS = (".zero_init.prompt", ".adaption_prompt")


@dataclass(frozen=True)
class ImageFacts:
    """How an adapter takes images.

    Attributes:
        encoder: the vision encoder whose features it was trained on, or None where it is not recorded.
        layers: which of the encoder's hidden states it looks at.
        channels: of one of them.
        hidden: width of the projector's MLP.
        parameters: of the projector, which are among the adapter's.
    """

    encoder: str | None
    layers: list[int]
    channels: int
    hidden: int
    parameters: int


@dataclass(frozen=True)
class AdapterFacts:
    """One saved adapter.

    Attributes:
        method: PEFT's name of it.
        base: the base it records, or None.
        parameters: numbers in its file.
        file_bytes: size of its file.
        layers: absolute indices of the layers it has tensors in.
        prompt_length: K, or None for a method without prompts.
        width: C, the hidden size its prompts have, or None.
        gates: effective gates by absolute layer index, fp32 [H] or [1]; empty for a method without.
        template: how its training records were worded, if its card says.
        settings: those of its configuration that are not empty; what `images` says is left out.
        images: how it takes images, or None.
    """

    method: str
    base: str | None
    parameters: int
    file_bytes: int
    layers: list[int]
    prompt_length: int | None
    width: int | None
    gates: dict[int, Tensor]
    template: str | None
    settings: dict[str, Any]
    images: ImageFacts | None = None


def adapter_facts(files: AdapterFiles) -> AdapterFacts:
    """Describe an adapter from its folder alone."""
    prompts = [shape for name, shape in files.shapes.items() if name.endswith(_PROMPTS)]
    quiet = {"peft_type", "base_model_name_or_path", "auto_mapping", "inference_mode", "peft_version", "task_type"}
    return AdapterFacts(
        method=files.method,
        base=files.base,
        parameters=sum(math.prod(shape) for shape in files.shapes.values()),
        file_bytes=files.weights.stat().st_size,
        layers=sorted({int(found[1]) for name in files.shapes if (found := _LAYER.search(name))}),
        prompt_length=prompts[0][-2] if prompts else None,
        width=prompts[0][-1] if prompts else None,
        gates=_effective_gates(files),
        template=files.template,
        settings={
            name: value
            for name, value in files.config.items()
            if name not in quiet and not name.startswith("image_") and value not in (None, False, [], {}, "")
        },
        images=_image_facts(files),
    )


def _image_facts(files: AdapterFiles) -> ImageFacts | None:
    layers = files.config.get("image_layers")
    if not layers:
        return None
    parts = {name: shape for name, shape in files.shapes.items() if _PROJECTOR in name}
    return ImageFacts(
        encoder=files.config.get("image_encoder"),
        layers=[int(layer) for layer in layers],
        channels=int(files.config["image_channels"]),
        hidden=int(files.config["image_hidden"]),
        parameters=sum(math.prod(shape) for shape in parts.values()),
    )


def _effective_gates(files: AdapterFiles) -> dict[int, Tensor]:
    from safetensors import safe_open

    # As ZeroInitLayer.effective_gate has it; PEFT's AdaptionPrompt has neither scale nor tanh, nor these two settings.
    scale = float(files.config.get("gate_scale", 1.0))
    bounded = files.config.get("gate_activation", "identity") == "tanh"
    gates: dict[int, Tensor] = {}
    with safe_open(files.weights, framework="pt") as opened:
        for name in files.shapes:
            place = _LAYER.search(name)
            if place is not None and name.endswith(_GATES):
                scaled = scale * opened.get_tensor(name).float().flatten()
                gates[int(place[1])] = scaled.tanh() if bounded else scaled
    return dict(sorted(gates.items()))


@dataclass(frozen=True)
class BaseFacts:
    """One base.

    Attributes:
        architecture: its class in transformers.
        family: its model_type.
        parameters: how many it has.
        file_bytes: size of its weights, or None where they are not on this machine.
        layers: N, attention layers that zerogate can adapt; 0 if none.
        heads: H, query heads; `kv_heads`: G, key and value heads; `head_dim`: D; `width`: C.
        kv_heads: see heads.
        head_dim: see heads.
        width: see heads.
        vocabulary: tokens it knows.
        context: positions it was made for, or None.
        attention: class of its attention modules.
        layout: how keys and values of a prompt are had: `k_proj and v_proj`, or the fused projection and its order.
        seam: `interface` for transformers' attention interface, else the name of the thin seam.
    """

    architecture: str
    family: str
    parameters: int
    file_bytes: int | None
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int
    context: int | None
    attention: str
    layout: str
    seam: str

    def trainable(self, num_layers: int, prompt_length: int) -> int:
        """Parameters of zero-init in L layers with K prompts: L (K C + H)."""
        return num_layers * (prompt_length * self.width + self.heads)


def base_facts(name: str) -> BaseFacts:
    """Describe a base from its configuration.

    Raises:
        UserError: no such base, not a causal language model, or none of its modules is attention that zerogate knows.
    """
    from transformers import AutoModelForCausalLM

    from zerogate.adapters.layouts import unknown_family

    config = read_config(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = find_blocks(model)
    if not blocks:
        raise UserError(f"the base {name!r}: {unknown_family(model)}")
    block = blocks[0]
    module = model.get_submodule(block.name)
    H, G, D, C = block.layout.shape(module)
    layout = block.layout
    projections = f"{layout.fused} ({layout.order})" if layout.fused else f"{layout.key}, {layout.value}"
    folder = find_base(name).folder
    files = list(folder.glob("*.safetensors")) if folder is not None else []
    return BaseFacts(
        architecture=type(model).__name__,
        family=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        file_bytes=sum(file.stat().st_size for file in files) if files else None,
        layers=len(blocks),
        heads=H,
        kv_heads=G,
        head_dim=D,
        width=C,
        vocabulary=config.get_text_config().vocab_size,
        context=context_length(model),
        attention=type(module).__name__,
        layout=f"{projections}, then {layout.key_norm}" if layout.key_norm else projections,
        seam=layout.seam,
    )
