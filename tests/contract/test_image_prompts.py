"""Images in the prompts: the formula P + I written out by hand, rows with no image, one and two, and all that an
adapter must be able to do, on every causal family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, FAMILIES, Family, adapted_by_hand
from helpers import layers, outputs, randomise, twin, zero_init
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from zerogate import ZeroInitConfig
from zerogate.adapters.zero_init.image import ImageProjector

M, CHANNELS, HIDDEN = 2, 6, 5
SEEING: dict[str, Any] = {"image_layers": [1, 2], "image_channels": CHANNELS, "image_hidden": HIDDEN}
CAUSAL = [family for family in FAMILIES if family.generates]
every_causal = pytest.mark.parametrize("family", CAUSAL, ids=lambda f: f.name)


def see(family: Family, seed: int = 0, **config: Any) -> PeftModel:
    """A tiny model with a random adapter that takes images."""
    model = get_peft_model(family.model(), zero_init(family, **SEEING, **config))
    randomise(model, seed)
    return randomise_projector(model, seed).eval()


def randomise_projector(model: PeftModel, seed: int = 0, adapter: str = "default") -> PeftModel:
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in projector(model, adapter).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2)
    return model


def projector(model: PeftModel, adapter: str = "default") -> ImageProjector:
    found = [layer.projector[adapter] for _, layer in layers(model) if adapter in layer.projector]
    assert len(found) == 1, "the projector is held once"
    assert isinstance(found[0], ImageProjector)
    return found[0]


def pictures(seed: int = 0) -> list[Tensor | None]:
    """Features for three rows: two images, none, one."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, M * CHANNELS, generator=generator), None, torch.randn(M * CHANNELS, generator=generator)]


def token_by_hand(model: PeftModel, feature: Tensor, adapter: str = "default") -> Tensor:
    """The image tokens, one after the other, in float64, from the raw parameters."""
    p = {name: value.detach().double() for name, value in projector(model, adapter).named_parameters()}
    x = torch.cat([F.layer_norm(part, (CHANNELS,)) for part in feature.double().chunk(M)])
    hidden = F.silu(p["down.weight"] @ x / (M * CHANNELS) + p["down.bias"])
    return p["up.weight"] @ hidden / HIDDEN + p["up.bias"]


def row_by_hand(family: Family, model: PeftModel, images: Tensor | None, adapter: str = "default") -> Any:
    """The reference for one row: as many sets of prompts as there are images, each with its image's token added."""
    prompts, gates = {}, {}
    shown = [] if images is None else [token_by_hand(model, f, adapter) for f in images.reshape(-1, M * CHANNELS)]
    count = projector(model, adapter).tokens
    tokens = [token for made in shown for token in made.chunk(count)]
    for name, layer in layers(model):
        prompt = layer.prompt[adapter].detach().double()
        prompts[name] = torch.cat([prompt + token for token in tokens]) if tokens else prompt
        gates[name] = torch.tanh(layer.configs[adapter].gate_scale * layer.gate[adapter].detach())
    return adapted_by_hand(family, family.model(), prompts, gates)


def one_row(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in inputs.items()}


@every_causal
def test_outputs_are_those_of_prompts_with_the_token_added(family: Family) -> None:
    model, features, inputs = see(family), pictures(), family.inputs()
    ours = outputs(family, model, image_features=features)
    with torch.no_grad():
        for row, images in enumerate(features):
            expected = family.result(row_by_hand(family, model, images)(**one_row(inputs, row)))
            torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours[0], outputs(family, model)[0], atol=1e-3), "images make a difference"


@every_causal
def test_several_tokens_of_an_image_are_as_many_sets_of_prompts(family: Family) -> None:
    model, features, inputs = see(family, image_tokens=3), pictures(), family.inputs()
    ours = outputs(family, model, image_features=features)
    with torch.no_grad():
        for row, images in enumerate(features):
            expected = family.result(row_by_hand(family, model, images)(**one_row(inputs, row)))
            torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-5, atol=1e-5)


def test_what_is_asked_chooses_among_an_images_tokens() -> None:
    """A single token adds the same to every word; of several, each word has its own mixture (image.py says why)."""
    one, several = (added_to_words(see(BY_NAME["llama"], image_tokens=count)) for count in (1, 3))
    assert one.shape[0] == 1 and several.shape[0] > 1
    assert not torch.allclose(several, several[:1].expand_as(several), atol=1e-3)


def added_to_words(model: PeftModel) -> Tensor:
    """What the first layer adds for a row with one image, [T or 1, H * D]."""
    layer, seen = layers(model)[0][1], []
    real = layer._seen

    def watched(*given: Any) -> Tensor:
        seen.append(real(*given))
        return seen[-1]

    layer._seen = watched  # type: ignore[method-assign]
    feature = pictures()[2]
    outputs(BY_NAME["llama"], model, image_features=[feature, None, feature])
    return seen[0][2].flatten(1)


@every_causal
def test_at_the_start_images_change_nothing(family: Family) -> None:
    plain = family.model()
    model = get_peft_model(twin(plain), zero_init(family, **SEEING)).eval()
    assert torch.equal(outputs(family, model, image_features=pictures()), outputs(family, plain))


@every_causal
def test_generation_with_images_equals_running_everything_again(family: Family) -> None:
    model, features = see(family), pictures()
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    made = model.generate(input_ids=ids, image_features=features, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    again = ids
    with torch.no_grad():
        for _ in range(5):
            logits = model(input_ids=again, image_features=features, use_cache=False).logits[:, -1]
            logits[:, family_ends(model)] = -torch.inf  # as min_new_tokens does
            again = torch.cat([again, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(made, again)
    plain = model.generate(input_ids=ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert torch.equal(made[1], plain[1]), "the row without an image is as it was"


def family_ends(model: PeftModel) -> list[int]:
    end = model.generation_config.eos_token_id
    return end if isinstance(end, list) else [] if end is None else [end]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_beams_repeat_a_rows_images(name: str) -> None:
    model, features = see(BY_NAME[name]), pictures()
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3, "do_sample": False}
    together = model.generate(input_ids=ids, image_features=features, **options)
    for row, images in enumerate(features):
        alone = model.generate(input_ids=ids[row : row + 1], image_features=[images], **options)
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gptj", "bloom"])
def test_a_batch_of_several_adapters_equals_its_rows_alone(name: str) -> None:
    family = BY_NAME[name]
    model = see(family)
    model.add_adapter("text", zero_init(family, prompt_length=2))
    model.add_adapter("other", zero_init(family, **{**SEEING, "image_hidden": 3}, prompt_length=4))
    for seed, adapter in enumerate(["text", "other"], start=5):
        randomise(model, seed, adapter)
    randomise_projector(model, 6, "other")
    model.eval()
    features, inputs = pictures(), family.inputs()
    for names, given in [
        (["default", "text", "other"], features),
        (["other", "__base__", "default"], features),
        (["default", "other", "text"], [features[0], features[2], None]),
    ]:
        together = outputs(family, model, adapter_names=names, image_features=given)
        for row, adapter in enumerate(names):
            with torch.no_grad():
                alone = model(**one_row(inputs, row), adapter_names=[adapter], image_features=[given[row]])
            torch.testing.assert_close(together[row : row + 1], family.result(alone), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="row 1 comes with an image, but its adapter 'text' takes none"):
        outputs(family, model, adapter_names=["default", "text", "other"], image_features=[None, features[2], None])


@every_causal
def test_the_projector_is_trained_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    model = get_peft_model(family.model(), zero_init(family, **SEEING))
    with torch.no_grad():
        outputs(family, model, image_features=pictures())  # a pass without gradients takes nothing away
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        family.result(model(**family.inputs(), image_features=pictures())).square().mean().backward()
        optimizer.step()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)
    assert sum("projector" in name for name in trained) == 4
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family.model(), str(tmp_path)).eval()
    expected = outputs(family, model, image_features=pictures())
    assert torch.equal(outputs(family, loaded, image_features=pictures()), expected)
    with model.disable_adapter():
        assert torch.equal(outputs(family, model, image_features=pictures()), outputs(family, family.model()))
    halved = loaded.to(torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in projector(halved).parameters()), "fp32 whatever the base is"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_activation_checkpointing_gives_the_same_gradients(name: str, reentrant: bool) -> None:
    family = BY_NAME[name]
    plain, saving = see(family).train(), see(family).train()
    saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    saving.enable_input_require_grads()
    for model in (plain, saving):
        family.result(model(**family.inputs(), image_features=pictures(), use_cache=False)).square().mean().backward()
    theirs = dict(saving.named_parameters())
    for parameter_name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(theirs[parameter_name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


@every_causal
def test_early_fusion_is_attention_to_the_images_in_the_lowest_layers(family: Family) -> None:
    model, features, inputs = see(family, num_layers=2, image_early=1), pictures(), family.inputs()
    held = dict(layers(model))
    assert ["default" in layer.prompt for layer in held.values()] == [False, True, True]
    assert [bool(layer.projector) for layer in held.values()] == [True, False, False]
    ours = outputs(family, model, image_features=features)
    plain = outputs(family, model)
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours[0], plain[0], atol=1e-3)
    for row, images in enumerate(features):
        if images is None:
            continue
        prompts, gates = {}, {}
        for name, layer in held.items():
            tokens = [token_by_hand(model, f) for f in images.reshape(-1, M * CHANNELS)]
            early = "default" not in layer.prompt
            prompts[name] = torch.stack(tokens) if early else layer.prompt["default"].detach().double()
            gates[name] = torch.tanh(layer.gate["default"].detach())
        with torch.no_grad():
            expected = family.result(adapted_by_hand(family, family.model(), prompts, gates)(**one_row(inputs, row)))
        torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_early_fusion_mixes_trains_and_is_saved(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    model = see(family, num_layers=2, image_early=1)
    model.add_adapter("other", zero_init(family, **SEEING))
    randomise_projector(randomise(model, 5, "other"), 5, "other").eval()
    features, inputs, names = pictures(), family.inputs(), ["default", "__base__", "other"]
    together = outputs(family, model, adapter_names=names, image_features=features)
    for row, adapter in enumerate(names):
        with torch.no_grad():
            alone = model(**one_row(inputs, row), adapter_names=[adapter], image_features=[features[row]])
        torch.testing.assert_close(together[row : row + 1], family.result(alone), rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    loaded = PeftModel.from_pretrained(family.model(), str(tmp_path)).eval()
    assert torch.equal(
        outputs(family, loaded, image_features=features), outputs(family, model, image_features=features)
    )
    model.train()
    family.result(model(**inputs, image_features=features)).square().mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    with pytest.raises(ValueError, match=r"meet in 1 layers.*Lower num_layers: at most 2 here"):
        get_peft_model(family.model(), zero_init(family, **SEEING, image_early=1))


def test_features_in_one_tensor_equal_a_list() -> None:
    family = BY_NAME["llama"]
    model, rows = see(family), pictures()
    tensor, mask = torch.zeros(3, 2, M * CHANNELS), torch.tensor([[1, 1], [0, 0], [1, 0]])
    tensor[0], tensor[2, 0] = rows[0], rows[2]  # type: ignore[assignment]
    listed = outputs(family, model, image_features=rows)
    assert torch.equal(outputs(family, model, image_features=tensor, image_mask=mask), listed)


def test_the_papers_size() -> None:
    """About 0.6 million parameters for six layers of CLIP ViT-L/14 (768 channels after its projection) and 7B."""
    made = ImageProjector(6, 768, 64, 4096, torch.device("meta"))
    assert sum(p.numel() for p in made.parameters()) == 561_216


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_features": torch.zeros(3, 5)}, "have 5 channels, but this adapter was made for 2 layers of 6: 12"),
        ({"image_features": torch.zeros(12)}, "must be"),
        ({"image_features": torch.zeros(2, 12)}, "are for 2 rows, but the batch has 3"),
    ],
)
def test_wrong_features_are_named(given: dict[str, Any], message: str) -> None:
    family = BY_NAME["llama"]
    with pytest.raises(ValueError, match=message):
        outputs(family, see(family), **given)


def test_an_encoder_nobody_has_looked_at_is_refused() -> None:
    family = BY_NAME["llama"]
    for given in ({"image_layers": [1]}, {"image_encoder": "clip"}, {"image_layers": 2, "image_channels": 6}):
        with pytest.raises(ValueError, match="load_encoder"):
            get_peft_model(family.model(), zero_init(family, **given))


def test_images_need_a_task_type() -> None:
    with pytest.raises(ValueError, match="task_type='CAUSAL_LM'"):
        get_peft_model(BY_NAME["llama"].model(), ZeroInitConfig(prompt_length=3, **SEEING))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_layers": [], "image_channels": 4}, "at least one layer"),
        ({"image_layers": [1], "image_channels": 4, "attention": "vanilla"}, "through the gates"),
        ({"image_layers": [1], "image_channels": 4, "image_hidden": 0}, "at least 1"),
        ({"image_layers": [1], "image_channels": 4, "image_tokens": 0}, "image_tokens must be at least 1"),
        ({"image_early": 1}, "goes with image_layers"),
    ],
)
def test_wrong_settings_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zero_init("llama", **config)
