"""Tiny LLaMAs, an adapter to convert, and an independent forward pass to judge conversions by.

`by_the_paper` is a LLaMA written out from its definition, in fp64, with equation 7 of LLaMA-Adapter in its attention.
It
shares no code with the adapters or with transformers: it takes weights, prompts and *effective* gates, and gives
logits.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from zerogate.adapters.convert import Base, PromptAdapter, read_zerogate, to_zero_init

N, C, H, D = 5, 32, 4, 8


def llama_config(**changes: object) -> LlamaConfig:
    sizes = {"vocab_size": 61, "hidden_size": C, "intermediate_size": 48, "num_hidden_layers": N}
    return LlamaConfig(**{**sizes, "num_attention_heads": H, "num_key_value_heads": H, **changes})


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    """A random LLaMA with weights large enough that attention is not flat, and norms that are not all 1."""
    torch.manual_seed(3)
    model = LlamaForCausalLM(llama_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                1 + 0.2 * torch.randn_like(parameter) if "norm" in name else 0.2 * torch.randn_like(parameter)
            )
    return model


def base_of(model: nn.Module, name: str | None = None) -> Base:
    return Base.from_config(model.config, name)


def random_adapter(
    layers: list[int], *, K: int = 3, heads: int = H, activation: str = "tanh", scale: float = 1.0, size: float = 0.8
) -> PromptAdapter:
    generator = torch.Generator().manual_seed(7)
    return PromptAdapter(
        modules={i: f"model.layers.{i}.self_attn" for i in layers},
        prompts_LKC=torch.randn(len(layers), K, C, generator=generator),
        gates_LH=torch.randn(len(layers), heads, generator=generator) * size,
        activation=activation,
        scale=scale,
    )


def ours(model: nn.Module, adapter: PromptAdapter | Path) -> nn.Module:
    """`model` with the adapter attached through PEFT, as a user would."""
    config, state = to_zero_init(adapter if isinstance(adapter, PromptAdapter) else read_zerogate(adapter))
    adapted = get_peft_model(model, config)
    result = set_peft_model_state_dict(adapted, state)
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "zero_init" in key]
    return adapted.eval()


def logits(model: nn.Module, ids_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids_BT).logits


def some_tokens() -> Tensor:
    return torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(1))


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@torch.no_grad()
def by_the_paper(model: LlamaForCausalLM, prompts: dict[int, tuple[Tensor, Tensor]], ids_BT: Tensor) -> Tensor:
    """Logits of a LLaMA whose layer i attends to prompts [K, C] through effective gates [H], for i in `prompts`."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    config = model.config
    heads, groups, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    B, T = ids_BT.shape

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    def rotate(x_BHTD: Tensor) -> Tensor:
        frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle = torch.arange(T, dtype=torch.float64)[:, None] * frequency
        first, second = x_BHTD[..., : D // 2], x_BHTD[..., D // 2 :]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    def to_heads(x: Tensor, count: int) -> Tensor:
        return x.reshape(*x.shape[:-1], count, D).transpose(-2, -3)

    x = weights["model.embed_tokens.weight"][ids_BT]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        wq, wk, wv, wo = (weights[f"{at}self_attn.{p}_proj.weight"] for p in "qkvo")
        bias = {p: weights.get(f"{at}self_attn.{p}_proj.bias", torch.zeros(1)) for p in "qkvo"}
        h = norm(x, at + "input_layernorm.weight")
        q = rotate(to_heads(h @ wq.T + bias["q"], heads))
        k = rotate(to_heads(h @ wk.T + bias["k"], groups)).repeat_interleave(heads // groups, 1)
        v = to_heads(h @ wv.T + bias["v"], groups).repeat_interleave(heads // groups, 1)
        scores = (q @ k.transpose(-1, -2) / D**0.5).masked_fill(future, -torch.inf)
        out = scores.softmax(-1) @ v
        if i in prompts:
            P, gate = (t.double() for t in prompts[i])
            pk = to_heads(P @ wk.T + bias["k"], groups).repeat_interleave(heads // groups, 0)
            pv = to_heads(P @ wv.T + bias["v"], groups).repeat_interleave(heads // groups, 0)
            out = out + gate.reshape(-1, 1, 1) * ((q @ pk.transpose(-1, -2) / D**0.5).softmax(-1) @ pv)
        x = x + out.transpose(1, 2).reshape(B, T, -1) @ wo.T + bias["o"]
        h = norm(x, at + "post_attention_layernorm.weight")
        gate_up = [h @ weights[f"{at}mlp.{p}_proj.weight"].T for p in ("gate", "up")]
        x = x + (nn.functional.silu(gate_up[0]) * gate_up[1]) @ weights[at + "mlp.down_proj.weight"].T
    return (norm(x, "model.norm.weight") @ weights["lm_head.weight"].T).float()
