"""The contract, points 1 and 2: exact identity at the start, and parity with a reference written from the formula.

Every family, with random weights everywhere (norms and biases too), random prompts and random gates: at gate 0 even
wrong keys would pass. Run one family with `pytest tests/contract/test_contract.py -k gpt_neox`.
"""

from __future__ import annotations

import pytest
import torch
from families import BY_NAME, FAMILIES, Family
from helpers import attach, by_hand, layers, outputs, zero_init
from peft import get_peft_model

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
NO_SDPA = {"gemma2"}  # softcap: transformers refuses sdpa there
BASE_ATTENTION = [
    pytest.param(family, attention, id=f"{family.name}-{attention}")
    for family in FAMILIES
    for attention in ("eager", "sdpa")
    if family.interface and not (attention == "sdpa" and family.name in NO_SDPA)
]


def assert_same(ours: torch.Tensor, reference: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@every_family
def test_identity_at_start(family: Family) -> None:
    plain = family.model()
    before = outputs(family, plain)
    adapted = get_peft_model(plain, zero_init(family)).eval()
    assert len(layers(adapted)) == len(family.block_names(family.model()))
    assert torch.equal(outputs(family, adapted), before)
    adapted.train()  # tiny configs have dropout in some families: only the seeds make two passes equal
    torch.manual_seed(1)
    trained = outputs(family, adapted)
    with adapted.disable_adapter():
        torch.manual_seed(1)
        assert torch.equal(trained, outputs(family, adapted))


@every_family
def test_parity_with_the_formula(family: Family) -> None:
    plain = family.model()
    base = outputs(family, plain)
    adapted = attach(family)
    reference = by_hand(family, plain, adapted)
    ours = outputs(family, adapted)
    assert_same(ours, outputs(family, reference))
    assert (ours - base).abs().max() > 1e-3  # the prompts do something
    with adapted.disable_adapter():
        assert torch.equal(outputs(family, adapted), base)
    assert_same(outputs(family, adapted), ours, 0.0)


SETTINGS = [
    {"gate_activation": "identity"},
    {"gate_scale": 10.0},
    {"gate_activation": "identity", "gate_scale": 2.5},
    {"gate_per": "layer"},
    {"num_layers": 1, "prompt_length": 1},
    {"num_layers": 2, "prompt_length": 12},
    {"layers_to_transform": [0, 2]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["llama-grouped", "gpt2", "gptj", "falcon-new", "bert"])
def test_parity_for_each_setting(name: str, settings: dict) -> None:
    family = BY_NAME[name]
    adapted = attach(family, **settings)
    reached = [n for n, _ in layers(adapted)]
    blocks = family.block_names(family.model())
    chosen = settings.get("layers_to_transform", range(len(blocks))[-settings.get("num_layers", 99) :])
    assert reached == [blocks[i] for i in chosen]
    assert_same(outputs(family, adapted), outputs(family, by_hand(family, family.model(), adapted)))


@pytest.mark.parametrize(("family", "attention"), BASE_ATTENTION)
def test_parity_for_each_base_attention(family: Family, attention: str) -> None:
    plain, model = family.model(attention=attention), family.model(attention=attention)
    adapted = attach(family, model)
    assert_same(outputs(family, adapted), outputs(family, by_hand(family, plain, adapted)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["falcon-new", "falcon-alibi"])
def test_parity_for_each_base_attention_of_falcon(name: str, attention: str) -> None:
    family = BY_NAME[name]
    adapted = attach(family, family.model(attention=attention))
    reference = by_hand(family, family.model(attention=attention), adapted)
    assert_same(outputs(family, adapted), outputs(family, reference))


@pytest.mark.parametrize("name", ["llama-grouped", "gptj", "bert", "falcon-plain"])
def test_parity_in_bfloat16(name: str) -> None:
    """A bf16 base: the trainables stay fp32, and the result is that of the fp32 reference within bf16's own noise."""
    family = BY_NAME[name]
    model = family.model().to(torch.bfloat16)
    adapted = attach(family, model)
    assert all(p.dtype == torch.float32 for n, p in adapted.named_parameters() if "zero_init" in n)
    exact = outputs(family, by_hand(family, model_in_float(family), adapted))
    ours = outputs(family, adapted)
    assert ours.dtype == torch.bfloat16
    noise = (outputs(family, family.model().to(torch.bfloat16)).float() - outputs(family, model_in_float(family))).abs()
    assert (ours.float() - exact).abs().max() < 3 * noise.max() + 0.02


def model_in_float(family: Family) -> torch.nn.Module:
    """The bf16 weights, computed with in fp32."""
    return family.model().to(torch.bfloat16).float()
