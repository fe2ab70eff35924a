"""The contract for bottleneck adapters, points 4 to 6: saved, loaded, switched, run in any way, and refused plainly."""

from __future__ import annotations

import json
import re
from pathlib import Path
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
    randomise,
)
from families import BY_NAME, Family
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from zerogate import BottleneckConfig

every_family = pytest.mark.parametrize("family", BOTTLENECK_FAMILIES, ids=lambda f: f.name)
every_causal = pytest.mark.parametrize("family", [f for f in BOTTLENECK_FAMILIES if f.generates], ids=lambda f: f.name)
GREEDY: dict[str, Any] = dict(max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
LLAMA = BY_NAME["llama-grouped"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "first": {"preset": "series_h", "scaling": "learned"},
    "second": {"preset": "scaled_par_bn", "bottleneck_size": 3},
    "third": {"preset": "double_seq_bn", "layers_to_transform": [2], "use_bias": True},
}


def three_adapters(family: Family, dtype: torch.dtype = torch.float32) -> PeftModel:
    """Adapters of different presets, sizes and layers, on overlapping Linear layers."""
    model: Any = family.model().to(dtype)
    for seed, (name, settings) in enumerate(ADAPTERS.items()):
        if seed == 0:
            model = get_peft_model(model, bottleneck(family, **settings), adapter_name=name)
        else:
            model.add_adapter(name, bottleneck(family, **settings))
        randomise(model, seed, name)
    return model.eval()


def alone(family: Family, name: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    model = get_peft_model(family.model().to(dtype), bottleneck(family, **ADAPTERS[name]), adapter_name=name)
    return randomise(model, list(ADAPTERS).index(name), name).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@every_family
def test_save_load_switch_disable_delete_unload(family: Family, dtype: torch.dtype, tmp_path: Path) -> None:
    plain = family.model().to(dtype)
    base = outputs(family, plain)
    expected = {name: outputs(family, alone(family, name, dtype)) for name in ADAPTERS}
    model = three_adapters(family, dtype)
    model.save_pretrained(tmp_path)
    for name in [*ADAPTERS, "first"]:
        model.set_adapter(name)
        assert torch.equal(outputs(family, model), expected[name])
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and all(f".{name}" in n for n in trained)
        with model.disable_adapter():
            assert torch.equal(outputs(family, model), base)
        back = PeftModel.from_pretrained(family.model().to(dtype), tmp_path / name)
        assert torch.equal(outputs(family, back), expected[name])
        assert {p.dtype for p in adapter_parameters(back).values()} == {torch.float32}
    model.delete_adapter("first")
    assert model.active_adapters == ["second"]
    assert torch.equal(outputs(family, model), expected["second"])
    unloaded = model.unload()
    assert torch.equal(outputs(family, unloaded), base)
    assert not layers(unloaded) and set(unloaded.state_dict()) == set(plain.state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unloaded.modules())
    again = get_peft_model(unloaded, bottleneck(family, **ADAPTERS["second"]), adapter_name="second")
    assert torch.equal(outputs(family, randomise(again, 1, "second").eval()), expected["second"])


def test_what_a_file_holds(tmp_path: Path) -> None:
    """Scales and biases too, under the base's own names; where it goes is written out, not left to a table."""
    model = attach(LLAMA, preset="series_h", scaling="learned", use_bias=True, save_dtype="bfloat16")
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    parts = ("down.weight", "down.bias", "up.weight", "up.bias", "scale")
    names = [f"model.layers.{i}.mlp.{name}" for i in range(3) for name in ("gate_proj", "up_proj", "down_proj")]
    assert set(saved) == {f"base_model.model.{name}.bottleneck.{part}" for name in names for part in parts}
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "BOTTLENECK"
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert config["position"] == {"gate_proj": "series-input", "up_proj": "series-input", "down_proj": "series-output"}
    for low_memory in (False, True):
        back = PeftModel.from_pretrained(LLAMA.model(), tmp_path, low_cpu_mem_usage=low_memory)
        for name, parameter in adapter_parameters(back).items():
            assert parameter.dtype == torch.float32 and not parameter.is_meta
            assert torch.equal(parameter, adapter_parameters(model)[name].bfloat16().float())
    rest = {k: v for k, v in vars(back.peft_config["default"]).items() if k not in ("inference_mode", "auto_mapping")}
    assert rest.items() <= vars(model.peft_config["default"]).items()


def test_auto_class_norms_and_transformers_own_integration(tmp_path: Path) -> None:
    LLAMA.model().save_pretrained(tmp_path / "base")
    base = tf.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    model = attach(LLAMA, base, preset="par_bn", modules_to_save=["norm"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.3)
    model.save_pretrained(tmp_path / "adapter")
    back = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(outputs(LLAMA, back), outputs(LLAMA, model))
    plain = LLAMA.model()
    before = outputs(LLAMA, plain)
    plain.load_adapter(str(tmp_path / "adapter"), "loaded")
    assert torch.equal(outputs(LLAMA, plain.eval()), outputs(LLAMA, model))
    plain.disable_adapters()
    assert torch.equal(outputs(LLAMA, plain), before)


def test_two_active_adapters_add_up() -> None:
    model = three_adapters(LLAMA)
    model.base_model.set_adapter(["first", "third"])
    reference = by_hand(LLAMA.model(), model, expected_places(LLAMA, "series_h"), "first")
    extra = by_hand(LLAMA.model(), model, expected_places(LLAMA, "double_seq_bn"), "third")
    # The one Linear that both change at its output: their bottlenecks get the same y.
    both, other = (m.get_submodule("model.layers.2.mlp.down_proj") for m in (reference, extra))
    first, third = both.f, other.f
    both.f = lambda y: first(y) + third(y)
    attention = "model.layers.2.self_attn"
    reference.get_submodule(attention).o_proj = extra.get_submodule(attention).o_proj
    torch.testing.assert_close(outputs(LLAMA, model), outputs(LLAMA, reference), rtol=1e-5, atol=1e-5)


# --- running ------------------------------------------------------------------------------------------------


@every_causal
def test_cached_generation_equals_uncached_and_padded_rows_equal_rows_alone(family: Family) -> None:
    ids = family.inputs()["input_ids"][:2]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    for preset in ("series_h", "parallel", "par_bn"):
        model = attach(family, preset=preset)
        tokens = ids
        for _ in range(GREEDY["max_new_tokens"]):
            with torch.no_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        assert torch.equal(model.generate(input_ids=ids, **GREEDY), tokens)
        padded = model.generate(input_ids=ids * mask, attention_mask=mask, **GREEDY)
        for row, one in [(0, ids[:1]), (1, ids[1:, 3:])]:
            out = model.generate(input_ids=one, attention_mask=torch.ones_like(one), **GREEDY)
            assert torch.equal(padded[row, ids.shape[1] :], out[0, one.shape[1] :])


@every_family
def test_a_mixed_batch_equals_its_rows_alone(family: Family) -> None:
    model = three_adapters(family)
    rows = {}
    for name in ADAPTERS:
        model.set_adapter(name)
        rows[name] = outputs(family, model)
    with model.disable_adapter():
        rows["__base__"] = outputs(family, model)
    for names in (["first", "__base__", "second"], ["third", "second", "first"], ["__base__"] * 3):
        mixed = outputs(family, model, adapter_names=names)
        for row, name in enumerate(names):
            torch.testing.assert_close(mixed[row], rows[name][row], rtol=1e-5, atol=1e-5)
    model.set_adapter("second")
    assert torch.equal(outputs(family, model), rows["second"]), "a mixed pass leaves nothing behind"


@pytest.mark.parametrize("name", ["llama-grouped", "opt", "bloom"])
def test_mixed_generation_with_beams(name: str) -> None:
    family = BY_NAME[name]
    model = three_adapters(family)
    ids, names = family.inputs()["input_ids"], ["first", "__base__", "second"]
    run = {**GREEDY, "num_beams": 3}
    mixed = model.generate(input_ids=ids, adapter_names=names, **run)
    for row, adapter in enumerate(names):
        if adapter == "__base__":
            with model.disable_adapter():
                one = model.generate(input_ids=ids[row : row + 1], **run)
        else:
            model.set_adapter(adapter)
            one = model.generate(input_ids=ids[row : row + 1], **run)
        assert torch.equal(mixed[row], one[0])


@pytest.mark.parametrize(
    ("name", "preset"), [("llama-grouped", "series_h"), ("gpt2", "scaled_par_bn"), ("bert", "parallel")]
)
def test_compiled_equals_eager(name: str, preset: str) -> None:
    """One graph, no break, in inference and in training."""
    family = BY_NAME[name]
    model = attach(family, preset=preset, layers_to_transform=[2])
    expected = outputs(family, model)
    family.result(model(**family.inputs())).pow(2).mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    torch._dynamo.reset()
    compiled = torch.compile(model.get_base_model(), fullgraph=True, backend="aot_eager")
    inputs = {**family.inputs(), **({"use_cache": False} if family.generates else {})}
    model.zero_grad()
    out = family.result(compiled(**inputs))
    torch.testing.assert_close(out.detach(), expected, rtol=1e-5, atol=1e-5)
    out.pow(2).mean().backward()
    for key, gradient in gradients.items():
        torch.testing.assert_close(dict(model.named_parameters())[key].grad, gradient, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base(bits: int) -> None:
    """bitsandbytes' Linear layers stay in place; the result is the formula's around whatever they compute."""
    pytest.importorskip("bitsandbytes")
    import bitsandbytes as bnb

    def quantised() -> nn.Module:
        torch.manual_seed(0)  # blocks of 64 weights, so wider than the families' tiny models
        shape = dict(vocab_size=61, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4)
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**shape, initializer_range=0.2))
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and name != "lm_head":
                if bits == 4:
                    new: Any = bnb.nn.Linear4bit(
                        module.in_features,
                        module.out_features,
                        bias=False,
                        compute_dtype=torch.float32,
                        quant_type="nf4",
                    )
                    new.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
                else:
                    new = bnb.nn.Linear8bitLt(
                        module.in_features, module.out_features, bias=False, has_fp16_weights=False
                    )
                    new.weight = bnb.nn.Int8Params(module.weight.data, requires_grad=False, has_fp16_weights=False)
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, new)
        return model.to("cpu").eval()

    for preset in ("series_h", "parallel", "par_bn"):
        plain = quantised()
        base = outputs(LLAMA, plain)
        adapted = get_peft_model(quantised(), bottleneck(LLAMA, preset=preset)).eval()
        assert torch.equal(outputs(LLAMA, adapted), base)
        randomise(adapted)
        assert {p.dtype for p in adapter_parameters(adapted).values()} == {torch.float32}
        ours = outputs(LLAMA, adapted)
        reference = outputs(LLAMA, by_hand(plain, adapted, expected_places(LLAMA, preset)))
        # Both kinds round what comes in (to int8, or to bf16 on a CPU), where a last bit can move a whole step.
        torch.testing.assert_close(ours, reference, rtol=0.05, atol=0.05)
        assert (ours - base).abs().max() > 0.5
        # One that never was in eval mode: there bitsandbytes packs 4 bits for a CPU kernel without a backward pass.
        adapted = randomise(get_peft_model(quantised().train(), bottleneck(LLAMA, preset=preset)))
        adapted(**LLAMA.inputs()).logits.pow(2).mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapter_parameters(adapted).values())


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "series-h"}, "preset='series-h' must be one of .*Did you mean 'series_h'"),
        ({"position": "serial"}, "position='serial' must be one of 'series-input', 'series-output', 'parallel'"),
        ({"position": {"x": "paralel"}}, "Did you mean 'parallel'"),
        ({"non_linearity": "gellu"}, "non_linearity='gellu'.*Did you mean 'gelu'"),
        ({"init_weights": "zero"}, "init_weights='zero' must be one of 'identity', 'bert', 'mam'"),
        ({"scaling": "learnt"}, "scaling='learnt' must be a number or 'learned'"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"bottleneck_size": 4, "reduction_factor": 2}, "not both"),
        ({"bottleneck_size": 0}, "bottleneck_size must be at least 1"),
        ({"reduction_factor": 0}, "reduction_factor must be positive"),
        ({"save_dtype": "int8"}, "save_dtype='int8'"),
        ({"fed_by": {"a": "b"}}, "fed_by is for parallel"),
    ],
    ids=str,
)
def test_a_config_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**settings)


LISTING = r"There are: model\.layers\.\*\.self_attn\.q_proj, .*model\.layers\.\*\.mlp\.down_proj, lm_head"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["dense"]}, rf"'dense' in target_modules matches no Linear.*{LISTING}"),
        ({"target_modules": ["q_proj", "w1"]}, rf"'w1' in target_modules.*{LISTING}"),
        ({"target_modules": ["q_proj", "norm"]}, r"'norm' in target_modules.*\(LlamaRMSNorm is none\)"),
        ({"target_modules": ".*nothing"}, rf"target_modules='\.\*nothing' matches no Linear.*{LISTING}"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, r"after exclude_modules=\['q_proj'\]"),
        ({"layers_to_transform": [1, 9]}, r"layers \[9\].*in layers 0 to 2"),
        ({"preset": "par_bn", "target_modules": ["down_proj"]}, r"fed_by=\{'w2': 'w1'\}"),
        ({"preset": "series_h", "target_modules": ".*_proj"}, "needs a list of them, in order"),
        ({"target_modules": ["q_proj", "o_proj"], "position": {"q_proj": "parallel"}}, "says nothing of .*o_proj"),
        ({"target_modules": ["o_proj"], "position": "parallel", "fed_by": {"o_proj": "w1"}}, "fed_by names 'w1'"),
        ({"position": {"q_proj": "parallel"}}, r"needs target_modules=\[\.\.\.\] beside it"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_model(settings: dict[str, Any], message: str) -> None:
    plain = LLAMA.model()
    before = outputs(LLAMA, plain)
    with pytest.raises(ValueError, match=message):
        get_peft_model(plain, bottleneck(LLAMA, **settings))
    assert torch.equal(outputs(LLAMA, plain), before) and not layers(plain)


def test_an_unknown_family_says_so_and_works_with_target_modules() -> None:
    family = BY_NAME["phi3"]
    with pytest.raises(ValueError, match=r"models of type 'phi3'; known are llama, .*target_modules=\[\.\.\.\]"):
        get_peft_model(family.model(), bottleneck(family))
    targets = ["gate_up_proj", "down_proj"]
    for settings in ({"preset": "series_h"}, {"preset": "par_bn", "fed_by": {"down_proj": "gate_up_proj"}}):
        names = targets if settings["preset"] == "series_h" else targets[1:]
        model = attach(family, **settings, target_modules=names)
        stack = "model.layers.{}.mlp.{}"
        places = {
            stack.format(i, name): ("parallel", stack.format(i, targets[0]))
            if "fed_by" in settings
            else ("series-output" if name == "down_proj" else "series-input", None)
            for i in range(3)
            for name in names
        }
        expected = outputs(family, by_hand(family.model(), model, places))
        torch.testing.assert_close(outputs(family, model), expected, rtol=1e-5, atol=1e-5)


def test_merging_and_names_in_a_batch() -> None:
    model = three_adapters(LLAMA)
    for merge in (model.merge_and_unload, model.merge_adapter, layers(model)[0][1].merge):
        with pytest.raises(ValueError, match=r"cannot be merged.*non-linearity.*unload\(\)"):
            merge()
    ids = LLAMA.inputs()["input_ids"]
    for names, error, message in [
        (["first", "__base__"], ValueError, "2 entries for a batch of 3 rows"),
        (["first", "other", "first"], ValueError, "No adapter named other.*__base__, first, second, third"),
        ("first", TypeError, "list with one adapter name per row"),
    ]:
        with pytest.raises(error, match=message):
            model(input_ids=ids, adapter_names=names)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        model.train()(input_ids=ids, adapter_names=["first"] * 3)


def test_a_layer_that_is_bypassed_is_noticed() -> None:
    """Code that reads a Linear's weight without calling it would make the adapter do nothing, in silence."""

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.one(x), self.two.weight)

    model = get_peft_model(nn.Sequential(Sliced()), BottleneckConfig(target_modules=["one", "two"], bottleneck_size=2))
    with pytest.raises(RuntimeError, match=re.escape("attached to 0.two, but 0 (Sliced) ran without calling")):
        model(torch.randn(2, 4))
    attention = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(ValueError, match=r"0\.out_proj is part of a torch\.nn\.MultiheadAttention"):
        get_peft_model(attention, BottleneckConfig(target_modules=["out_proj"]))


def test_an_adapter_for_another_base(tmp_path: Path) -> None:
    attach(LLAMA).save_pretrained(tmp_path)
    shape = dict(vocab_size=61, hidden_size=48, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
    with pytest.raises((ValueError, RuntimeError), match=r"(?s)size mismatch.*down_proj\.bottleneck.*\[5, 32\]"):
        PeftModel.from_pretrained(tf.LlamaForCausalLM(tf.LlamaConfig(**shape)), tmp_path)


def test_the_state_dict_of_one_adapter_among_several() -> None:
    model = three_adapters(LLAMA)
    for name in ADAPTERS:
        state = get_peft_model_state_dict(model, adapter_name=name)
        expected = get_peft_model_state_dict(alone(LLAMA, name), adapter_name=name)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
