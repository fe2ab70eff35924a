"""VPT, side-tuning and gated prefixes: each against its formula written out, and through PEFT's whole life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from zerogate import GatedPrefixConfig, SideConfig, VPTConfig


def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CONFIGS = [VPTConfig(prompt_length=3), VPTConfig(prompt_length=3, deep=False), SideConfig(channels=4),
           GatedPrefixConfig(prompt_length=3)]  # fmt: skip
IDS = ["vpt-deep", "vpt-shallow", "side", "gated-prefix"]


def randomised(model: Any) -> Any:
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.5)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("deep", [True, False])
def test_vpt_by_hand(deep: bool) -> None:
    adapted = randomised(get_peft_model(vit(), VPTConfig(prompt_length=3, deep=deep)))
    base = vit()
    x_BTC = base.vit.embeddings(PIXELS)
    prompts = [p for n, p in adapted.named_parameters() if ".vpt.prompt." in n]
    assert len(prompts) == (3 if deep else 1)
    for index, layer in enumerate(base.vit.layers):
        if deep or index == 0:
            # After the class token, where the paper has them; deep prompts replace those of the layer before.
            patches = x_BTC[:, 1:] if index == 0 else x_BTC[:, 4:]
            x_BTC = torch.cat([x_BTC[:, :1], prompts[index].expand(2, -1, -1), patches], 1)
        x_BTC = layer(x_BTC)
    expected = base.classifier(base.vit.layernorm(x_BTC)[:, 0])
    assert torch.allclose(adapted(pixel_values=PIXELS).logits, expected, atol=1e-5)
    assert adapted.get_base_model().vit(PIXELS).last_hidden_state.shape == (2, 17, 32)


@torch.no_grad()
def test_side_tuning_by_hand() -> None:
    adapted = randomised(get_peft_model(vit(), SideConfig(channels=4)))
    side = {name.split(".side.")[1]: p for name, p in adapted.named_parameters() if ".side." in name}
    x = PIXELS
    for conv in ("conv1", "conv2", "conv3"):
        x = F.conv2d(x, side[f"{conv}.default.weight"], side[f"{conv}.default.bias"], stride=2, padding=1)
        x = F.gelu(F.layer_norm(x, x.shape[1:]))
    features_BC = F.linear(x.mean((2, 3)), side["project.default.weight"], side["project.default.bias"])
    share = torch.sigmoid(side["mix.default"])
    base = vit()
    token_BC = base.vit(PIXELS).last_hidden_state[:, 0]
    expected = base.classifier(share * token_BC + (1 - share) * features_BC)
    assert torch.allclose(adapted(pixel_values=PIXELS).logits, expected, atol=1e-5)


def prefixed_attention(query: Any, key: Any, value: Any, prefix_KF: Any, gate: Any, causal: bool) -> Any:
    """Equation 7 with keys and values that are learned; [B, H, T, D] in and out."""
    B, H, T, D = query.shape
    G, K = key.shape[1], prefix_KF.shape[0]
    own = F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
    keys, values = prefix_KF[:, : G * D], prefix_KF[:, G * D :]
    out = []
    for head in range(H):
        group = head // (H // G)
        k_KD, v_KD = keys[:, group * D : (group + 1) * D], values[:, group * D : (group + 1) * D]
        scores = (query[:, head] @ k_KD.T / D**0.5).softmax(-1)
        assert scores.shape == (B, T, K)
        out.append(own[:, head] + torch.tanh(gate[head]) * (scores @ v_KD))
    return torch.stack(out, 1)


@torch.no_grad()
def test_gated_prefix_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = randomised(get_peft_model(llama(), GatedPrefixConfig(prompt_length=3, gate_scale=1.0)))
    layers = [m for n, m in adapted.named_modules() if n.endswith("self_attn.zero_init")]
    ids = torch.arange(12).reshape(2, 6)
    base = llama()
    at = iter(layers)
    original = base.config._attn_implementation

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def by_hand(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        layer = next(at)
        out = prefixed_attention(query, key, value, layer.prompt["default"], layer.gate["default"], causal=True)
        return out.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("by_hand", by_hand)
    base.config._attn_implementation = "by_hand"
    expected = base(input_ids=ids).logits
    assert original == "sdpa" and next(at, None) is None
    assert torch.allclose(adapted(input_ids=ids).logits, expected, atol=1e-5)


@torch.no_grad()
def test_gated_prefix_begins_as_the_base_and_vanilla_does_not() -> None:
    ids = torch.arange(12).reshape(2, 6)
    plain = llama()(input_ids=ids).logits
    assert torch.equal(get_peft_model(llama(), GatedPrefixConfig()).eval()(input_ids=ids).logits, plain)
    vanilla = get_peft_model(llama(), GatedPrefixConfig(attention="vanilla")).eval()(input_ids=ids).logits
    assert not torch.allclose(vanilla, plain, atol=1e-3)


@torch.no_grad()
def test_vanilla_prefixes_are_pefts_prefix_tuning() -> None:
    """P-tuning v2: the same numbers put where PEFT has them give the same answers."""
    from peft import PrefixTuningConfig

    def bert() -> BertForTokenClassification:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            position_embedding_type="absolute", num_labels=3,
        )  # fmt: skip
        return BertForTokenClassification(config).eval()

    ours = randomised(get_peft_model(bert(), GatedPrefixConfig(prompt_length=3, attention="vanilla")))
    theirs = get_peft_model(bert(), PrefixTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=3)).eval()
    prefixes = [p for n, p in ours.named_parameters() if ".zero_init.prompt." in n]
    theirs.prompt_encoder["default"].embedding.weight.data = torch.cat(prefixes, 1)
    ids, mask = torch.arange(12).reshape(2, 6), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    # The tokens' places differ: PEFT counts the prefix as places before the text, and BERT's are absolute.
    places = torch.arange(3, 9).expand(2, -1)
    said = ours(input_ids=ids, attention_mask=mask, position_ids=places).logits
    expected = theirs(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(said[0], expected[0], atol=1e-5) and torch.allclose(said[1, :4], expected[1, :4], atol=1e-5)


def inputs(config: Any) -> dict[str, Any]:
    return (
        {"input_ids": torch.arange(12).reshape(2, 6)}
        if isinstance(config, GatedPrefixConfig)
        else {"pixel_values": PIXELS}
    )


def base_of(config: Any) -> Any:
    return llama() if isinstance(config, GatedPrefixConfig) else vit()


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_gradients_reach_what_is_trained_alone(config: Any) -> None:
    adapted = randomised(get_peft_model(base_of(config), config)).train()
    adapted(**inputs(config)).logits.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None)
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name  # type: ignore[union-attr]


@torch.no_grad()
@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_saved_loaded_switched_and_unloaded(config: Any, tmp_path: Path) -> None:
    plain = base_of(config)(**inputs(config)).logits
    adapted = randomised(get_peft_model(base_of(config), config))
    said = adapted(**inputs(config)).logits
    assert not torch.allclose(said, plain, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(adapted(**inputs(config)).logits, plain)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_of(config), tmp_path).eval()
    assert torch.equal(loaded(**inputs(config)).logits, said)
    loaded.load_adapter(tmp_path, "second")
    loaded.set_adapter("second")
    assert torch.equal(loaded(**inputs(config)).logits, said)
    loaded.delete_adapter("second")
    assert torch.equal(loaded(**inputs(config)).logits, said)
    with pytest.raises(ValueError, match="cannot be merged"):
        loaded.merge_and_unload()
    assert torch.equal(loaded.unload()(**inputs(config)).logits, plain)


@pytest.mark.parametrize("config", CONFIGS[:3], ids=IDS[:3])
def test_other_models_and_mixed_batches_are_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"takes no pictures|no vision transformer"):
        get_peft_model(llama(), config)
    adapted = get_peft_model(vit(), config)
    with pytest.raises(ValueError, match="cannot share a batch"):
        adapted(pixel_values=PIXELS, adapter_names=["default", "__base__"])


@pytest.mark.parametrize("wrong", [lambda: VPTConfig(prompt_length=0), lambda: SideConfig(channels=0)])
def test_values_out_of_range(wrong: Any) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        wrong()
