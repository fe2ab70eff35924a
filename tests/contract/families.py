"""The families of the contract test: a tiny random model of each, and its zero-init attention written out by hand.

The reference is independent of the package. `adapted_by_hand` takes a plain model and puts one hook before each output
projection, which adds `g_h * softmax(q_h K_prompt^T * scale) V_prompt`, head by head in float64. Queries are made again
from the hidden states (projection, norm, rotation), keys and values from slices of the raw weights: both follow each
family's own forward and know nothing of zerogate's table of layouts, its seams or its cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

KeysValues = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
Query = Callable[[Any, Tensor, dict[str, Any]], Tensor]

VOCAB, WIDTH, LAYERS, HEADS = 61, 32, 3, 4


@dataclass(frozen=True)
class Family:
    """A family: how to build a tiny model of it, and the pieces of its attention by hand.

    Attributes:
        build: Makes the model; weights are randomised afterwards, so that no norm or bias is trivial.
        blocks: Paths of the attention modules, in the order of the layers.
        output: Path from an attention module (or, starting with "..", from its parent) to the output projection.
        query: (module, hidden_BTC, the module's keyword arguments) -> [B, T, H, D], as the scores see it.
        keys_values: (module, prompt_KC in float64) -> keys and values [K, G, D].
        scale: (module) -> what the scores are multiplied by.
        inputs: () -> keyword arguments of one forward pass of three rows.
        config: What ZeroInitConfig needs for this family (target_modules).
        generates: Whether it is a causal language model.
        vanilla: Whether prompts can join the text's softmax.
    """

    name: str
    build: Callable[[], Any]
    blocks: str
    output: str
    query: Query
    keys_values: KeysValues
    scale: Callable[[Any], float]
    inputs: Callable[[], dict[str, Tensor]]
    config: dict[str, Any] = field(default_factory=dict)
    softcap: Callable[[Any], float | None] = lambda m: None
    result: Callable[[Any], Tensor] = lambda out: out[0]
    generates: bool = True
    vanilla: bool = True
    interface: bool = True

    def model(self, seed: int = 0, attention: str | None = None) -> Any:
        """A random model in eval mode; `attention` is the base attention implementation."""
        torch.manual_seed(seed)
        model = self.build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
        if attention is not None:
            model.set_attn_implementation(attention)
        return model.eval()

    def attentions(self, model: nn.Module) -> list[nn.Module]:
        """The attention modules of a plain model."""
        return [model.get_submodule(path) for path in self.block_names(model)]

    def block_names(self, model: nn.Module) -> list[str]:
        names = dict(model.named_modules())
        paths = []
        for pattern in self.blocks.split(" "):
            stack = [pattern.replace("*", str(i)) for i in range(64)]
            paths += [path for path in stack if path in names]
        return paths

    def output_projection(self, model: nn.Module, block: str) -> nn.Module:
        if self.output.startswith(".."):
            return attrgetter(self.output[2:])(model.get_submodule(block.rpartition(".")[0]))
        return attrgetter(self.output)(model.get_submodule(block))


# --- equation 7, by hand ------------------------------------------------------------------------------------


def gated_prompts(
    q_BTHD: Tensor, k_KGD: Tensor, v_KGD: Tensor, gate_H: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """`g_h softmax(q_h K^T scale) V`, one head at a time in float64: [B, T, H * D]."""
    H, G = q_BTHD.shape[2], k_KGD.shape[1]
    heads = []
    for h in range(H):
        g = h // (H // G)
        scores = q_BTHD[:, :, h].double() @ k_KGD[:, g].double().T * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        heads.append(gate_H[h].double() * (torch.softmax(scores, dim=-1) @ v_KGD[:, g].double()))
    return torch.cat(heads, dim=-1)


def adapted_by_hand(
    family: Family, plain: nn.Module, prompts: dict[str, Tensor], gates: dict[str, Tensor]
) -> nn.Module:
    """A copy of `plain` with the prompts [K, C] and *effective* gates [H] of each named attention module hooked in."""
    model = copy.deepcopy(plain)
    for block, prompt_KC in prompts.items():
        module = model.get_submodule(block)
        k_KGD, v_KGD = family.keys_values(module, prompt_KC.double())
        seen: dict[str, Tensor] = {}

        def keep(module: Any, args: Any, kwargs: Any, seen: dict[str, Tensor] = seen) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            seen["q"] = family.query(module, hidden, kwargs)

        def add(
            _: Any,
            args: Any,
            module: Any = module,
            seen: Any = seen,
            k: Tensor = k_KGD,
            v: Tensor = v_KGD,
            name: str = block,
        ) -> Any:
            q_BTHD = seen.pop("q")
            gate_H = gates[name].expand(q_BTHD.shape[2])
            extra = gated_prompts(q_BTHD, k, v, gate_H, family.scale(module), family.softcap(module))
            return (args[0] + extra.view_as(args[0]).to(args[0].dtype), *args[1:])

        module.register_forward_pre_hook(keep, with_kwargs=True)
        family.output_projection(model, block).register_forward_pre_hook(add)
    return model


# --- pieces -------------------------------------------------------------------------------------------------


def _linear(layer: Any, x: Tensor, rows: slice = slice(None)) -> Tensor:
    weight, bias = layer.weight.detach().double()[rows], layer.bias
    return x @ weight.T + (0 if bias is None else bias.detach().double()[rows])


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.detach().to(x.dtype)


def rotate_halves(q_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on the first R = cos.shape[-1] components, paired (i, i + R/2)."""
    R = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    rot, rest = q_BTHD[..., :R], q_BTHD[..., R:]
    a, b = rot[..., : R // 2], rot[..., R // 2 :]
    return torch.cat([rot * cos + torch.cat([-b, a], -1) * sin, rest], -1)


def rotate_pairs(q_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE with neighbours paired, (2i, 2i + 1); cos and sin hold each angle twice in a row."""
    R = cos.shape[-1]
    rot, rest = q_BTHD[..., :R], q_BTHD[..., R:]
    turned = torch.stack([-rot[..., 1::2], rot[..., ::2]], -1).flatten(-2)
    return torch.cat([rot * cos[:, :, None] + turned * sin[:, :, None], rest], -1)


def _q(
    projection: str = "q_proj",
    heads: Callable[[Any], int] = lambda m: m.config.num_attention_heads,
    norm: Callable[[Any, Tensor], Tensor] | None = None,
    rotate: Callable[..., Tensor] | None = rotate_halves,
) -> Query:
    def query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        q = attrgetter(projection)(module)(hidden)
        q_BTHD = q.view(*q.shape[:2], heads(module), -1)
        if norm is not None:
            q_BTHD = norm(module, q_BTHD)
        rotates = rotate is not None and getattr(module, "use_rope", True)
        return rotate(q_BTHD, *kwargs["position_embeddings"]) if rotates else q_BTHD

    return query


def _kv(
    key: str = "k_proj",
    value: str = "v_proj",
    kv_heads: Callable[[Any], int] = lambda m: m.config.num_key_value_heads,
    norm: Callable[[Any, Tensor], Tensor] | None = None,
) -> KeysValues:
    def keys_values(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
        shape = (prompt_KC.shape[0], kv_heads(module), -1)
        k = _linear(getattr(module, key), prompt_KC).view(shape)
        v = _linear(getattr(module, value), prompt_KC).view(shape)
        return (k if norm is None else norm(module, k)), v

    return keys_values


def _head_dim_scale(module: Any) -> float:
    return float(module.head_dim) ** -0.5


def _num_heads(module: Any) -> int:
    return int(module.num_heads)


def _attention_heads(module: Any) -> int:
    return int(module.config.num_attention_heads)


# --- inputs -------------------------------------------------------------------------------------------------


def tokens(rows: int = 3, length: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"input_ids": torch.randint(3, VOCAB, (rows, length), generator=generator)}


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))}


def pixels_and_tokens() -> dict[str, Tensor]:
    return {**tokens(3, 6), **pixels()}


def speech() -> dict[str, Tensor]:
    features = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(5))
    return {"input_features": features, "decoder_input_ids": tokens(3, 4)["input_ids"]}


# --- decoders that share LLaMA's parts ----------------------------------------------------------------------

_DECODER: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def _decoder(
    name: str,
    model: Any,
    config: Any,
    query: Query | None = None,
    keys_values: KeysValues | None = None,
    scale: Callable[[Any], float] = _head_dim_scale,
    softcap: Callable[[Any], float | None] = lambda m: None,
    **settings: Any,
) -> Family:
    return Family(
        name=name,
        build=lambda: model(config(**{**_DECODER, **settings})),
        blocks="model.layers.*.self_attn",
        output="o_proj",
        query=query or _q(),
        keys_values=keys_values or _kv(),
        scale=scale,
        inputs=tokens,
        softcap=softcap,
    )


def _rms_head(path: str, shift: float = 0.0) -> Callable[[Any, Tensor], Tensor]:
    def norm(module: Any, x: Tensor) -> Tensor:
        return _rms(x, shift + getattr(module, path).weight, module.config.rms_norm_eps)

    return norm


def _rms_flat(path: str) -> Callable[[Any, Tensor], Tensor]:
    def norm(module: Any, x: Tensor) -> Tensor:
        return _rms(x.flatten(-2), getattr(module, path).weight, module.config.rms_norm_eps).view_as(x)

    return norm


def _layer_norm_heads(path: str) -> Callable[[Any, Tensor], Tensor]:
    def norm(module: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        std = (centred.pow(2).mean(-1, keepdim=True) + module.config.layer_norm_eps).sqrt()
        return centred / std * getattr(module, path).weight.detach().to(x.dtype)

    return norm


def _query_pre_attn(module: Any) -> float:
    return float(module.config.query_pre_attn_scalar) ** -0.5


def _phi3_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    q = module.qkv_proj(hidden)[..., : HEADS * module.head_dim]
    return rotate_halves(q.view(*q.shape[:2], HEADS, -1), *kwargs["position_embeddings"])


def _phi3_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    H, G, D = HEADS * module.head_dim, 2 * module.head_dim, module.head_dim
    k = _linear(module.qkv_proj, prompt_KC, slice(H, H + G))
    v = _linear(module.qkv_proj, prompt_KC, slice(H + G, H + 2 * G))
    return k.view(-1, 2, D), v.view(-1, 2, D)


def _flat_norm(module: Any, path: str, x: Tensor) -> Tensor:
    norm = getattr(module, path, None)
    return x if norm is None else _rms(x, norm.weight, module.config.rms_norm_eps)


def _clipped_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    q = _flat_norm(module, "q_norm", module.q_proj(hidden)).clamp(-0.7, 0.7).unflatten(-1, (HEADS, -1))
    return rotate_halves(q, *kwargs["position_embeddings"])


def _clipped_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    k = _flat_norm(module, "k_norm", _linear(module.k_proj, prompt_KC)).clamp(-0.7, 0.7)
    v = _linear(module.v_proj, prompt_KC).clamp(-0.7, 0.7)
    return k.unflatten(-1, (2, -1)), v.unflatten(-1, (2, -1))


def _scaled_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    k, v = _kv()(module, prompt_KC)
    return k * 0.4, v


DECODERS = [
    _decoder("llama", tf.LlamaForCausalLM, tf.LlamaConfig, num_key_value_heads=HEADS),
    _decoder("llama-grouped", tf.LlamaForCausalLM, tf.LlamaConfig),
    # Rotation needs even heads, so "odd" here is 3 heads of 10; a truly odd size is opt-odd-head's.
    _decoder("llama-odd-head", tf.LlamaForCausalLM, tf.LlamaConfig, hidden_size=30, num_attention_heads=3,
             num_key_value_heads=1),
    _decoder("llama-wide-heads", tf.LlamaForCausalLM, tf.LlamaConfig, head_dim=12),
    _decoder("llama-biased", tf.LlamaForCausalLM, tf.LlamaConfig, attention_bias=True),
    _decoder("mistral", tf.MistralForCausalLM, tf.MistralConfig, sliding_window=4),
    _decoder("qwen2", tf.Qwen2ForCausalLM, tf.Qwen2Config),
    _decoder("qwen3", tf.Qwen3ForCausalLM, tf.Qwen3Config, head_dim=16,
             query=_q(norm=_rms_head("q_norm")), keys_values=_kv(norm=_rms_head("k_norm"))),
    _decoder("gemma", tf.GemmaForCausalLM, tf.GemmaConfig, head_dim=12),
    _decoder("gemma2", tf.Gemma2ForCausalLM, tf.Gemma2Config, head_dim=12, query_pre_attn_scalar=20,
             attn_logit_softcapping=2.0, final_logit_softcapping=5.0, sliding_window=4, scale=_query_pre_attn,
             softcap=lambda m: m.config.attn_logit_softcapping),
    _decoder("gemma3", tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, head_dim=12, query_pre_attn_scalar=20,
             sliding_window=4, scale=_query_pre_attn, query=_q(norm=_rms_head("q_norm", 1.0)),
             keys_values=_kv(norm=_rms_head("k_norm", 1.0))),
    _decoder("phi3", tf.Phi3ForCausalLM, tf.Phi3Config, query=_phi3_query, keys_values=_phi3_kv),
    _decoder("mixtral", tf.MixtralForCausalLM, tf.MixtralConfig, num_local_experts=3),
    # Not in the table: taken by the rule for standard modules.
    _decoder("olmo2", tf.Olmo2ForCausalLM, tf.Olmo2Config, query=_q(norm=_rms_flat("q_norm")),
             keys_values=_kv(norm=_rms_flat("k_norm"))),
    _decoder("cohere", tf.CohereForCausalLM, tf.CohereConfig, query=_q(rotate=rotate_pairs)),
    _decoder("cohere-qk-norm", tf.CohereForCausalLM, tf.CohereConfig, use_qk_norm=True,
             query=_q(norm=_layer_norm_heads("q_norm"), rotate=rotate_pairs),
             keys_values=_kv(norm=_layer_norm_heads("k_norm"))),
    _decoder("olmo-clipped", tf.OlmoForCausalLM, tf.OlmoConfig, clip_qkv=0.7, query=_clipped_query,
             keys_values=_clipped_kv),
    _decoder("olmoe-clipped", tf.OlmoeForCausalLM, tf.OlmoeConfig, clip_qkv=0.7, num_experts=3, num_experts_per_tok=2,
             query=_clipped_query, keys_values=_clipped_kv),
    _decoder("falcon-h1", tf.FalconH1ForCausalLM, tf.FalconH1Config, key_multiplier=0.4, head_dim=8, mamba_d_ssm=32,
             mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, keys_values=_scaled_kv),
    _decoder("granite", tf.GraniteForCausalLM, tf.GraniteConfig, attention_multiplier=0.2,
             scale=lambda m: m.config.attention_multiplier),
    _decoder("smollm3", tf.SmolLM3ForCausalLM, tf.SmolLM3Config, no_rope_layers=[1, 0, 1]),
]  # fmt: skip

# --- decoders with parts of their own -----------------------------------------------------------------------


def _gpt2_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return module.c_attn(hidden)[..., :WIDTH].unflatten(-1, (HEADS, -1))


def _gpt2_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = module.c_attn.weight.detach().double(), module.c_attn.bias.detach().double()  # Conv1D: [in, out]
    k, v = (prompt_KC @ weight[:, s] + bias[s] for s in (slice(WIDTH, 2 * WIDTH), slice(2 * WIDTH, 3 * WIDTH)))
    return k.unflatten(-1, (HEADS, -1)), v.unflatten(-1, (HEADS, -1))


def _per_head_query(module: Any, hidden: Tensor) -> Tensor:
    """From a fused projection whose outputs go head by head: q, k and v of head 0, then of head 1, ..."""
    return module.query_key_value(hidden).unflatten(-1, (HEADS, 3, -1))[..., 0, :]


def _per_head_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    qkv = _linear(module.query_key_value, prompt_KC)
    D = WIDTH // HEADS
    k = torch.stack([qkv[:, 3 * h * D + D : 3 * h * D + 2 * D] for h in range(HEADS)], 1)
    v = torch.stack([qkv[:, 3 * h * D + 2 * D : 3 * (h + 1) * D] for h in range(HEADS)], 1)
    return k, v


def _gptj_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    q_BTHD = module.q_proj(hidden).unflatten(-1, (HEADS, -1))
    R = module.rotary_dim
    frequencies = 1.0 / 10000 ** (torch.arange(0, R, 2) / R)
    angles = (kwargs["position_ids"][..., None] * frequencies).repeat_interleave(2, -1)
    return rotate_pairs(q_BTHD, angles.cos(), angles.sin())


def _falcon_new_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    D = WIDTH // HEADS  # two groups, each [q q k v]
    qkv = module.query_key_value(hidden)
    q = torch.cat([qkv[..., : 2 * D], qkv[..., 4 * D : 6 * D]], -1).unflatten(-1, (HEADS, D))
    return rotate_halves(q, *kwargs["position_embeddings"])


def _falcon_new_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    D = WIDTH // HEADS
    qkv = _linear(module.query_key_value, prompt_KC)
    k = torch.stack([qkv[:, 2 * D : 3 * D], qkv[:, 6 * D : 7 * D]], 1)
    v = torch.stack([qkv[:, 3 * D : 4 * D], qkv[:, 7 * D : 8 * D]], 1)
    return k, v


def _falcon_single_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    q = module.query_key_value(hidden)[..., :WIDTH].unflatten(-1, (HEADS, -1))
    return rotate_halves(q, *kwargs["position_embeddings"])


def _falcon_single_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    D = WIDTH // HEADS
    k = _linear(module.query_key_value, prompt_KC, slice(WIDTH, WIDTH + D))
    v = _linear(module.query_key_value, prompt_KC, slice(WIDTH + D, WIDTH + 2 * D))
    return k[:, None], v[:, None]


def _mpt_query(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return module.Wqkv(hidden).clamp(-1.5, 1.5)[..., :WIDTH].unflatten(-1, (HEADS, -1))


def _mpt_kv(module: Any, prompt_KC: Tensor) -> tuple[Tensor, Tensor]:
    qkv = _linear(module.Wqkv, prompt_KC).clamp(-1.5, 1.5)
    return qkv[:, WIDTH : 2 * WIDTH].unflatten(-1, (HEADS, -1)), qkv[:, 2 * WIDTH :].unflatten(-1, (HEADS, -1))


def _rotated_per_head(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return rotate_halves(_per_head_query(module, hidden), *kwargs["position_embeddings"])


def _plain_per_head(module: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return _per_head_query(module, hidden)


_IDS: dict[str, Any] = dict(vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2)
_FUSED_SCALE = (WIDTH // HEADS) ** -0.5


def _fixed_scale(module: Any) -> float:
    return _FUSED_SCALE


def _own(
    name: str, build: Callable[[], Any], blocks: str, output: str, query: Query, keys_values: KeysValues, **rest: Any
) -> Family:
    rest.setdefault("scale", _fixed_scale)
    rest.setdefault("inputs", tokens)
    return Family(name=name, build=build, blocks=blocks, output=output, query=query, keys_values=keys_values, **rest)


def _falcon(name: str, query: Query, keys_values: KeysValues, **settings: Any) -> Family:
    config = dict(**_IDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, **settings)
    return _own(
        name, lambda: tf.FalconForCausalLM(tf.FalconConfig(**config)), "transformer.h.*.self_attention", "dense",
        query, keys_values, vanilla=False, interface=False,
    )  # fmt: skip


def _opt(name: str, width: int) -> Family:
    config = dict(
        **_IDS, hidden_size=width, ffn_dim=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_position_embeddings=64, word_embed_proj_dim=width,
    )  # fmt: skip
    return _own(
        name, lambda: tf.OPTForCausalLM(tf.OPTConfig(**config)), "model.decoder.layers.*.self_attn", "out_proj",
        _q(heads=_num_heads, rotate=None), _kv(kv_heads=_num_heads), scale=_head_dim_scale,
    )  # fmt: skip


def _gpt2(name: str, **settings: Any) -> Family:
    config = dict(**_IDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=64, n_inner=48, **settings)
    by_layer = settings.get("scale_attn_by_inverse_layer_idx", False)
    scale = 1.0 if settings.get("scale_attn_weights") is False else _FUSED_SCALE
    return _own(
        name, lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**config)), "transformer.h.*.attn", "c_proj", _gpt2_query,
        _gpt2_kv,
        scale=lambda m: scale / (m.layer_idx + 1 if by_layer else 1),
    )  # fmt: skip


OWN = [
    _opt("opt", WIDTH),
    _opt("opt-odd-head", 28),
    _gpt2("gpt2"),
    _gpt2("gpt2-scales", scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True),
    _own(
        "gpt_neox",
        lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_IDS, hidden_size=WIDTH, intermediate_size=48,
                                                       num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                                                       rotary_pct=0.5, max_position_embeddings=64)),
        "gpt_neox.layers.*.attention", "dense", _rotated_per_head, _per_head_kv,
    ),
    _own(
        "gptj",
        lambda: tf.GPTJForCausalLM(tf.GPTJConfig(**_IDS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, rotary_dim=4,
                                                 n_positions=64, n_inner=48)),
        "transformer.h.*.attn", "out_proj", _gptj_query, _kv(kv_heads=lambda m: HEADS), interface=False,
    ),
    _own(
        "bloom",
        lambda: tf.BloomForCausalLM(tf.BloomConfig(**_IDS, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS)),
        "transformer.h.*.self_attention", "dense", _plain_per_head, _per_head_kv, vanilla=False, interface=False,
    ),
    _falcon("falcon-new", _falcon_new_query, _falcon_new_kv, new_decoder_architecture=True, num_kv_heads=2),
    _falcon("falcon-multi-query", _falcon_single_query, _falcon_single_kv, multi_query=True, bias=True),
    _falcon("falcon-plain", _rotated_per_head, _per_head_kv, multi_query=False, parallel_attn=False),
    _falcon("falcon-alibi", _plain_per_head, _per_head_kv, multi_query=False, alibi=True, bias=True),
    _own(
        "mpt",
        lambda: tf.MptForCausalLM(tf.MptConfig(**_IDS, d_model=WIDTH, n_heads=HEADS, n_layers=LAYERS, expansion_ratio=2,
                                               max_seq_len=64, attn_config={"clip_qkv": 1.5, "softmax_scale": 0.3})),
        "transformer.blocks.*.attn", "out_proj", _mpt_query, _mpt_kv, scale=lambda m: 0.3, vanilla=False,
        interface=False,
    ),
]  # fmt: skip

# --- encoders: text, image, speech --------------------------------------------------------------------------

_ENCODER: dict[str, Any] = dict(
    hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS
)
_IMAGE: dict[str, Any] = dict(**_ENCODER, image_size=8, patch_size=4)
_TEXT: dict[str, Any] = dict(**_ENCODER, **_IDS, max_position_embeddings=16)
_BERT = dict(
    output="..output.dense", query=_q("query", rotate=None), keys_values=_kv("key", "value", _attention_heads),
    generates=False,
)  # fmt: skip
_VIT = dict(
    output="o_proj", query=_q(rotate=None), keys_values=_kv(kv_heads=_attention_heads), inputs=pixels, generates=False
)  # fmt: skip
_TOWER = dict(
    output="out_proj", query=_q(heads=_num_heads, rotate=None), keys_values=_kv(kv_heads=_num_heads), generates=False
)  # fmt: skip


def _whisper() -> Any:
    return tf.WhisperForConditionalGeneration(
        tf.WhisperConfig(
            **_IDS, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=2, encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8,
            max_source_positions=6,
            max_target_positions=16, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip


def _clip() -> Any:
    return tf.CLIPModel(tf.CLIPConfig(text_config=_TEXT, vision_config=_IMAGE, projection_dim=24))


_CLIP_BOTH = "text_model.encoder.layers.*.self_attn vision_model.encoder.layers.*.self_attn"

ENCODERS = [
    _own("bert", lambda: tf.BertModel(tf.BertConfig(**_TEXT)), "encoder.layer.*.attention.self", **_BERT),
    _own("roberta", lambda: tf.RobertaModel(tf.RobertaConfig(**{**_TEXT, "pad_token_id": 1})),
         "encoder.layer.*.attention.self", **_BERT),
    _own("vit", lambda: tf.ViTModel(tf.ViTConfig(**_IMAGE)), "layers.*.attention", **_VIT),
    _own("dinov2", lambda: tf.Dinov2Model(tf.Dinov2Config(**_IMAGE)), "encoder.layer.*.attention", **_VIT),
    _own("siglip-vision", lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**_IMAGE)),
         "encoder.layers.*.self_attn", inputs=pixels, **_TOWER),
    _own("siglip-text", lambda: tf.SiglipTextModel(tf.SiglipTextConfig(**_TEXT)),
         "encoder.layers.*.self_attn", **_TOWER),
    _own("clip-vision", lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**_IMAGE)),
         "encoder.layers.*.self_attn", inputs=pixels, **_TOWER),
    _own("clip-text", lambda: tf.CLIPTextModel(tf.CLIPTextConfig(**_TEXT)),
         "encoder.layers.*.self_attn", **_TOWER),
    _own("clip-both", _clip, _CLIP_BOTH, inputs=pixels_and_tokens, config={"target_modules": ".*"},
         result=lambda out: torch.cat([out.logits_per_image, out.image_embeds, out.text_embeds], -1), **_TOWER),
    _own("clip-vision-side", _clip, _CLIP_BOTH.split(" ")[1], inputs=pixels_and_tokens,
         config={"target_modules": r"vision_model\..*"}, result=lambda out: out.logits_per_image, **_TOWER),
    _own("whisper-encoder", _whisper, "model.encoder.layers.*.self_attn", inputs=speech,
         config={"target_modules": r"model\.encoder\..*"}, **_TOWER),
]  # fmt: skip

FAMILIES = [*DECODERS, *OWN, *ENCODERS]
BY_NAME = {family.name: family for family in FAMILIES}
