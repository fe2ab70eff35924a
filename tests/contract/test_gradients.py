"""The contract, point 3: every trainable learns, nothing else does, and remembering keys changes no gradient.

LitGPT's cache once kept what a validation pass had computed, and its prompts silently stopped training. So each test
here runs a pass without gradients first.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from families import BY_NAME, FAMILIES, Family, adapted_by_hand
from helpers import adapter_parameters, attach, layers, outputs, zero_init
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from zerogate.adapters.zero_init import ZeroInitLayer

CHECKPOINTED = ["llama-grouped", "gpt2", "gptj", "bloom", "falcon-new", "mpt", "bert", "vit", "whisper-encoder"]
REENTRANT = pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])


def loss_of(family: Family, model: nn.Module, rows: slice = slice(None)) -> Tensor:
    inputs = {name: tensor[rows] for name, tensor in family.inputs().items()}
    return family.result(model(**inputs)).pow(2).mean()


def gradients(model: PeftModel) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def no_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "hidden_dropout", "dropout", "attn_dropout_p", "activation_dropout"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)
    return model


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_after_two_steps_every_trainable_has_a_gradient_and_no_base_parameter_has(family: Family) -> None:
    model = no_dropout(get_peft_model(family.model(), zero_init(family)))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(3):
        model.eval()
        outputs(family, model)  # a validation pass without gradients fills the cache
        model.train()
        optimizer.zero_grad()
        loss_of(family, model).backward()
        grads = gradients(model)
        assert set(grads) == set(adapter_parameters(model))
        for name, grad in grads.items():
            if step == 0 and ".prompt." in name:
                assert grad.abs().max() == 0, name  # the gate is 0: only it can move first
            else:
                assert grad.abs().max() > 0, (step, name)
        optimizer.step()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_gradients_equal_those_of_the_formula(family: Family) -> None:
    plain = family.model()
    model = attach(family)
    outputs(family, model)
    loss_of(family, model).backward()

    prompts = {name: layer.prompt["default"].detach().clone().requires_grad_() for name, layer in layers(model)}
    gates = {name: layer.gate["default"].detach().clone().requires_grad_() for name, layer in layers(model)}
    scale = dict(layers(model))[next(iter(gates))].configs["default"].gate_scale
    effective = {name: torch.tanh(scale * gate) for name, gate in gates.items()}
    reference = adapted_by_hand(family, plain, prompts, effective)
    loss_of(family, reference).backward()
    for name, layer in layers(model):
        for ours, theirs in [(layer.prompt["default"], prompts[name]), (layer.gate["default"], gates[name])]:
            assert theirs.grad is not None and ours.grad is not None
            scale = theirs.grad.abs().max()
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5 * float(scale) + 1e-8)


@pytest.mark.parametrize("name", ["llama-grouped", "qwen3", "gptj", "falcon-new"])
def test_gradients_equal_finite_differences_in_float64(name: str) -> None:
    family = BY_NAME[name]
    model = attach(family, num_layers=2, prompt_length=2).double()
    parameters = adapter_parameters(model)
    generator = torch.Generator().manual_seed(1)
    loss_of(family, model).backward()
    for parameter in parameters.values():
        for _ in range(3):
            at = int(torch.randint(parameter.numel(), (1,), generator=generator))
            flat, step = parameter.data.view(-1), 4e-3  # through .data, which raises no version
            there = flat[at].item()
            losses = {}
            with torch.no_grad():
                for n in (-2, -1, 1, 2):
                    flat[at] = there + n * step
                    losses[n] = loss_of(family, model).item()
                flat[at] = there
            slope = (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)
            assert parameter.grad is not None
            # Norms and scores are taken in fp32 whatever the model is, which is the noise here.
            assert abs(parameter.grad.view(-1)[at].item() - slope) < 1e-3 * abs(slope) + 1e-5


def accumulate(family: Family, model: PeftModel, rows: list[slice]) -> dict[str, Tensor]:
    model.zero_grad()
    for part in rows:
        (loss_of(family, model, part) / len(rows)).backward()
    return gradients(model)


@pytest.mark.parametrize("name", ["llama-grouped", "gpt2", "gptj", "bloom", "falcon-new", "bert", "siglip-vision"])
def test_three_micro_batches_give_the_gradient_of_one_batch(name: str) -> None:
    family = BY_NAME[name]
    model = no_dropout(attach(family)).train()
    whole = accumulate(family, model, [slice(None)])
    parts = accumulate(family, model, [slice(i, i + 1) for i in range(3)])
    assert set(whole) == set(parts) == set(adapter_parameters(model))
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)


class CountPrompts:
    """Counts the passes of prompts through the key projections (or fused ones), told apart by their two dimensions."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        for module in list(model.modules()):
            layer = module._modules.get("zero_init") if isinstance(module, nn.Module) else None
            if isinstance(layer, ZeroInitLayer):
                layer.layout.projections(module)[0].register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.count += args[0].dim() == 2


def checkpointing(model: PeftModel, reentrant: bool) -> None:
    model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()


@pytest.mark.parametrize("mode", ["plain", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_keys_and_values_are_computed_once_per_optimiser_step(name: str, mode: str) -> None:
    family = BY_NAME[name]
    model = no_dropout(attach(family, num_layers=2)).train()
    if mode != "plain":
        checkpointing(model, mode == "reentrant")
    counter = CountPrompts(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(1, 4):
        optimizer.zero_grad()
        for part in range(3):
            loss_of(family, model, slice(part, part + 1)).backward()
        optimizer.step()
        assert counter.count == 2 * step, "2 layers, once a step"
        assert all(g.abs().max() > 0 for g in gradients(model).values())


@REENTRANT
@pytest.mark.parametrize("layers_adapted", [1, 3])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpointing_equals_plain(name: str, layers_adapted: int, reentrant: bool) -> None:
    family = BY_NAME[name]
    rows = [slice(0, 2), slice(2, 3)]
    plain = accumulate(family, no_dropout(attach(family, num_layers=layers_adapted)).train(), rows)
    model = no_dropout(attach(family, num_layers=layers_adapted)).train()
    checkpointing(model, reentrant)
    checkpointed = accumulate(family, model, rows)
    assert set(checkpointed) == set(plain) == set(adapter_parameters(model))
    for key in plain:
        torch.testing.assert_close(checkpointed[key], plain[key], rtol=1e-5, atol=1e-7)


# --- the cut: no graph below the first adapted layer --------------------------------------------------------


class RecordsGraph:
    """Whether each layer's output has a graph behind it, by layer."""

    def __init__(self, family: Family, model: PeftModel) -> None:
        base = model.get_base_model()
        stack = base.get_submodule(family.block_names(base)[0].split(".0.")[0])
        self.seen: list[bool] = [False] * len(stack)
        for i, layer in enumerate(stack):
            layer.register_forward_hook(self.hook(i))

    def hook(self, i: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: object, output: object) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            self.seen[i] = bool(hidden.requires_grad)

        return keep


@pytest.mark.parametrize("mode", ["plain", "inputs require grad", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.name != "clip-both"])
def test_layers_below_the_adapter_record_no_graph(name: str, mode: str) -> None:
    family = BY_NAME[name]
    model = no_dropout(attach(family, num_layers=1)).train()
    if mode == "inputs require grad":
        model.enable_input_require_grads()
    elif mode != "plain":
        checkpointing(model, mode == "reentrant")
    seen = RecordsGraph(family, model)
    loss_of(family, model).backward()
    assert seen.seen == [False, False, True]
    assert set(gradients(model)) == set(adapter_parameters(model))


@pytest.mark.parametrize("mode", ["plain", "inputs require grad", "non-reentrant", "reentrant"])
def test_norms_below_that_are_trained_too_get_gradients(mode: str) -> None:
    family = BY_NAME["llama-grouped"]
    model = no_dropout(attach(family, num_layers=1, modules_to_save=["input_layernorm"])).train()
    if mode == "inputs require grad":
        model.enable_input_require_grads()
    elif mode != "plain":
        checkpointing(model, mode == "reentrant")
    loss_of(family, model).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert sum("input_layernorm" in name for name in gradients(model)) == 3


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_reach_inputs_that_the_caller_wants_them_for(checkpointed: bool) -> None:
    """A projector outside of the model (images as embeddings) learns through frozen layers, below the adapter too."""
    family = BY_NAME["llama-grouped"]
    model = attach(family, num_layers=1)
    if checkpointed:
        model.train()
        checkpointing(model, reentrant=False)
    embeds = model.get_input_embeddings()(family.inputs()["input_ids"]).detach()
    extra = nn.Parameter(torch.randn(2, embeds.shape[-1]))
    inputs = torch.cat([extra.expand(len(embeds), -1, -1), embeds], dim=1)
    model(inputs_embeds=inputs).logits.pow(2).mean().backward()
    assert extra.grad is not None and extra.grad.abs().max() > 0
    leaf = embeds.clone().requires_grad_()
    model(inputs_embeds=leaf).logits.pow(2).mean().backward()
    assert leaf.grad is not None and leaf.grad.abs().max() > 0
