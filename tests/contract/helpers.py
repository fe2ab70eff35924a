"""Small helpers of the contract test: attach, randomise, read out what the reference needs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from families import BY_NAME, Family, adapted_by_hand
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from zerogate import ZeroInitConfig
from zerogate.adapters.zero_init import ZeroInitLayer


def attach(family: Family | str, model: nn.Module | None = None, seed: int = 0, **config: Any) -> PeftModel:
    """A tiny model of the family with a random adapter on it (gates included), in eval mode."""
    family = BY_NAME[family] if isinstance(family, str) else family
    model = family.model() if model is None else model
    adapted = get_peft_model(model, zero_init(family, **config))
    return randomise(adapted, seed).eval()


def zero_init(family: Family | str, **config: Any) -> ZeroInitConfig:
    family = BY_NAME[family] if isinstance(family, str) else family
    settings = {"prompt_length": 3, "task_type": "CAUSAL_LM" if family.generates else None, **family.config, **config}
    return ZeroInitConfig(**settings)


def randomise(model: PeftModel, seed: int = 0, adapter: str = "default") -> PeftModel:
    """Random prompts and gates, far from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in layers(model):
            for name, values in [("prompt", layer.prompt), ("gate", layer.gate)]:
                if adapter in values:
                    size = 1.0 if name == "prompt" else 0.8
                    values[adapter].copy_(torch.randn(values[adapter].shape, generator=generator) * size)
    return model


def layers(model: PeftModel) -> list[tuple[str, ZeroInitLayer]]:
    """The zero-init layers, by the name of the attention module in the plain model."""
    base = model.get_base_model()
    return [(n.removesuffix(".zero_init"), m) for n, m in base.named_modules() if isinstance(m, ZeroInitLayer)]


def adapter_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if ".zero_init." in name}


def by_hand(family: Family, plain: nn.Module, adapted: PeftModel, adapter: str = "default") -> nn.Module:
    """The independent reference with the adapter's raw prompts, and its gates as the config says they act."""
    config = adapted.peft_config[adapter]
    prompts, gates = {}, {}
    for name, layer in layers(adapted):
        if adapter in layer.prompt:
            prompts[name] = layer.prompt[adapter].detach()
            gate = config.gate_scale * layer.gate[adapter].detach()
            gates[name] = torch.tanh(gate) if config.gate_activation == "tanh" else gate
    return adapted_by_hand(family, plain, prompts, gates)


def outputs(family: Family, model: nn.Module, **extra: Any) -> Tensor:
    dtype = next(p.dtype for n, p in model.named_parameters() if "zero_init" not in n)
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in family.inputs().items()}
    with torch.no_grad():
        return family.result(model(**inputs, **extra)).detach()


def twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
