"""Images with gated prefixes: the same as zero-init attention whose prompts have these keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, Family
from helpers import layers, outputs, zero_init
from peft import PeftModel, get_peft_model
from test_image_prompts import SEEING, pictures, projector, see

from zerogate import GatedPrefixConfig

# Keys are linear in the prompt there; gemma2 caps its scores, so its sets of keys are written out.
LINEAR = ["llama", "opt", "gptj", "bloom", "gemma2"]


def prefixed(family: Family, model: PeftModel, **config: Any) -> PeftModel:
    """An adapter with prefixes that does what `model`'s prompts do."""
    settings = zero_init(family, **SEEING, **config).to_dict()
    kept = {key: settings[key] for key in ("prompt_length", "num_layers", "gate_scale", "task_type", *SEEING, *config)}
    made = get_peft_model(family.model(), GatedPrefixConfig(**kept)).eval()
    with torch.no_grad():
        for (name, theirs), (_, ours) in zip(layers(model), layers(made), strict=True):
            ours.gate["default"].copy_(theirs.gate["default"])
            if "default" in theirs.prompt:
                module = model.get_base_model().get_submodule(name)
                k_GKD, v_GKD = theirs.layout.keys_values(module, theirs.prompt["default"])
                parts = [x.transpose(0, 1).flatten(1) for x in (k_GKD, v_GKD)]
                ours.prompt["default"].copy_(torch.cat(parts, 1))
        for ours_p, theirs_p in zip(projector(made).parameters(), projector(model).parameters(), strict=True):
            ours_p.copy_(theirs_p)
    return made


@pytest.mark.parametrize("name", LINEAR)
def test_outputs_are_those_of_the_prompts(name: str) -> None:
    family = BY_NAME[name]
    model = see(family)
    made = prefixed(family, model)
    for features in (pictures(), [None, None, None]):
        expected = outputs(family, model, image_features=features)
        torch.testing.assert_close(outputs(family, made, image_features=features), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs(family, made, image_features=pictures()), outputs(family, made), atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_rows_do_not_see_each_others_images(name: str) -> None:
    family, features = BY_NAME[name], pictures()
    made = prefixed(family, see(family))
    together, inputs = outputs(family, made, image_features=features), family.inputs()
    with torch.no_grad():
        for row, images in enumerate(features):
            alone = made(**{k: v[row : row + 1] for k, v in inputs.items()}, image_features=[images])
            torch.testing.assert_close(together[row : row + 1], family.result(alone), rtol=1e-4, atol=1e-5)


def test_they_are_trained_and_saved(tmp_path: Path) -> None:
    family = BY_NAME["llama"]
    made = prefixed(family, see(family)).train()
    made(**family.inputs(), image_features=pictures()).logits.square().mean().backward()
    trained = [(n, p) for n, p in made.named_parameters() if p.requires_grad]
    assert any("projector" in n for n, _ in trained)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in trained)
    made.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(family.model(), str(tmp_path)).eval()
    expected = outputs(family, made, image_features=pictures())
    assert torch.equal(outputs(family, again, image_features=pictures()), expected)


def test_early_fusion() -> None:
    family = BY_NAME["llama"]
    config = {"num_layers": 1, "image_early": 1}
    model = see(family, **config)
    made = prefixed(family, model, **config)
    expected = outputs(family, model, image_features=pictures())
    torch.testing.assert_close(outputs(family, made, image_features=pictures()), expected, rtol=1e-4, atol=1e-5)
