"""The contract's models through the fused prompt attention, as they would run on a GPU.

What is replaced is only the list of devices on which the seam chooses the operator; on the CPU it is its reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import BY_NAME
from helpers import attach, outputs, randomise, zero_init
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from zerogate.adapters import fused, fused_choice

THROUGH_THE_INTERFACE = ["llama-grouped", "gpt2", "gptj", "gemma2", "qwen3", "bert", "whisper-encoder"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The seam chooses the operator on the CPU too; the shapes of the queries that came by."""
    seen: list[tuple[int, ...]] = []
    real = fused.add_prompt_attention

    def add(out: Tensor, q: Tensor, *rest: Any) -> Tensor:
        seen.append(tuple(q.shape))
        return real(out, q, *rest)

    monkeypatch.setattr(fused_choice, "DEVICES", {"cpu"})
    monkeypatch.setattr(fused, "add_prompt_attention", add)
    return seen


def in_passes(run: Any) -> Any:
    """What comes of it where the seam does not choose the operator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_choice, "DEVICES", set())
        return run()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", THROUGH_THE_INTERFACE)
def test_models_give_the_same_outputs_and_gradients(name: str, calls: list[Any]) -> None:
    family = BY_NAME[name]
    model = attach(family, num_layers=2)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        out = family.result(model(**family.inputs()))
        out.pow(2).mean().backward()
        return out.detach(), gradients(model)

    expected, expected_gradients = in_passes(run)
    assert not calls
    out, made = run()
    assert len(calls) == 2
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert set(made) == set(expected_gradients)
    for key, grad in made.items():
        torch.testing.assert_close(grad, expected_gradients[key], rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(family.result(model(**family.inputs())), expected, rtol=1e-5, atol=1e-5)


def test_a_fresh_adapter_changes_nothing(calls: list[Any]) -> None:
    family = BY_NAME["llama-grouped"]
    plain = outputs(family, family.model())
    model = get_peft_model(family.model(), zero_init(family)).eval()
    assert torch.equal(outputs(family, model), plain)
    assert calls


def test_two_adapters_or_none_are_left_alone(calls: list[Any]) -> None:
    family = BY_NAME["llama-grouped"]
    model = three_adapters()
    model.base_model.set_adapter(["first", "second"])
    both = outputs(family, model)
    alone = len(calls)  # "first" reaches all three layers, "second" the top one: two layers have one adapter
    assert alone == 2
    torch.testing.assert_close(both, in_passes(lambda: outputs(family, model)), rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(outputs(family, model), outputs(family, family.model()))
    assert len(calls) == alone


def test_images_are_added_apart(calls: list[Any]) -> None:
    """With images in the pass more than one set of prompts is at work: torch's own operations do it."""
    family = BY_NAME["llama-grouped"]
    seeing = zero_init(family, num_layers=2, image_layers=[1, 2], image_channels=6, image_hidden=5)
    model = randomise(get_peft_model(family.model(), seeing)).eval()
    features = torch.randn(3, 12)
    seen = outputs(family, model, image_features=features)
    assert not calls
    assert torch.equal(seen, in_passes(lambda: outputs(family, model, image_features=features)))
    blind = outputs(family, model)
    assert len(calls) == 2 and not torch.equal(blind, seen)


def three_adapters() -> PeftModel:
    family = BY_NAME["llama-grouped"]
    model = get_peft_model(family.model(), zero_init(family, num_layers=3, prompt_length=3), adapter_name="first")
    model.add_adapter("second", zero_init(family, num_layers=1, prompt_length=5))
    for seed, name in enumerate(["first", "second"]):
        randomise(model, seed, name)
    return model.eval()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=str)
def test_a_mixed_batch_generates_the_same(settings: dict[str, Any], calls: list[Any]) -> None:
    """Rows with adapters of 3, 5 and no prompts: keys of each row, and a mask."""
    family = BY_NAME["llama-grouped"]
    model = three_adapters()
    run = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0, **settings)

    def generate() -> Tensor:
        return model.generate(**family.inputs(), adapter_names=["first", "__base__", "second"], **run)

    expected = in_passes(generate)
    assert torch.equal(generate(), expected)
    assert (3 * settings.get("num_beams", 1), 4, 1, 8) in calls
    logits = in_passes(lambda: outputs(family, model, adapter_names=["second", "first", "__base__"]))
    ours = outputs(family, model, adapter_names=["second", "first", "__base__"])
    torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_gives_the_gradients_of_a_plain_pass(reentrant: bool, calls: list[Any]) -> None:
    family = BY_NAME["llama-grouped"]

    def backward(model: PeftModel) -> dict[str, Tensor]:
        model.train()
        family.result(model(**family.inputs())).pow(2).mean().backward()
        return gradients(model)

    plain = in_passes(lambda: backward(attach(family, num_layers=2)))
    model = attach(family, num_layers=2)
    model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    made = backward(model)
    assert len(calls) == 4  # two layers, forward and recomputed
    assert set(made) == set(plain)
    for key in plain:
        torch.testing.assert_close(made[key], plain[key], rtol=1e-4, atol=1e-6)


def test_autocast_gives_the_dtypes_of_torchs_own_operations(calls: list[Any]) -> None:
    family = BY_NAME["llama-grouped"]
    model = attach(family, num_layers=2)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = family.result(model(**family.inputs()))
        out.float().pow(2).mean().backward()
        return out.detach(), gradients(model)

    (expected, theirs), (out, ours) = in_passes(run), run()
    assert len(calls) == 2 and out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=5e-2, atol=5e-2)
    for key in theirs:
        assert ours[key].dtype == theirs[key].dtype
        assert (ours[key] - theirs[key]).norm() < 5e-2 * theirs[key].norm(), key


def test_a_gate_trained_alone_and_a_frozen_adapter(calls: list[Any]) -> None:
    """Keys without a gradient; and, below a trained layer, prompts without any."""
    family = BY_NAME["llama-grouped"]
    for trained in (".gate.", ".layers.0."):
        model = attach(family, num_layers=3)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".zero_init." in name and trained in name)

        def run(model: PeftModel = model) -> dict[str, Tensor]:
            model.zero_grad()
            family.result(model(**family.inputs())).pow(2).mean().backward()
            return gradients(model)

        theirs, ours = in_passes(run), run()
        assert set(ours) == set(theirs) and ours
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradients_under_ddp(calls: list[Any]) -> None:
    family = BY_NAME["llama-grouped"]
    plain, model = attach(family, num_layers=2), attach(family, num_layers=2)
    in_passes(lambda: family.result(plain(**family.inputs())).pow(2).mean().backward())
    parallel = nn.parallel.DistributedDataParallel(model)
    family.result(parallel(**family.inputs())).pow(2).mean().backward()
    assert len(calls) == 2
    for key, grad in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[key], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiled_there_is_one_operation_a_layer_and_no_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_choice, "DEVICES", {"cpu"})
    family = BY_NAME["llama-grouped"]
    model = attach(family, num_layers=2)
    base, inputs = model.get_base_model(), {**family.inputs(), "use_cache": False}
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    def run(forward: Any) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        out = family.result(forward(**inputs))
        out.pow(2).mean().backward()
        return out.detach(), gradients(model)

    expected, theirs = run(base)
    torch._dynamo.reset()
    fused_choice._tried.cache_clear()  # so that the trial is made while the graph is traced
    out, ours = run(torch.compile(base, fullgraph=True, backend=backend))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6)
    (graph,) = graphs
    assert sum("add_prompt_attention" in str(node.target) for node in graph.graph.nodes) == 2
    torch._dynamo.reset()


# --- where it does not work ---------------------------------------------------------------------------------


class Wrong(Exception):
    """Stands for TritonError."""


@pytest.mark.parametrize("fault", ["does not compile", "is wrong", "not a number"])
def test_where_it_does_not_work_torchs_own_operations_are_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that fails or errs: said once, and the results are right all the same."""

    def forward(out: Tensor, *rest: Any) -> Tensor:
        if fault == "does not compile":
            raise Wrong("no such instruction")
        return fused.reference(out, *rest) * (1.2 if fault == "is wrong" else torch.nan)

    kernels: Any = SimpleNamespace(forward=forward, backward=fused.reference_backward, TritonError=Wrong)
    monkeypatch.setattr(fused, "kernels_for", lambda device: kernels)
    fused_choice._tried.cache_clear()
    family = BY_NAME["llama-grouped"]
    model = attach(family, num_layers=2)
    expected = outputs(family, model)
    monkeypatch.setattr(fused_choice, "DEVICES", {"cpu"})
    with pytest.warns(UserWarning, match=f"{'no such instruction' if 'compile' in fault else 'against fp64'}.*in its"):
        assert torch.equal(outputs(family, model), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(outputs(family, model), expected)
    fused_choice._tried.cache_clear()
