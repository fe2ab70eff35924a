"""The contract for affine tuning. The reference is a base with other weights, biases and gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, Family
from peft import PeftModel, get_peft_model
from test_bitfit import bitfit, outputs
from test_bitfit import randomise as randomise_biases
from test_bottleneck import loss_of, no_dropout
from torch import nn
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
from transformers.pytorch_utils import Conv1D

from zerogate import AffineConfig
from zerogate.adapters.affine import AffineLayer

NAMES = ["llama", "gpt2", "opt", "bloom", "gptj", "gpt_neox", "qwen2", "qwen3", "gemma2", "bert", "vit"]
every_family = pytest.mark.parametrize("family", [BY_NAME[name] for name in NAMES], ids=lambda f: f.name)


def affine(family: Family, **config: Any) -> AffineConfig:
    return AffineConfig(task_type="CAUSAL_LM" if family.generates else None, **config)


def randomise(model: PeftModel, seed: int = 0, adapter: str = "default") -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".affine." in name and name.endswith(f".{adapter}"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def by_hand(family: Family, model: PeftModel, adapter: str = "default") -> nn.Module:
    """A plain model whose weights are what the adapter stands for."""
    plain = family.model()
    held = {
        n.removesuffix(".affine"): m for n, m in model.get_base_model().named_modules() if isinstance(m, AffineLayer)
    }
    assert held
    with torch.no_grad():
        for name, layer in held.items():
            module: Any = plain.get_submodule(name)
            scale = 1 + layer.scale[adapter] if adapter in layer.scale else torch.tensor(1.0)
            shift = layer.shift[adapter] if adapter in layer.shift else torch.tensor(0.0)
            if isinstance(module, nn.Linear):
                module.weight.mul_(scale[:, None] if scale.dim() else scale)
            elif isinstance(module, Conv1D):
                module.weight.mul_(scale)
            elif "Gemma" in type(module).__name__:
                module.weight.copy_(scale * (1 + module.weight) - 1)
            else:
                module.weight.mul_(scale)
            bias = module._parameters.get("bias")
            if bias is not None or isinstance(module, nn.Linear):
                module.bias = nn.Parameter(scale * ((0 if bias is None else bias) + shift + torch.zeros_like(scale)))
    return plain


@every_family
def test_identity_then_the_base_with_other_weights(family: Family, tmp_path: Path) -> None:
    base = outputs(family, family.model())
    model = get_peft_model(family.model(), affine(family)).eval()
    assert torch.equal(outputs(family, model), base)
    ours = outputs(family, randomise(model))
    torch.testing.assert_close(ours, outputs(family, by_hand(family, model)), rtol=1e-4, atol=1e-4)
    assert (ours - base).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(outputs(family, model), base)
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(family.model(), tmp_path).eval()
    assert torch.equal(outputs(family, back), ours)
    if family.name == "gemma2":
        with pytest.raises(ValueError, match="does not multiply by its weight"):
            back.merge_and_unload()
        assert torch.equal(outputs(family, back), ours), "a refused merge changes nothing"
    else:
        torch.testing.assert_close(outputs(family, back.merge_and_unload()), ours, rtol=1e-4, atol=1e-4)
    assert torch.equal(outputs(family, model.unload()), base)


@every_family
def test_all_that_is_trained_learns_and_nothing_else(family: Family) -> None:
    model = no_dropout(get_peft_model(family.model(), affine(family))).train()
    loss_of(family, model).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".affine." in name and p.dtype == torch.float32 for name, p in trained.items())
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
    learned = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in trained.values()]
    assert sum(learned) > 0.9 * len(learned)  # a key's shift moves all scores of a query alike: no gradient


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_batch_of_several_adapters_equals_its_rows_alone(name: str) -> None:
    family = BY_NAME[name]
    model = get_peft_model(family.model(), affine(family))
    model.add_adapter("norms", affine(family, use_scale=False, use_shift=False))
    randomise(randomise(model, 1), 2, "norms")
    inputs = family.inputs()
    names = ["default", "__base__", "norms"]
    together = outputs(family, model, adapter_names=names)
    for row, adapter in enumerate(names):
        with torch.no_grad():
            alone = model(**{k: v[row : row + 1] for k, v in inputs.items()}, adapter_names=[adapter])
        torch.testing.assert_close(together[row : row + 1], family.result(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "opt", "qwen2"])
def test_a_merged_model_is_saved_with_its_shifts_or_says_that_it_cannot(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    model = randomise(get_peft_model(family.model(), affine(family)))
    if name == "qwen2":  # it has biases on some layers and no setting for the others
        with pytest.warns(UserWarning, match="use_shift=False"):
            merged = model.merge_and_unload()
        return
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(outputs(family, type(merged).from_pretrained(tmp_path)), outputs(family, merged))


@pytest.mark.parametrize("kind", ["affine", "bitfit"])
def test_the_adapter_that_is_named_is_merged(kind: str) -> None:
    family = BY_NAME["gpt2"]
    config, fill = (affine, randomise) if kind == "affine" else (bitfit, randomise_biases)
    model = get_peft_model(family.model(), config(family), adapter_name="first")
    model.add_adapter("second", config(family))
    fill(fill(model, 1, "first"), 2, "second")
    model.set_adapter("second")
    wanted = outputs(family, model)
    model.set_adapter("first")
    with pytest.raises(ValueError, match=r"\['first', 'second'\]"):
        model.merge_and_unload(adapter_names=["third"])
    torch.testing.assert_close(
        outputs(family, model.merge_and_unload(adapter_names=["second"])), wanted, rtol=1e-4, atol=1e-4
    )


def test_a_bf16_base_takes_small_changes() -> None:
    family = BY_NAME["llama"]
    model = get_peft_model(family.model().to(torch.bfloat16), affine(family, use_shift=False))
    layer = next(m for m in model.modules() if isinstance(m, AffineLayer) and "default" in m.scale)
    with torch.no_grad():
        layer.scale["default"].fill_(1e-3)
    y = torch.full((1, 1, len(layer.scale["default"])), 1000.0)
    assert torch.equal(layer._applied("default", y), 1.001 * y)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing is left to train"):
        AffineConfig(use_scale=False, use_shift=False, use_norms=False)
    with pytest.raises(ValueError, match="target_modules='nothing' matches none of the"):
        get_peft_model(BY_NAME["llama"].model(), affine(BY_NAME["llama"], target_modules="nothing"))


def test_norms_of_convolutions_are_left_out() -> None:
    torch.manual_seed(0)
    config = ConvNextV2Config(num_channels=3, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    model = ConvNextV2ForImageClassification(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    plain = model(pixels).logits
    adapted = get_peft_model(model, AffineConfig()).eval()
    assert torch.allclose(adapted(pixels).logits, plain, atol=1e-6)
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert trained and not any("downsampling_layer" in name or "embeddings.layernorm" in name for name in trained)
