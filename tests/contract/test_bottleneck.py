"""The contract for bottleneck adapters, points 1 to 3: identity, the formula, gradients. Every family, every preset."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from bottleneck_by_hand import (
    BOTTLENECK_FAMILIES,
    adapter_parameters,
    attach,
    bottleneck,
    by_hand,
    expected_places,
    layers,
    outputs,
)
from families import BY_NAME, Family
from peft import get_peft_model
from torch import Tensor, nn

from zerogate import BottleneckConfig
from zerogate.adapters.bottleneck import PRESETS

every_family = pytest.mark.parametrize("family", BOTTLENECK_FAMILIES, ids=lambda f: f.name)


def assert_same(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@every_family
def test_identity_then_the_formula_for_every_preset(family: Family) -> None:
    plain = family.model()
    base = outputs(family, plain)
    for preset in PRESETS:
        places = expected_places(family, preset)
        fresh = get_peft_model(family.model(), bottleneck(family, preset=preset)).eval()
        assert torch.equal(outputs(family, fresh), base), preset
        adapted = attach(family, preset=preset, use_bias=preset == "parallel")
        assert {name for name, _ in layers(adapted)} == set(places), preset
        ours = outputs(family, adapted)
        assert_same(ours, outputs(family, by_hand(plain, adapted, places)))
        assert (ours - base).abs().max() > 1e-3, preset
        with adapted.disable_adapter():
            assert torch.equal(outputs(family, adapted), base), preset
        assert torch.equal(outputs(family, adapted), ours), preset


SETTINGS: list[dict[str, Any]] = [
    *({"non_linearity": name} for name in ("tanh", "relu", "gelu", "silu", "swish", "leakyrelu", "linear")),
    {"scaling": 2.5, "use_bias": True},
    {"scaling": "learned", "reduction_factor": 8},
    {"init_weights": "bert", "position": "series-input", "target_modules": ["v_proj", "down_proj"]},
    {"target_modules": "all-linear", "position": "parallel"},
    {"layers_to_transform": [0, 2], "exclude_modules": r".*\.2\.mlp\.down_proj", "preset": "series_h"},
    {"target_modules": ["up_proj", "o_proj"], "position": {"up_proj": "parallel", r"\d\..*o_proj": "series-input"}},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_formula_for_each_setting(settings: dict[str, Any]) -> None:
    family = BY_NAME["llama-grouped"]
    adapted = attach(family, **settings)
    config = adapted.peft_config["default"]
    places: dict[str, tuple[str, str | None]] = {}
    for name, layer in layers(adapted):
        said = settings.get("position", "series-output")
        if "exclude_modules" in settings:
            said = "series-output" if "down" in name else "series-input"
        elif isinstance(said, dict):
            said = "parallel" if "up_proj" in name else "series-input"
        assert layer.positions == {"default": said}
        places[name] = (said, None)
        width = layer.down["default"].in_features
        assert (
            layer.down["default"].out_features
            == config.size(width)
            == (width // 8 if "reduction_factor" in settings else 5)
        )
    if "layers_to_transform" in settings:
        assert {name.split(".")[2] + name.split(".")[-1] for name in places} == {
            "0gate_proj", "0up_proj", "0down_proj", "2gate_proj", "2up_proj"
        }  # fmt: skip
    if settings.get("target_modules") == "all-linear":
        assert len(places) == 7 * 3 and "lm_head" not in places
    plain = family.model()
    ours = outputs(family, adapted)
    assert_same(ours, outputs(family, by_hand(plain, adapted, places)))
    assert (ours - outputs(family, plain)).abs().max() > 1e-3


def test_inits() -> None:
    family = BY_NAME["llama-grouped"]
    wide = dict(bottleneck_size=400, target_modules=["down_proj"])
    for init in ("identity", "mam", "bert"):
        for _, layer in layers(
            get_peft_model(family.model(), bottleneck(family, init_weights=init, use_bias=True, **wide))
        ):
            down, up = layer.down["default"], layer.up["default"]
            bound = 0.02 if init == "bert" else 1 / (3 * down.in_features) ** 0.5
            assert down.weight.std().item() == pytest.approx(bound, rel=0.1)
            assert up.weight.std().item() == pytest.approx(0.02 if init == "bert" else 0, rel=0.1)
            assert not down.bias.any() and not up.bias.any()


def test_dropout_is_of_the_input_and_only_in_training() -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family, dropout=0.5)
    still = outputs(family, model)
    assert torch.equal(still, outputs(family, model)) and torch.equal(still, outputs(family, attach(family)))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(outputs(family, model), still)


@pytest.mark.parametrize("name", ["llama-grouped", "gptj", "bert", "gpt2"])
def test_a_bfloat16_base(name: str) -> None:
    """Trained numbers stay fp32, also after `.to`, and the result is the fp32 reference's within bf16's own noise."""
    family = BY_NAME[name]
    for preset in ("series_h", "parallel", "scaled_par_bn"):
        adapted = attach(family, family.model().to(torch.bfloat16), preset=preset).to(torch.bfloat16)
        assert {p.dtype for p in adapter_parameters(adapted).values()} == {torch.float32}
        ours = outputs(family, adapted)
        assert ours.dtype == torch.bfloat16
        rounded = family.model().to(torch.bfloat16).float()
        exact = outputs(family, by_hand(rounded, adapted, expected_places(family, preset)))
        noise = (outputs(family, family.model().to(torch.bfloat16)).float() - outputs(family, rounded)).abs()
        assert (ours.float() - exact).abs().max() < 3 * noise.max() + 0.05


# --- gradients ----------------------------------------------------------------------------------------------


def no_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "hidden_dropout", "dropout", "attn_dropout_p", "activation_dropout"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)
    return model


def loss_of(family: Family, model: nn.Module) -> Tensor:
    return family.result(model(**family.inputs())).pow(2).mean()


@every_family
def test_after_two_steps_every_trainable_has_a_gradient_and_no_base_parameter_has(family: Family) -> None:
    for preset in ("series_h", "parallel", "double_seq_bn", "scaled_par_bn"):
        config = bottleneck(family, preset=preset, use_bias=True, non_linearity="tanh", scaling="learned")
        model = no_dropout(get_peft_model(family.model(), config)).train()
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            outputs(family, model)  # a pass without gradients comes first
            optimizer.zero_grad()
            loss_of(family, model).backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            if ".bottleneck." in name:
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
            else:
                assert parameter.grad is None, name
                assert torch.equal(parameter, frozen[name]), name


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", ["llama-grouped", "gemma3", "opt", "gpt2", "bloom", "bert", "vit"])
def test_checkpointing_equals_plain(name: str, reentrant: bool) -> None:
    family = BY_NAME[name]
    for preset in ("series_h", "scaled_par_bn"):
        gradients = []
        for checkpointed in (False, True):
            model = no_dropout(attach(family, preset=preset)).train()
            if checkpointed:
                base = model.get_base_model()
                base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                if reentrant:
                    base.enable_input_require_grads()
            loss_of(family, model).backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
            assert all(not layer.inputs for _, layer in layers(model)), "nothing is kept between passes"
        assert set(gradients[0]) == set(gradients[1]) == set(adapter_parameters(model))
        for key in gradients[0]:
            torch.testing.assert_close(gradients[1][key], gradients[0][key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("preset", "millions"), [("series_p", 67.1), ("series_h", 201.3), ("parallel", 201.3), ("parallel_mlp", 247.5)]
)
def test_the_papers_counts_at_7b(preset: str, millions: float) -> None:
    """LLaMA-7B's shape without its memory; the figures of arXiv 2304.01933 for size 256."""
    with torch.device("meta"):
        model = tf.LlamaForCausalLM(tf.LlamaConfig())  # the defaults are 7B's
    trainable, _ = get_peft_model(model, BottleneckConfig(preset=preset)).get_nb_trainable_parameters()
    by_hand = {"series_p": 2 * 4096, "series_h": 6 * 4096, "parallel": 6 * 4096, "parallel_mlp": 2 * (4096 + 11008)}
    assert trainable == 32 * 256 * by_hand[preset]
    assert round(trainable / 1e6, 1) == millions
