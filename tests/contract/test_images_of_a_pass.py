"""A pass's images are its own: later passes, the backward pass and generation never meet those of another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import BY_NAME
from helpers import layers, outputs, randomise, zero_init
from peft import PeftModel, get_peft_model
from test_image_prompts import SEEING, M, pictures, projector, randomise_projector, see
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from zerogate import GatedPrefixConfig

EARLY = {"num_layers": 2, "image_early": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "factored": ("llama", {}),
    "capped scores": ("gemma2", {}),
    "thin seam": ("bloom", {}),
    "early fusion": ("llama", EARLY),
}


def training(kind: str, checkpointed: Callable[[PeftModel], None] | None = None) -> PeftModel:
    name, config = KINDS[kind]
    model = see(BY_NAME[name], **config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if checkpointed is not None:
        checkpointed(model)
        model.enable_input_require_grads()
    return model


def non_reentrant(model: PeftModel) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def reentrant(model: PeftModel) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})


def wrapped(model: PeftModel) -> None:
    """As FSDP does it: each layer inside of a module that checkpoints it."""
    base = model.get_base_model()
    stack = layers(model)[0][0].rpartition(".0.")[0]
    for index, layer in enumerate(base.get_submodule(stack)):
        base.get_submodule(stack)[index] = checkpoint_wrapper(layer)


def loss(kind: str, model: PeftModel, features: Any) -> Tensor:
    family = BY_NAME[KINDS[kind][0]]
    return family.result(model(**family.inputs(), image_features=features, use_cache=False)).square().mean()


def others() -> list[Tensor | None]:
    """Other images, and other rows have them."""
    return pictures(1)[::-1]


def reference(kind: str, model: PeftModel) -> None:
    with torch.no_grad(), model.disable_adapter():
        loss(kind, model, pictures())


def measurement(kind: str, model: PeftModel) -> None:
    with torch.no_grad():
        loss(kind, model, others())


def gradients(kind: str, model: PeftModel, between: Callable[[str, PeftModel], None] | None) -> dict[str, Tensor]:
    total = loss(kind, model, pictures())
    if between is None:
        total = total - 0.5 * loss(kind, model, others()) + loss(kind, model, [None] * 3)
    else:
        between(kind, model)
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("between", [reference, measurement, None], ids=["reference", "measurement", "three passes"])
@pytest.mark.parametrize("how", [non_reentrant, reentrant, wrapped])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_anew_has_the_images_of_its_own_pass(kind: str, how: Any, between: Any) -> None:
    plain = gradients(kind, training(kind), between)
    checkpointed = gradients(kind, training(kind, how), between)
    found = {name.replace("_checkpoint_wrapped_module.", ""): grad for name, grad in checkpointed.items()}
    assert found.keys() == plain.keys() and sum("projector" in name for name in plain) == 4
    for name, grad in plain.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_checkpointing_is_left_as_it_was() -> None:
    model = training("factored", non_reentrant)
    before = {name: vars(m).get("_gradient_checkpointing_func") for name, m in model.named_modules()}
    loss("factored", model, pictures())
    with pytest.raises(ValueError, match="the batch has 3"):
        loss("factored", model, pictures()[:2])
    after = {name: vars(m).get("_gradient_checkpointing_func") for name, m in model.named_modules()}
    assert after == before and sum(function is not None for function in before.values()) > 2


@pytest.mark.parametrize("kind", ["factored", "early fusion"])
def test_a_training_pass_leaves_nothing_behind(kind: str) -> None:
    family, model = BY_NAME[KINDS[kind][0]], training(kind).eval()
    expected = outputs(family, model)
    loss(kind, model, pictures())
    copy.deepcopy(model)
    base = model.get_base_model()
    assert torch.equal(outputs(family, base), expected)
    with torch.no_grad():
        alone = base(**{name: value[:1] for name, value in family.inputs().items()})
    torch.testing.assert_close(family.result(alone), expected[:1], rtol=1e-5, atol=1e-5)


def test_a_pass_inside_of_a_generation_has_its_own_images() -> None:
    family, model = BY_NAME["llama"], see(BY_NAME["llama"])
    ids = family.inputs()["input_ids"]
    settings: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = model.generate(input_ids=ids, image_features=pictures(), **settings)
    plain, passes = outputs(family, model), []

    def another_pass(_: Tensor, scores: Tensor) -> Tensor:
        passes.append(outputs(family, model))
        return scores

    made = model.generate(input_ids=ids, image_features=pictures(), logits_processor=[another_pass], **settings)
    assert torch.equal(made, expected)
    assert len(passes) == 4 and all(torch.equal(one, plain) for one in passes)


# --- rows ---------------------------------------------------------------------------------------------------


def test_only_a_generation_repeats_rows() -> None:
    family, model = BY_NAME["llama"], see(BY_NAME["llama"])
    ids, features = torch.randint(3, 60, (4, 6)), torch.randn(2, M * 6)
    with pytest.raises(ValueError, match=r"are for 2 rows, but the batch has 4\. Give one entry for each row"):
        model(input_ids=ids, image_features=features)
    settings: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with pytest.raises(ValueError, match="are for 2 rows, but the batch has 4"):
        model.generate(input_ids=ids, image_features=features, **settings)
    with pytest.raises(ValueError, match=r"are for 2 rows \(or 6, each of them 3 times\), but the batch has 12"):
        model.generate(input_ids=ids, image_features=features, num_beams=3, **settings)
    several = {"num_beams": 3, "num_return_sequences": 2}
    together = model.generate(input_ids=ids[:2], image_features=features, **several, **settings)
    for row in range(2):
        own = slice(row, row + 1)
        alone = model.generate(input_ids=ids[own], image_features=features[own], **several, **settings)
        assert torch.equal(together[2 * row : 2 * row + 2], alone)
    assert len(family.inputs()["input_ids"]) == 3


# --- several adapters ---------------------------------------------------------------------------------------


def two_seeing(name: str, **config: Any) -> PeftModel:
    """Two adapters that see, on the last layer alone, where what they add does not depend on each other."""
    family = BY_NAME[name]
    model = see(family, num_layers=1, image_encoder="one")
    settings = {**SEEING, "image_hidden": 3, "image_encoder": "one", **config}
    model.add_adapter("other", zero_init(family, **settings, num_layers=1))
    return randomise_projector(randomise(model, 5, "other"), 6, "other").eval()


def added(name: str, model: PeftModel, adapters: list[str]) -> Tensor:
    """What the last layer adds to its attention."""
    model.base_model.set_adapter(adapters)
    layer, seen = layers(model)[-1][1], []
    real = layer.contribution

    def watched(*given: Any) -> Any:
        seen.append(real(*given))
        return seen[-1]

    layer.contribution = watched  # type: ignore[method-assign]
    try:
        outputs(BY_NAME[name], model, image_features=pictures())
    finally:
        del layer.__dict__["contribution"]
    return seen[0].clone()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_all_active_adapters_look(name: str) -> None:
    model = two_seeing(name)
    both = added(name, model, ["default", "other"])
    torch.testing.assert_close(both, added(name, model, ["other", "default"]), rtol=1e-5, atol=1e-6)
    each = [added(name, model, [adapter]) for adapter in ("default", "other")]
    torch.testing.assert_close(both, each[0] + each[1], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for parameter in projector(model, "other").parameters():
            parameter.zero_()
    assert not torch.allclose(added(name, model, ["default", "other"]), both, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"image_channels": 9}, "of different encoders: image_channels is 6 and 9"),
        ({"image_layers": [3, 4]}, r"of different encoders: image_layers is \[1, 2\] and \[3, 4\]"),
        ({"image_encoder": "another"}, "of different encoders: image_encoder is 'one' and 'another'"),
    ],
)
def test_active_adapters_of_different_encoders_are_refused(config: dict[str, Any], message: str) -> None:
    model = two_seeing("llama", **config)
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match=message):
        outputs(BY_NAME["llama"], model, image_features=pictures())
    outputs(BY_NAME["llama"], model)  # without images nothing is wrong with them
    model.set_adapter("default")
    outputs(BY_NAME["llama"], model, image_features=pictures())


def test_the_active_adapter_that_takes_no_images_is_named() -> None:
    family, model = BY_NAME["llama"], see(BY_NAME["llama"])
    for name in ("text", "words"):
        model.add_adapter(name, zero_init(family))
    model.set_adapter("text")
    for features in (pictures(), torch.randn(3, M * 6)):
        with pytest.raises(ValueError, match="row 0 comes with an image, but the active adapter 'text' takes none"):
            outputs(family, model, image_features=features)
    nothing = {"image_features": torch.randn(3, 1, M * 6), "image_mask": torch.zeros(3, 1)}
    assert torch.equal(outputs(family, model, **nothing), outputs(family, model))
    model.base_model.set_adapter(["text", "words"])
    with pytest.raises(ValueError, match="none of the active adapters 'text', 'words' takes any"):
        outputs(family, model, image_features=pictures())


# --- what is wrong is named ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"image_mask": torch.ones(3, 1)}, ValueError, "image_features, the images, are missing"),
        (
            {"image_features": torch.zeros(3, 2, 12), "image_mask": torch.ones(3, 1)},
            ValueError,
            r"image_mask has the shape \(3, 1\), but .* need one of \(3, 2\)",
        ),
        ({"image_features": torch.zeros(3, 2, 12), "image_mask": torch.ones(2, 2)}, ValueError, r"\(2, 2\)"),
        ({"image_features": torch.zeros(3, 12), "image_mask": [True] * 3}, TypeError, "image_mask must be a tensor"),
        ({"image_features": pictures(), "image_mask": torch.ones(3, 2)}, ValueError, "a row without images is None"),
        ({"image_features": [[0.0] * 12] * 3}, TypeError, "of row 0 must be a tensor or None, not a list"),
        ({"image_features": [None, torch.zeros(1, 1, 12), None]}, ValueError, r"of row 1 .* not of shape \(1, 1, 12\)"),
        ({"image_features": [None, torch.zeros(5), None]}, ValueError, "have 5 channels"),
    ],
)
def test_wrong_images_are_named(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        outputs(BY_NAME["llama"], see(BY_NAME["llama"]), **given)


def test_what_lies_where_no_image_is_does_not_matter() -> None:
    family, model = BY_NAME["llama"], see(BY_NAME["llama"])
    features, mask = torch.randn(3, 2, M * 6), torch.tensor([[True, False], [False, False], [False, True]])
    rows = [features[0, 0], None, features[2, 1]]
    features[~mask] = torch.nan
    torch.testing.assert_close(
        outputs(family, model, image_features=features, image_mask=mask), outputs(family, model, image_features=rows)
    )
    family.result(model(**family.inputs(), image_features=features, image_mask=mask)).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- compiled -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["all", "base"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "early", "prefix"])
def test_compiled_with_images_equals_eager(name: str, what: str) -> None:
    """One graph in training, and none more at the next batch, whether the model is compiled or the base in it."""
    family = BY_NAME[name if name in BY_NAME else "llama"]
    model = see(family, **(EARLY if name == "early" else {}))
    if name == "prefix":
        settings = {key: value for key, value in SEEING.items()}
        model = get_peft_model(family.model(), GatedPrefixConfig(prompt_length=3, task_type="CAUSAL_LM", **settings))
        randomise_projector(randomise(model)).eval()
    torch._dynamo.reset()
    if what == "all":
        compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    else:
        compiled, base = model, model.get_base_model()
    for seed, mask in enumerate([[[1, 1], [0, 0], [0, 1]], [[0, 1], [1, 1], [0, 0]]]):
        features = torch.randn(3, 2, M * 6, generator=torch.Generator().manual_seed(seed))
        given = {**family.inputs(), "use_cache": False, "image_features": features, "image_mask": torch.tensor(mask)}
        expected = family.result(model(**given))
        expected.square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            if what == "base":
                real = base.forward
                if seed == 0:
                    once = torch.compile(real, fullgraph=True, backend="aot_eager")
                base.forward = once
            ours = family.result(compiled(**given))
            if what == "base":
                base.forward = real
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        ours.square().mean().backward()
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[parameter_name], rtol=1e-4, atol=1e-6)
        model.zero_grad()
    torch._dynamo.reset()
