"""Bottleneck adapters written out by hand, and helpers of their contract test.

The reference replaces layers of a plain model by modules that compute the formula in float64. Where a preset goes is
said here once more, in full paths, from the papers and the model files, without the package's own table.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from families import BY_NAME, Family
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from zerogate import BottleneckConfig
from zerogate.adapters.bottleneck import BottleneckLayer

NAMES = [
    "llama-grouped", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "opt", "bloom", "gptj", "gpt_neox",
    "gpt2", "bert", "roberta", "vit", "dinov2", "clip-vision", "siglip-vision", "clip-vision-side",
]  # fmt: skip
BOTTLENECK_FAMILIES = [BY_NAME[name] for name in NAMES]


@dataclass(frozen=True)
class Layers:
    """One layer's Linear modules by what they are for; `*` is the layer's index."""

    into_attention: tuple[str, ...]
    out_of_attention: str
    into_mlp: tuple[str, ...]
    out_of_mlp: str


def _decoder(stack: str) -> Layers:
    at = f"{stack}.*."
    return Layers(
        (at + "self_attn.q_proj", at + "self_attn.k_proj", at + "self_attn.v_proj"), at + "self_attn.o_proj",
        (at + "mlp.gate_proj", at + "mlp.up_proj"), at + "mlp.down_proj",
    )  # fmt: skip


def _bert() -> Layers:
    at = "encoder.layer.*."
    return Layers(
        (at + "attention.self.query", at + "attention.self.key", at + "attention.self.value"),
        at + "attention.output.dense", (at + "intermediate.dense",), at + "output.dense",
    )  # fmt: skip


def _vit(at: str, attention: str = "attention", out: str = "o_proj") -> Layers:
    into = tuple(f"{at}.{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    return Layers(into, f"{at}.{attention}.{out}", (at + ".mlp.fc1",), at + ".mlp.fc2")


def _fused(at: str, attention: str) -> Layers:
    return Layers(
        (f"{at}.{attention}.query_key_value",), f"{at}.{attention}.dense", (f"{at}.mlp.dense_h_to_4h",),
        f"{at}.mlp.dense_4h_to_h",
    )  # fmt: skip


_OPT, _GPTJ, _GPT2 = "model.decoder.layers.*.", "transformer.h.*.", "transformer.h.*."
WHERE: dict[str, Layers] = {
    **dict.fromkeys(NAMES[:7], _decoder("model.layers")),
    "opt": Layers((_OPT + "self_attn.q_proj", _OPT + "self_attn.k_proj", _OPT + "self_attn.v_proj"),
                  _OPT + "self_attn.out_proj", (_OPT + "fc1",), _OPT + "fc2"),
    "bloom": _fused("transformer.h.*", "self_attention"),
    "gptj": Layers((_GPTJ + "attn.q_proj", _GPTJ + "attn.k_proj", _GPTJ + "attn.v_proj"), _GPTJ + "attn.out_proj",
                   (_GPTJ + "mlp.fc_in",), _GPTJ + "mlp.fc_out"),
    "gpt_neox": _fused("gpt_neox.layers.*", "attention"),
    "gpt2": Layers((_GPT2 + "attn.c_attn",), _GPT2 + "attn.c_proj", (_GPT2 + "mlp.c_fc",), _GPT2 + "mlp.c_proj"),
    "bert": _bert(),
    "roberta": _bert(),
    "vit": _vit("layers.*"),
    "dinov2": _vit("encoder.layer.*"),
    **dict.fromkeys(("clip-vision", "siglip-vision"), _vit("encoder.layers.*", "self_attn", "out_proj")),
    "clip-vision-side": _vit("vision_model.encoder.layers.*", "self_attn", "out_proj"),
}  # fmt: skip


def expected_places(family: Family, preset: str) -> dict[str, tuple[str, str | None]]:
    """Full name -> position and, for a bottleneck around a whole MLP, the layer whose input feeds it."""
    where, found = WHERE[family.name], {}
    out, into = where.out_of_mlp, where.into_mlp
    by_preset: dict[str, list[tuple[str, str, str | None]]] = {
        "series_h": [*((name, "series-input", None) for name in into), (out, "series-output", None)],
        "series_p": [(out, "series-output", None)],
        "parallel": [(name, "parallel", None) for name in where.into_attention],
        "parallel_mlp": [(into[-1], "parallel", None), (out, "parallel", None)],
        "seq_bn": [(out, "series-output", None)],
        "double_seq_bn": [(where.out_of_attention, "series-output", None), (out, "series-output", None)],
        "par_bn": [(out, "parallel", into[0])],
        "scaled_par_bn": [(out, "parallel", into[0])],
    }
    for name, position, source in by_preset[preset]:
        for i in range(len(family.block_names(family.model()))):
            found[name.replace("*", str(i))] = (position, source and source.replace("*", str(i)))
    return found


# --- the formula --------------------------------------------------------------------------------------------


def activation(name: str, x: Tensor) -> Tensor:
    """The non-linearities, from their definitions."""
    if name == "tanh":
        return (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())
    if name == "relu":
        return x.clamp(min=0)
    if name in ("silu", "swish"):
        return x / (1 + (-x).exp())
    if name == "gelu":
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    if name == "leakyrelu":
        return torch.where(x > 0, x, 0.01 * x)
    assert name == "linear"
    return x


@dataclass(frozen=True)
class Weights:
    """One bottleneck's numbers in float64."""

    down: Tensor
    up: Tensor
    down_bias: Tensor | float
    up_bias: Tensor | float
    scale: float
    non_linearity: str

    def __call__(self, x: Tensor) -> Tensor:
        h = activation(self.non_linearity, x.double() @ self.down.T + self.down_bias)
        return ((h @ self.up.T + self.up_bias) * self.scale).to(x.dtype)


class ByHand(nn.Module):
    """A layer of the base with one bottleneck, in its place."""

    def __init__(self, layer: nn.Module, position: str, f: Weights) -> None:
        super().__init__()
        self.layer, self.position, self.f = layer, position, f
        self.fed: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.position == "series-input":
            return self.layer(x + self.f(x))
        y = self.layer(x)
        if self.position == "series-output":
            return y + self.f(y)
        return y + self.f(self.fed.pop() if self.fed else x)


class Tap(nn.Module):
    """A layer that also hands its input to a bottleneck further on."""

    def __init__(self, layer: nn.Module, to: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.to = layer, to

    def forward(self, x: Tensor) -> Tensor:
        self.to.append(x)
        return self.layer(x)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def by_hand(
    plain: nn.Module, adapted: PeftModel, places: dict[str, tuple[str, str | None]], adapter: str = "default"
) -> nn.Module:
    """A copy of `plain` with the adapter's numbers at `places`, computed from the formula."""
    model = copy.deepcopy(plain)
    config = adapted.peft_config[adapter]
    for name, layer in layers(adapted):
        if adapter not in layer.down:
            continue
        down, up = layer.down[adapter], layer.up[adapter]
        scale = layer.scale[adapter].item() if adapter in layer.scale else config.scaling
        biases = [0.0 if b is None else b.detach().double() for b in (down.bias, up.bias)]
        weights = [w.detach().double() for w in (down.weight, up.weight)]
        position, source = places[name]
        module = ByHand(model.get_submodule(name), position, Weights(*weights, *biases, scale, config.non_linearity))
        replace(model, name, module)
        if source is not None:
            replace(model, source, Tap(model.get_submodule(source), module.fed))
    return model


# --- attaching ----------------------------------------------------------------------------------------------


def bottleneck(family: Family | str, **config: Any) -> BottleneckConfig:
    family = BY_NAME[family] if isinstance(family, str) else family
    size = {} if {"bottleneck_size", "reduction_factor"} & config.keys() else {"bottleneck_size": 5}
    return BottleneckConfig(**{"task_type": "CAUSAL_LM" if family.generates else None, **size, **config})


def attach(family: Family | str, model: nn.Module | None = None, seed: int = 0, **config: Any) -> PeftModel:
    """A tiny model of the family with a random bottleneck adapter on it, in eval mode."""
    family = BY_NAME[family] if isinstance(family, str) else family
    adapted = get_peft_model(family.model() if model is None else model, bottleneck(family, **config))
    return randomise(adapted, seed).eval()


def randomise(model: PeftModel, seed: int = 0, adapter: str = "default") -> PeftModel:
    """Random numbers everywhere, scale and biases too, far from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".bottleneck." in name and f".{adapter}" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def layers(model: nn.Module) -> list[tuple[str, BottleneckLayer]]:
    """The bottleneck layers, by the full name of the Linear layer they sit on."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return [(n.removesuffix(".bottleneck"), m) for n, m in base.named_modules() if isinstance(m, BottleneckLayer)]


def adapter_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if ".bottleneck." in name}


def outputs(family: Family, model: nn.Module, **extra: Any) -> Tensor:
    dtype = next(p.dtype for n, p in model.named_parameters() if ".bottleneck." not in n)
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in family.inputs().items()}
    with torch.no_grad():
        return family.result(model(**inputs, **extra)).detach()
