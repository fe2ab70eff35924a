"""The contract, point 6: what cannot be done says so before anything is changed, and names the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, HEADS, WIDTH
from helpers import attach, layers, outputs, randomise, zero_init
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from zerogate import Layout, ZeroInitConfig, register_layout
from zerogate.adapters.layouts import LAYOUTS, find_blocks

LLAMA = BY_NAME["llama-grouped"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_length": 0}, r"prompt_length \(K\) must be at least 1, not 0"),
        ({"num_layers": 0}, r"num_layers \(L\) must be at least 1, not 0"),
        ({"num_layers": 1, "layers_to_transform": [0]}, "not both"),
        ({"gate_activation": "relu"}, "gate_activation='relu' must be one of 'tanh', 'identity'"),
        ({"gate_per": "token"}, "gate_per='token'"),
        ({"attention": "linear"}, "attention='linear'"),
        ({"save_dtype": "int8"}, "save_dtype='int8'"),
        ({"gate_scale": 0.0}, "must be positive"),
        ({"prompt_init_std": -1.0}, "must be positive"),
    ],
    ids=str,
)
def test_a_config_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZeroInitConfig(**settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llama-grouped", {"num_layers": 4}, r"num_layers=4 \(L\) is more than the 3 attention layers \(N\)"),
        ("llama-grouped", {"layers_to_transform": [1, 7]}, r"layers \[7\].*layers 0 to 2"),
        ("llama-grouped", {"target_modules": "nothing"}, r"matches none.*model\.layers\.0\.self_attn"),
        ("llama-grouped", {"target_modules": ["mlp"]}, "matches none"),
        ("llama-grouped", {"exclude_modules": ".*self_attn"}, "without exclude_modules='.*self_attn' matches none"),
        ("clip-both", {"target_modules": None}, r"several stacks.*text_model.*vision_model.*target_modules="),
        ("bloom", {"attention": "vanilla"}, 'BloomAttention.*attention="zero_init"'),
        ("falcon-new", {"attention": "vanilla"}, "FalconAttention"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_model(name: str, settings: dict[str, Any], message: str) -> None:
    family = BY_NAME[name]
    plain = family.model()
    before = outputs(family, plain)
    with pytest.raises(ValueError, match=message):
        get_peft_model(plain, zero_init(family, **settings))
    assert torch.equal(outputs(family, plain), before)
    assert not any("zero_init" in n for n, _ in plain.named_modules())


def test_names_to_leave_out() -> None:
    left = attach(LLAMA, exclude_modules=r".*layers\.0\..*")
    assert [name for name, _ in layers(left)] == ["model.layers.1.self_attn", "model.layers.2.self_attn"]
    eyes = attach(BY_NAME["clip-both"], target_modules=None, exclude_modules=r".*text_model.*")
    assert {name.split(".")[0] for name, _ in layers(eyes)} == {"vision_model"}


def test_a_stack_of_which_a_part_is_unknown() -> None:
    """Llama 4 has a norm of its own kind in three of four layers."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, intermediate_size_mlp=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=2, use_qk_norm=True, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"model\.layers\.3\.self_attn is one .* model\.layers\.0\.self_attn is not"):
        get_peft_model(Llama4ForCausalLM(config), ZeroInitConfig())


def test_merging() -> None:
    model = attach(LLAMA)
    for merge in (model.merge_and_unload, model.merge_adapter, layers(model)[0][1].merge):
        with pytest.raises(ValueError, match=r"cannot be merged.*unload\(\)"):
            merge()
    assert torch.equal(outputs(LLAMA, model), outputs(LLAMA, attach(LLAMA)))


def test_an_adapter_for_another_base(tmp_path: Path) -> None:
    """Wider, deeper, another number of heads: each names the parameter and both shapes, or the layers."""
    import transformers as tf

    attach(LLAMA).save_pretrained(tmp_path)
    shape = dict(vocab_size=61, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=HEADS)
    for change, message in [
        ({"hidden_size": 48, "num_attention_heads": 4}, r"zero_init\.prompt.*\[3, 32\].*\[3, 48\]"),
        ({"num_attention_heads": 8}, r"zero_init\.gate.*\[4\].*\[8\]"),
    ]:
        other = tf.LlamaForCausalLM(tf.LlamaConfig(**{**shape, **change}))
        with pytest.raises((ValueError, RuntimeError), match=rf"(?s)size mismatch.*{message}"):
            PeftModel.from_pretrained(other, tmp_path)


def test_names_of_adapters_in_a_batch() -> None:
    model = attach(LLAMA)
    model.add_adapter("same-softmax", zero_init(LLAMA, attention="vanilla"))
    ids = LLAMA.inputs()["input_ids"]
    with pytest.raises(ValueError, match="2 entries for a batch of 3 rows"):
        model(input_ids=ids, adapter_names=["default", "__base__"])
    with pytest.raises(ValueError, match="2 entries for a batch of 3 rows"):
        model.generate(input_ids=ids, adapter_names=["default", "__base__"], max_new_tokens=1, num_beams=2)
    with pytest.raises(ValueError, match=r"No adapter named other.*__base__, default, same-softmax"):
        model(input_ids=ids, adapter_names=["default", "other", "__base__"])
    with pytest.raises(ValueError, match=r"same-softmax.*cannot share a batch"):
        model(input_ids=ids, adapter_names=["default", "same-softmax", "__base__"])
    with pytest.raises(TypeError, match="list with one adapter name per row"):
        model(input_ids=ids, adapter_names="default")
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        model.train()(input_ids=ids, adapter_names=["default"] * 3)
    with pytest.raises(ValueError, match="active only alone"):
        model.base_model.set_adapter(["default", "same-softmax"])


def test_what_the_rule_for_standard_modules_cannot_get_right_is_refused() -> None:
    """Keys that are multiplied, norms without weights, heads that are padded: better an error than other keys."""
    import transformers as tf

    small: dict[str, Any] = dict(
        vocab_size=61, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    nanochat = tf.NanoChatForCausalLM(tf.NanoChatConfig(**small))
    with pytest.raises(ValueError, match=r"k_norm.*NanoChatAttention.*register_layout|k_norm.*Register a layout"):
        get_peft_model(nanochat, ZeroInitConfig())
    swin = tf.SwinModel(
        tf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    )
    with pytest.raises(ValueError, match=r"Swin.*register_layout"):
        get_peft_model(swin, ZeroInitConfig())


# --- a family of your own -----------------------------------------------------------------------------------


def test_an_attention_function_without_a_name() -> None:
    """As somebody may register one: a functools.partial."""
    from functools import partial

    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("nameless", partial(sdpa_attention_forward))
    for attention in ("zero_init", "vanilla"):
        model = attach(LLAMA, attention=attention)
        expected = outputs(LLAMA, model)
        model.get_base_model().set_attn_implementation("nameless")
        torch.testing.assert_close(outputs(LLAMA, model), expected, rtol=1e-4, atol=1e-5)


class OwnConfig(PreTrainedConfig):
    model_type = "own-family"

    def __init__(self, width: int = 24, n_head: int = 4, layers: int = 2, **kwargs: Any) -> None:
        self.width, self.n_head, self.layers = width, n_head, layers
        super().__init__(**kwargs)


class OwnAttention(nn.Module):
    is_causal = False

    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.config, self.n_head, self.d_head = config, config.n_head, config.width // config.n_head
        self.c_in, self.wq, self.wk, self.wv, self.wo = (
            config.width,
            *(nn.Linear(config.width, config.width) for _ in "qkvo"),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        return self.wo(attention(self, q, k, v, None, scaling=0.3)[0].flatten(2))


class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    _supports_sdpa = True

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(nn.ModuleDict({"mixer": OwnAttention(config)}) for _ in range(config.layers))
        self.post_init()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        for block in self.blocks:
            x = x + block["mixer"](x)
        return (x,)


def test_an_unknown_family_says_how_to_register_it_and_then_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogate.adapters.layouts.LAYOUTS", dict(LAYOUTS))
    torch.manual_seed(0)
    model = OwnModel(OwnConfig(attn_implementation="sdpa")).eval()
    x = torch.randn(2, 5, 24)
    before = model(x)[0].detach()
    with pytest.raises(ValueError, match=r"OwnModel.*OwnAttention.*register_layout"):
        get_peft_model(model, ZeroInitConfig())
    assert find_blocks(model) == []

    register_layout(
        "OwnAttention",
        Layout(key="wk", value="wv", heads="n_head", kv_heads="n_head", head_dim="d_head", width="c_in"),
    )

    adapted = get_peft_model(model, ZeroInitConfig(prompt_length=3)).eval()
    assert torch.equal(adapted(x)[0], before)
    randomise(adapted)
    ours = adapted(x)[0].detach()
    expected = x
    for (_, layer), block in zip(layers(adapted), model.blocks, strict=True):
        mixer: Any = block["mixer"]
        q, k, v = (w(expected).unflatten(-1, (4, 6)) for w in (mixer.wq, mixer.wk, mixer.wv))
        prompt = layer.prompt["default"]
        pk, pv = mixer.wk(prompt).unflatten(-1, (4, 6)), mixer.wv(prompt).unflatten(-1, (4, 6))
        heads = []
        for h in range(4):
            text = torch.softmax(0.3 * q[:, :, h] @ k[:, :, h].transpose(1, 2), -1) @ v[:, :, h]
            gated = torch.softmax(0.3 * q[:, :, h] @ pk[:, h].T, -1) @ pv[:, h]
            heads.append(text + torch.tanh(layer.configs["default"].gate_scale * layer.gate["default"][h]) * gated)
        expected = expected + mixer.wo(torch.cat(heads, -1))
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_layout_of_wrong_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerogate.adapters.layouts.LAYOUTS", dict(LAYOUTS))
    wrong = Layout(key="wk", value="wv", heads="n_head", kv_heads="n_head", head_dim="n_head", width="c_in")
    register_layout("OwnAttention", wrong)
    with pytest.raises(ValueError, match=r"blocks\.0\.mixer\.wk \(OwnAttention\) maps 24 to 24.*24 to 16"):
        get_peft_model(OwnModel(OwnConfig()), ZeroInitConfig())


def test_attention_that_bypasses_the_seam_is_noticed() -> None:
    """GPT-2 with eager and reordered attention never asks the interface: silence there would mean a useless adapter."""
    import transformers as tf

    plain = tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=61, n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=32, reorder_and_upcast_attn=True
        )
    )
    plain.set_attn_implementation("eager")
    model = get_peft_model(plain, ZeroInitConfig(task_type="CAUSAL_LM"))
    with pytest.raises(RuntimeError, match=r"transformer\.h\.0\.attn never came through.*attn_implementation"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))
