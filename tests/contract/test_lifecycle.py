"""The contract, point 4: save, load, add, switch, disable, delete and unload give back the right bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, FAMILIES, Family
from helpers import adapter_parameters, attach, by_hand, layers, outputs, randomise, zero_init
from peft import (
    AutoPeftModelForCausalLM,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn

from zerogate import ZeroInitConfig, gates
from zerogate.adapters.attention import CHILD

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def base(family: Family, dtype: torch.dtype = torch.float32) -> Any:
    return family.model().to(dtype)


@both_dtypes
@every_family
def test_saved_and_loaded(family: Family, dtype: torch.dtype, tmp_path: Path) -> None:
    model = attach(family, base(family, dtype), num_layers=2)
    expected = outputs(family, model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    names = {f"base_model.model.{name}.{CHILD}.{part}" for name, _ in layers(model) for part in ("prompt", "gate")}
    assert set(saved) == names
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    back = PeftModel.from_pretrained(base(family, dtype), tmp_path)
    assert torch.equal(outputs(family, back), expected)
    assert not any(p.requires_grad for p in back.parameters())
    for name, parameter in adapter_parameters(back).items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, adapter_parameters(model)[name])


@pytest.mark.parametrize(
    "settings", [{"is_trainable": True}, {"low_cpu_mem_usage": True}, {"adapter_name": "x"}], ids=str
)
@pytest.mark.parametrize("name", ["llama-grouped", "gptj", "falcon-new", "bert", "clip-both"])
def test_ways_of_loading(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    family = BY_NAME[name]
    model = attach(family)
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(base(family), tmp_path, **settings)
    assert torch.equal(outputs(family, back), outputs(family, model))
    assert not any(p.is_meta for p in back.parameters())
    second = get_peft_model(base(family), zero_init(family, prompt_length=2), adapter_name="first")
    second.load_adapter(tmp_path, "second", **{k: v for k, v in settings.items() if k != "adapter_name"})
    second.set_adapter("second")
    assert torch.equal(outputs(family, second.eval()), outputs(family, model))


def test_state_dict_there_and_back() -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    state = get_peft_model_state_dict(model)
    assert sorted(state)[:2] == [
        "base_model.model.model.layers.0.self_attn.zero_init.gate",
        "base_model.model.model.layers.0.self_attn.zero_init.prompt",
    ]
    other = get_peft_model(base(family), zero_init(family)).eval()
    result = set_peft_model_state_dict(other, state)
    assert not result.unexpected_keys
    assert torch.equal(outputs(family, other), outputs(family, model))


def test_auto_class_loads_base_and_adapter(tmp_path: Path) -> None:
    family = BY_NAME["llama-grouped"]
    plain = base(family)
    plain.save_pretrained(tmp_path / "base")
    loaded_from_disk = type(plain).from_pretrained(tmp_path / "base")
    model = attach(family, loaded_from_disk)
    model.save_pretrained(tmp_path / "adapter")
    config = PeftConfig.from_pretrained(tmp_path / "adapter")
    assert isinstance(config, ZeroInitConfig) and config.peft_type == "ZERO_INIT"
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "ZERO_INIT"
    back = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(outputs(family, back), outputs(family, model))


def test_a_bfloat16_file_is_half_as_big_and_loads_as_fp32(tmp_path: Path) -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family, save_dtype="bfloat16")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    for low_memory in (False, True):
        back = PeftModel.from_pretrained(base(family), tmp_path, low_cpu_mem_usage=low_memory)
        for name, parameter in adapter_parameters(back).items():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, adapter_parameters(model)[name].bfloat16().float())


def test_every_setting_survives_a_save(tmp_path: Path) -> None:
    settings = dict(
        prompt_length=4, layers_to_transform=[0, 2], gate_activation="identity", gate_scale=3.0, gate_per="layer",
        prompt_init_std=0.5, modules_to_save=["norm"], save_dtype="bfloat16",
    )  # fmt: skip
    family = BY_NAME["llama-grouped"]
    model = attach(family, **settings)
    model.save_pretrained(tmp_path)
    back = ZeroInitConfig.from_pretrained(tmp_path)
    assert {name: getattr(back, name) for name in settings} == settings


def test_regular_expressions_that_match_everything_save_the_adapter_alone(tmp_path: Path) -> None:
    family = BY_NAME["whisper-encoder"]
    model = attach(family, target_modules=".*", num_layers=2)
    stacks = {name.split(".layers")[0] for name, _ in layers(model)}
    assert stacks == {"model.encoder", "model.decoder"}
    assert not any("encoder_attn" in name for name, _ in layers(model))
    model.save_pretrained(tmp_path)
    assert all(f".{CHILD}." in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    back = PeftModel.from_pretrained(base(family), tmp_path)
    assert torch.equal(outputs(family, back), outputs(family, model))


# --- several adapters ---------------------------------------------------------------------------------------

TWO = ["llama-grouped", "gpt2", "gptj", "bloom", "falcon-new", "mpt", "bert", "vit"]


def two_adapters(family: Family, dtype: torch.dtype = torch.float32) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Two adapters of different L, K and activation, and the output of each alone."""
    first = dict(num_layers=3, prompt_length=3)
    second = dict(num_layers=1, prompt_length=5, gate_activation="identity", gate_per="layer", gate_scale=0.5)
    alone = {}
    for seed, (name, settings) in enumerate([("first", first), ("second", second)]):
        model = get_peft_model(base(family, dtype), zero_init(family, **settings), adapter_name=name)
        alone[name] = outputs(family, randomise(model, seed, name).eval())
    alone["base"] = outputs(family, base(family, dtype))
    model = get_peft_model(base(family, dtype), zero_init(family, **first), adapter_name="first")
    model.add_adapter("second", zero_init(family, **second))
    randomise(randomise(model, 0, "first"), 1, "second")
    return model.eval(), alone


@both_dtypes
@pytest.mark.parametrize("name", TWO)
def test_add_switch_disable_delete_unload(name: str, dtype: torch.dtype) -> None:
    family = BY_NAME[name]
    model, alone = two_adapters(family, dtype)
    for adapter in ("first", "second", "first"):
        model.set_adapter(adapter)
        assert torch.equal(outputs(family, model), alone[adapter])
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and all(n.endswith(f".{adapter}") for n in trained)
        with model.disable_adapter():
            assert torch.equal(outputs(family, model), alone["base"])
        assert torch.equal(outputs(family, model), alone[adapter])
    assert set(gates(model, "first")) == {0, 1, 2} and set(gates(model, "second")) == {2}
    model.set_adapter("second")
    model.delete_adapter("second")  # the active one
    assert model.active_adapters == ["first"]
    assert torch.equal(outputs(family, model), alone["first"])
    plain = model.unload()
    assert torch.equal(outputs(family, plain), alone["base"])
    again = attach(family, plain, seed=3)
    assert torch.equal(outputs(family, again), outputs(family, attach(family, base(family, dtype), seed=3)))


def test_after_a_deletion_all_layers_have_the_same_active_adapter() -> None:
    """Adapters on different layers: each layer by itself would take the first one that it has."""
    family = BY_NAME["llama-grouped"]
    low = attach(family, layers_to_transform=[0])
    alone = outputs(family, low)
    model = attach(family, layers_to_transform=[0])
    model.add_adapter("high", zero_init(family, layers_to_transform=[2]))
    model.add_adapter("all", zero_init(family))
    randomise(model, 1, "high")
    model.set_adapter("all")
    model.delete_adapter("all")
    assert model.active_adapters == ["default"]
    assert torch.equal(outputs(family, model.eval()), alone)


@pytest.mark.parametrize("name", TWO)
def test_two_active_adapters_add_up(name: str) -> None:
    family = BY_NAME[name]
    model, _ = two_adapters(family)
    model.base_model.set_adapter(["first", "second"])
    both = outputs(family, model)
    reference = by_hand(family, by_hand(family, base(family), model, "first"), model, "second")
    torch.testing.assert_close(both, outputs(family, reference), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TWO)
def test_two_adapters_are_saved_apart(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    model, alone = two_adapters(family)
    model.save_pretrained(tmp_path)
    for adapter in ("first", "second"):
        back = PeftModel.from_pretrained(base(family), tmp_path / adapter)
        assert torch.equal(outputs(family, back), alone[adapter])


def traces(model: nn.Module) -> list[str]:
    """All that an adapter could leave behind on a plain model."""
    left = [name for name, _ in model.named_modules() if CHILD in name or "modules_to_save" in name]
    for name, module in model.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values()]
        left += [f"{name}: {hook}" for hook in hooks]
        left += [f"{name}.{key}" for key in ("_attn", "peft_config", "forward") if key in module.__dict__]
    return left


@every_family
def test_unload_leaves_the_plain_base(family: Family) -> None:
    plain = base(family)
    before = outputs(family, plain)
    assert traces(plain) == []
    flags = [p.requires_grad for p in plain.parameters()]
    model = attach(family, plain, modules_to_save=[one_norm(family, plain)])
    model.add_adapter("second", zero_init(family, num_layers=1))
    outputs(family, model)
    unloaded = model.unload()
    assert unloaded is plain
    assert traces(plain) == []
    assert torch.equal(outputs(family, plain), before)
    assert len(flags) == len(list(plain.parameters()))
    assert set(plain.state_dict()) == set(base(family).state_dict())


def one_norm(family: Family, model: nn.Module) -> str:
    """The last module with a weight and nothing else but a bias that is no matrix: the final norm, mostly."""
    vectors = [n for n, m in model.named_modules() if m._parameters.get("weight") is not None and m.weight.dim() == 1]
    return vectors[-1].rpartition(".")[2] if vectors else "lm_head"


def test_modules_to_save_travel_with_the_adapter(tmp_path: Path) -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family, modules_to_save=["norm"], num_layers=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "modules_to_save" in name:
                parameter.mul_(1.3)
    expected = outputs(family, model)
    model.save_pretrained(tmp_path)
    assert "base_model.model.model.norm.weight" in load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(outputs(family, PeftModel.from_pretrained(base(family), tmp_path)), expected)


def test_transformers_own_integration(tmp_path: Path) -> None:
    """`model.add_adapter` and `model.load_adapter` of transformers, without a PeftModel around."""
    family = BY_NAME["llama-grouped"]
    model = base(family)
    before = outputs(family, model)
    model.add_adapter(zero_init(family), "default")
    assert torch.equal(outputs(family, model), before)
    peft = attach(family)
    peft.save_pretrained(tmp_path)
    model.load_adapter(str(tmp_path), "loaded")
    model.set_adapter("loaded")
    assert torch.equal(outputs(family, model.eval()), outputs(family, peft))
    model.disable_adapters()
    assert torch.equal(outputs(family, model), before)
    model.enable_adapters()
    model.delete_adapter("loaded")


def test_exact_counts_and_file_size_at_7b(tmp_path: Path) -> None:
    """LLaMA-7B's shape without its memory: K=10, L=30 has 1,229,760 trainables, 4.9 MB in fp32."""
    import transformers as tf
    from safetensors.torch import save_file

    with torch.device("meta"):
        model = tf.LlamaForCausalLM(tf.LlamaConfig())  # the defaults are 7B's
    adapted = get_peft_model(model, ZeroInitConfig(num_layers=30, prompt_length=10))
    trainable, total = adapted.get_nb_trainable_parameters()
    assert trainable == 1_229_760
    assert total == 6_738_415_616 + 1_229_760
    assert [name for name, _ in layers(adapted)] == [f"model.layers.{i}.self_attn" for i in range(2, 32)]
    for dtype, megabytes in [("float32", 4.9), ("bfloat16", 2.5)]:
        adapted.peft_config["default"].save_dtype = dtype
        state = get_peft_model_state_dict(adapted)
        save_file({name: torch.zeros(t.shape, dtype=t.dtype) for name, t in state.items()}, tmp_path / dtype)
        size = (tmp_path / dtype).stat().st_size
        weights = 1_229_760 * (4 if dtype == "float32" else 2)
        assert weights <= size < weights + 10_000  # the names, and no more
        assert round(size / 1e6, 1) == megabytes
