"""The contract for BitFit: a bias is trained by what is added to it. The reference is a base with other biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bottleneck_by_hand import bottleneck
from families import BY_NAME, Family
from peft import PeftModel, get_peft_model
from test_bottleneck import loss_of, no_dropout
from torch import nn

from zerogate import BitFitConfig

NAMES = ["gpt2", "opt", "bloom", "gpt_neox", "gptj", "qwen2", "bert", "vit"]
every_family = pytest.mark.parametrize("family", [BY_NAME[name] for name in NAMES], ids=lambda f: f.name)


def outputs(family: Family, model: nn.Module, **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        return family.result(model(**family.inputs(), **extra)).detach()


def biases(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.endswith(".bias")}


def randomise(model: PeftModel, seed: int = 0, adapter: str = "default") -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(f".bitfit.shift.{adapter}"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def bitfit(family: Family, **config: Any) -> BitFitConfig:
    return BitFitConfig(task_type="CAUSAL_LM" if family.generates else None, **config)


@every_family
def test_identity_then_the_base_with_other_biases(family: Family, tmp_path: Path) -> None:
    plain = family.model()
    base = outputs(family, plain)
    model = get_peft_model(family.model(), bitfit(family)).eval()
    assert torch.equal(outputs(family, model), base)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.removeprefix("base_model.model.").replace(".bitfit.shift.default", ".bias") for n in trained} == set(
        biases(plain)
    )
    randomise(model)
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, bias in biases(plain).items():
            bias += state[f"base_model.model.{name.removesuffix('bias')}bitfit.shift.default"]
    ours = outputs(family, model)
    torch.testing.assert_close(ours, outputs(family, plain), rtol=1e-5, atol=1e-5)
    assert (ours - base).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(outputs(family, model), base)
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(family.model(), tmp_path)
    assert torch.equal(outputs(family, back), ours)
    merged = back.merge_and_unload()
    torch.testing.assert_close(outputs(family, merged), ours, rtol=1e-5, atol=1e-5)
    assert set(merged.state_dict()) == set(plain.state_dict())
    for name, bias in biases(merged).items():
        torch.testing.assert_close(bias, dict(plain.named_parameters())[name])


@every_family
def test_gradients_are_those_of_the_biases(family: Family) -> None:
    plain = no_dropout(family.model()).train()
    model = no_dropout(get_peft_model(family.model(), bitfit(family))).train()
    loss_of(family, plain).backward()
    loss_of(family, model).backward()
    state = dict(model.named_parameters())
    used = 0
    for name, bias in biases(plain).items():
        shift = state[f"base_model.model.{name.removesuffix('bias')}bitfit.shift.default"]
        if bias.grad is not None:  # BERT's pooler has no part in the first output
            torch.testing.assert_close(shift.grad, bias.grad, rtol=1e-4, atol=1e-6)
            used += 1
    assert used > 0.9 * len(biases(plain))
    assert all(p.grad is None for n, p in state.items() if ".bitfit." not in n)


@every_family
def test_mixed_batches_and_switching(family: Family) -> None:
    model = get_peft_model(family.model(), bitfit(family), adapter_name="one")
    model.add_adapter("two", bitfit(family, target_modules=r".*\.[12]\..*"))
    randomise(randomise(model, 1, "one"), 2, "two")
    rows = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        rows[name] = outputs(family, model)
    with model.disable_adapter():
        rows["__base__"] = outputs(family, model)
    names = ["two", "__base__", "one"]
    mixed = outputs(family, model, adapter_names=names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], rows[name][row], rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(family, model.unload()), rows["__base__"])


def test_errors() -> None:
    llama, gpt2 = BY_NAME["llama-grouped"], BY_NAME["gpt2"]
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no biases.*ln_tuning"):
        get_peft_model(llama.model(), bitfit(llama))
    with pytest.raises(ValueError, match=r"target_modules=\['q'\] matches no layer.*that has a bias.*c_attn"):
        get_peft_model(gpt2.model(), bitfit(gpt2, target_modules=["q"]))
    with pytest.raises(ValueError, match="save_dtype='int8'"):
        BitFitConfig(save_dtype="int8")
    model = get_peft_model(gpt2.model(), bitfit(gpt2))
    with pytest.raises(ValueError, match=r"merge_and_unload\(\)"):
        model.merge_adapter()
    with pytest.raises(ValueError, match="BOTTLENECK"):
        model.add_adapter("other", bottleneck(gpt2))
