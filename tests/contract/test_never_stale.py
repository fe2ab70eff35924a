"""Remembered keys and values are never stale, whatever changed the prompts, the gates or the base, and however.

Each test warms the cache, changes something, and compares with the reference made from the formula (or with a model
that has never been run). Each starts in both kinds of pass, with gradients and without.
"""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import BY_NAME, Family
from helpers import adapter_parameters, attach, by_hand, layers, outputs, randomise, zero_init
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from test_gradients import CountPrompts, loss_of
from torch import Tensor, nn

NAMES = ["llama-grouped", "gpt2", "gptj", "bloom", "falcon-new", "mpt", "bert"]
each_family = pytest.mark.parametrize("name", NAMES)


def both_passes(family: Family, model: PeftModel) -> Tensor:
    """The output of a pass with gradients, after checking that one without gives the same."""
    with_grad = family.result(model(**family.inputs())).detach()
    assert torch.equal(with_grad, outputs(family, model))
    with torch.inference_mode():
        assert torch.equal(with_grad, family.result(model(**family.inputs())))
    return with_grad


def assert_fresh(family: Family, model: PeftModel, reference: nn.Module | None = None) -> None:
    expected = outputs(family, reference or by_hand(family, family.model(), model))
    torch.testing.assert_close(both_passes(family, model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama-grouped", "gpt2"])
def test_a_sequence_goes_on_with_what_it_began_with(name: str) -> None:
    """What raises a version is seen at the next token; an edit through `.data` by the next sequence."""
    family = BY_NAME[name]
    model = attach(family)
    ids_BT = torch.randint(3, 30, (2, 6), generator=torch.Generator().manual_seed(0))

    def last(past: object = None) -> tuple[Tensor, object]:
        given = ids_BT if past is None else ids_BT[:, -1:]
        with torch.inference_mode():
            out = model(input_ids=given, past_key_values=past, use_cache=True)
        return out.logits[:, -1], out.past_key_values

    for change in (in_place, replaced_data, replaced_parameters, through_data):
        before = last()[0]
        unchanged = last(last()[1])[0]
        past = last()[1]
        change(model)
        after = last(past)[0]
        assert torch.equal(after, unchanged) == (change is through_data), change.__name__
        assert not torch.equal(last()[0], before), change.__name__


def in_place(model: PeftModel) -> None:
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.mul_(-0.7)


def through_data(model: PeftModel) -> None:
    for parameter in adapter_parameters(model).values():
        parameter.data.mul_(-0.7)


def replaced_data(model: PeftModel) -> None:
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data * -0.7


def replaced_parameters(model: PeftModel) -> None:
    for _, layer in layers(model):
        layer.prompt["default"] = nn.Parameter(layer.prompt["default"].detach() * -0.7)
        layer.gate["default"] = nn.Parameter(layer.gate["default"].detach() * -0.7)


def state_dict_loaded(model: PeftModel) -> None:
    state = {name: tensor * -0.7 for name, tensor in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, state)


def in_inference_mode(model: PeftModel) -> None:
    with torch.inference_mode():
        for parameter in adapter_parameters(model).values():
            parameter.mul_(-0.7)


def one_gate_alone(model: PeftModel) -> None:
    with torch.no_grad():
        layers(model)[-1][1].gate["default"][0] += 1e-3


CHANGES = [
    in_place,
    through_data,
    replaced_data,
    replaced_parameters,
    state_dict_loaded,
    in_inference_mode,
    one_gate_alone,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@each_family
def test_a_changed_adapter_is_seen(name: str, change: Callable[[PeftModel], None]) -> None:
    family = BY_NAME[name]
    model = attach(family)
    before = both_passes(family, model)
    change(model)
    assert_fresh(family, model)
    assert not torch.equal(before, outputs(family, model))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimiser_step_is_seen(optimizer: str) -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    steps = OPTIMIZERS[optimizer]([p for p in model.parameters() if p.requires_grad])
    for _ in range(2):
        steps.zero_grad()
        loss_of(family, model).backward()
        steps.step()
        assert_fresh(family, model)


class StepThroughData(torch.optim.Optimizer):
    """As 8-bit optimisers do it: the numbers change under autograd's eyes, and no version is raised."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(0.5 * parameter.grad)


def test_an_optimiser_that_raises_no_version_is_seen_without_looking_at_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU the numbers are not compared in training, which would synchronise: the step itself must be noticed."""
    from zerogate.adapters.prompt_cache import PromptCache

    monkeypatch.setattr(PromptCache, "_edited", staticmethod(lambda *args: False))
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    optimizer = StepThroughData([p for p in model.parameters() if p.requires_grad])
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(family, model).backward()
        optimizer.step()
        assert_fresh(family, model)


@each_family
def test_a_changed_base_is_seen(name: str) -> None:
    family = BY_NAME[name]
    model = attach(family)
    both_passes(family, model)
    with torch.no_grad():
        for _, layer in layers(model):
            layer_base = model.get_base_model().get_submodule(dict_of(model)[id(layer)])
            for projection in layer.layout.projections(layer_base):
                for parameter in projection.parameters():
                    parameter.mul_(1.5)
    fresh = untouched_copy(model)
    assert torch.equal(both_passes(family, model), outputs(family, fresh))


def dict_of(model: PeftModel) -> dict[int, str]:
    return {id(layer): name for name, layer in layers(model)}


def untouched_copy(model: PeftModel) -> PeftModel:
    """A copy that has remembered nothing."""
    fresh = copy.deepcopy(model)
    for _, layer in layers(fresh):
        assert not layer.cache._entries
    return fresh


@each_family
def test_dtype_changes_are_seen(name: str) -> None:
    """There and back through bf16: the base's weights are rounded on the way, and prompts must pass through those."""
    family = BY_NAME[name]
    model = attach(family)
    both_passes(family, model)
    exact = {name: parameter.clone() for name, parameter in adapter_parameters(model).items()}
    model.to(torch.bfloat16)
    model.to(torch.float32)
    assert torch.equal(both_passes(family, model), outputs(family, untouched_copy(model)))
    for name, parameter in adapter_parameters(model).items():
        assert torch.equal(parameter, exact[name]), "prompts and gates stay fp32, unrounded"


@each_family
def test_a_bfloat16_pass_between_changes_nothing(name: str) -> None:
    family = BY_NAME[name]
    model = attach(family)
    before = both_passes(family, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs(family, model)
        assert torch.equal(half, outputs(family, untouched_copy(model)))
    assert torch.equal(both_passes(family, model), before)


@pytest.mark.parametrize("first", ["no_grad", "inference_mode", "frozen", "grad"])
@each_family
def test_training_after_any_kind_of_pass(name: str, first: str) -> None:
    family = BY_NAME[name]
    model = attach(family)
    expected = {n: p.grad for n, p in trained(family, attach(family)).items()}
    if first == "no_grad":
        outputs(family, model)
    elif first == "inference_mode":
        with torch.inference_mode():
            model(**family.inputs())
    elif first == "frozen":
        for parameter in adapter_parameters(model).values():
            parameter.requires_grad_(False)
        model(**family.inputs())
        for parameter in adapter_parameters(model).values():
            parameter.requires_grad_(True)
    else:
        model(**family.inputs())
    for parameter_name, parameter in trained(family, model).items():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected[parameter_name])


def trained(family: Family, model: PeftModel) -> dict[str, Tensor]:
    loss_of(family, model).backward()
    return adapter_parameters(model)


@pytest.mark.parametrize("then", ["prompt", "gate", "both"])
@pytest.mark.parametrize("first", ["prompt", "gate", "both"])
def test_freezing_and_thawing_prompts_and_gates_apart(first: str, then: str) -> None:
    family = BY_NAME["llama-grouped"]
    expected = {n: p.grad for n, p in trained(family, attach(family)).items()}
    model = attach(family)
    for kind in (first, then):
        model.zero_grad()
        for name, parameter in adapter_parameters(model).items():
            parameter.requires_grad_(kind == "both" or f".{kind}." in name)
        for name, parameter in trained(family, model).items():
            if parameter.requires_grad:
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, expected[name])
            else:
                assert parameter.grad is None


def test_weights_swapped_in_functionally_are_seen() -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    both_passes(family, model)
    swapped = {name: parameter.detach() * -0.7 for name, parameter in adapter_parameters(model).items()}
    with torch.no_grad():
        ours = torch.func.functional_call(model, swapped, (), family.inputs()).logits
    in_place(model)
    assert torch.equal(ours, outputs(family, model))


def test_a_backward_after_the_step_still_goes_to_the_right_graph() -> None:
    """Two passes, a step between them: the older loss keeps the keys and values that it was computed with."""
    family = BY_NAME["llama-grouped"]
    expected = {n: p.grad for n, p in trained(family, attach(family)).items()}
    model = attach(family)
    old = loss_of(family, model)
    through_data(model)
    loss_of(family, model)
    old.backward()
    for name, parameter in adapter_parameters(model).items():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_a_step_leaves_nothing_of_the_step_before() -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    optimizer = torch.optim.SGD(adapter_parameters(model).values(), lr=0.1)
    counts = []
    for _ in range(4):
        loss_of(family, model).backward()
        optimizer.step()
        optimizer.zero_grad()
        gc.collect()
        counts.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
    assert counts[3] == counts[1]


def test_inference_computes_once_per_adapter_and_remembers_each() -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family)
    model.add_adapter("second", zero_init(family, prompt_length=5))
    randomise(model, 1, "second")
    counter = CountPrompts(model)
    for _ in range(3):
        for adapter in ("default", "second"):
            model.set_adapter(adapter, inference_mode=True)
            outputs(family, model)
    assert counter.count == 2 * 3  # adapters by layers
    model.generate(**family.inputs(), max_new_tokens=4, do_sample=False)
    assert counter.count == 2 * 3


# --- copies -------------------------------------------------------------------------------------------------


@each_family
def test_a_deep_copy_is_independent(name: str) -> None:
    family = BY_NAME[name]
    model = attach(family)
    before = both_passes(family, model)
    other = copy.deepcopy(model)
    assert torch.equal(both_passes(family, other), before)
    in_place(other)
    assert_fresh(family, other)
    assert torch.equal(both_passes(family, model), before)
    in_place(model)
    assert torch.equal(both_passes(family, model), both_passes(family, other))
    plain = other.unload()  # from the copy alone
    assert torch.equal(outputs(family, plain), outputs(family, family.model()))
    assert_fresh(family, model)
    assert torch.equal(outputs(family, model.unload()), outputs(family, family.model()))


@each_family
def test_a_model_pickled_whole_comes_back(name: str) -> None:
    family = BY_NAME[name]
    model = attach(family)
    before = both_passes(family, model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    back = torch.load(file, weights_only=False)  # our own bytes, made a line above
    assert torch.equal(both_passes(family, back), before)
    assert torch.equal(outputs(family, back.unload()), outputs(family, family.model()))


def test_training_goes_on_after_a_round_trip_on_disk(tmp_path: Path) -> None:
    family = BY_NAME["gptj"]
    model = attach(family)
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(family.model(), tmp_path, is_trainable=True)
    theirs, ours = trained(family, back), trained(family, model)
    for name, parameter in ours.items():
        assert torch.equal(theirs[name].grad, parameter.grad)


def test_a_new_adapter_of_the_old_name_is_fresh() -> None:
    family = BY_NAME["llama-grouped"]
    model = get_peft_model(family.model(), zero_init(family)).eval()
    randomise(model)
    both_passes(family, model)
    model.add_adapter("other", zero_init(family, prompt_length=2))
    model.set_adapter("other")
    model.delete_adapter("default")
    model.add_adapter("default", zero_init(family))
    model.set_adapter("default")
    randomise(model, 7)
    assert_fresh(family, model)
