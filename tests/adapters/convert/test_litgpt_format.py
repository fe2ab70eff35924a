"""LitGPT's adapter file, written by hand as LitGPT saves it (both gate shapes), judged by the formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_adapters import C, H, N, base_of, by_the_paper, logits, ours, random_adapter, saved, some_tokens, tiny_llama
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Qwen3Config, Qwen3ForCausalLM

from zerogate.adapters.convert import Base, detect_format, read_litgpt, write_litgpt, write_zerogate

NEW, OLD = (1, 1, H, 1), (1, H, 1, 1)
BASE = Base.llama(N, C, H)


def lit_state(layers: tuple[int, ...] = (2, 3, 4), gate_shape: tuple[int, ...] = NEW, K: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    state = {}
    for i in layers:
        state[f"transformer.h.{i}.attn.gating_factor"] = torch.randn(H, generator=generator).reshape(gate_shape)
        state[f"transformer.h.{i}.attn.adapter_wte.weight"] = torch.randn(K, C, generator=generator)
    return state


@pytest.mark.parametrize("groups", [H, 2, 1])
@pytest.mark.parametrize("gate_shape", [NEW, OLD], ids=["new", "legacy"])
def test_matches_the_formula(gate_shape: tuple[int, ...], groups: int, tmp_path: Path) -> None:
    state = lit_state(gate_shape=gate_shape)
    path = saved(tmp_path / "lit_model.pth.adapter", {"model": state})
    model, ids_BT = tiny_llama(num_key_value_heads=groups), some_tokens()
    prompts = {
        i: (
            state[f"transformer.h.{i}.attn.adapter_wte.weight"],
            state[f"transformer.h.{i}.attn.gating_factor"].flatten(),
        )
        for i in (2, 3, 4)
    }
    expected = by_the_paper(model, prompts, ids_BT)
    assert (expected - logits(model, ids_BT)).abs().max() > 1e-2
    base = base_of(model)
    adapter = read_litgpt(path, base)
    # LitGPT's own wrong rows since 0.5.5 are said, except where there is one key/value head and its rows are right.
    assert bool(adapter.notes) == (groups > 1)
    write_zerogate(adapter, tmp_path / "ours", base)
    torch.testing.assert_close(logits(ours(model, tmp_path / "ours"), ids_BT), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate_shape", [NEW, OLD], ids=["new", "legacy"])
def test_round_trip_is_bit_for_bit(gate_shape: tuple[int, ...], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.adapter", {"model": lit_state(gate_shape=gate_shape)})
    write_litgpt(read_litgpt(path, BASE), tmp_path / "b.adapter", BASE)
    again = torch.load(tmp_path / "b.adapter", weights_only=True)
    assert again.keys() == {"model"}
    expected = lit_state(gate_shape=NEW)  # the present shape, whatever came in
    assert again["model"].keys() == expected.keys()
    assert all(torch.equal(again["model"][key], value) for key, value in expected.items())


def test_the_folder_is_enough(tmp_path: Path) -> None:
    saved(tmp_path / "lit_model.pth.adapter", {"model": lit_state()})
    assert detect_format(tmp_path) == "litgpt"
    assert list(read_litgpt(tmp_path, BASE).modules) == [2, 3, 4]


def test_names_of_another_family(tmp_path: Path) -> None:
    sizes = {"vocab_size": 61, "hidden_size": C, "intermediate_size": 48, "num_hidden_layers": N}
    base = base_of(GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_attention_heads=H)))
    adapter = read_litgpt(saved(tmp_path / "a.adapter", {"model": lit_state()}), base)
    assert list(adapter.modules.values()) == [f"gpt_neox.layers.{i}.attention" for i in (2, 3, 4)]
    model = ours(GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_attention_heads=H)), adapter)
    assert model.peft_config["default"].num_layers == 3
    assert torch.isfinite(logits(model, some_tokens())).all()


def test_export_stores_effective_gates_for_all_heads(tmp_path: Path) -> None:
    adapter = random_adapter([3, 4], heads=1, activation="tanh", scale=2.0)
    write_litgpt(adapter, tmp_path / "a.adapter", BASE)
    gate = torch.load(tmp_path / "a.adapter", weights_only=True)["model"]["transformer.h.3.attn.gating_factor"]
    assert gate.shape == NEW and torch.equal(gate.flatten(), torch.tanh(2 * adapter.gates_LH[0]).expand(H))


def qwen3() -> Base:
    sizes = {"vocab_size": 61, "hidden_size": C, "intermediate_size": 48, "num_hidden_layers": N, "head_dim": 8}
    return base_of(Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=H, num_key_value_heads=2)))


@pytest.mark.parametrize(
    ("state", "base", "message"),
    [
        (lit_state((1, 2)), BASE, r"topmost.*layers 3-4 of N=5; this adapter sits in layers 1-2"),
        (lit_state((4, 5)), BASE, "adapts layer 5, and the base has 5 layers"),
        (lit_state(gate_shape=(H, 1, 1, 1)), BASE, r"gating_factor is \[4, 1, 1, 1\]"),
        (lit_state(), Base.llama(N, C, 8), r"\[1, 1, 8, 1\]"),
        (lit_state(), Base.llama(N, 64, H), "C=32, and the base has C=64"),
        ({**lit_state(), "transformer.h.4.attn.proj.adapter_bias": torch.ones(1)}, BASE, "adapter_bias.*V2"),
        (
            {k: v for k, v in lit_state().items() if "3.attn.gating" not in k},
            BASE,
            "no transformer.h.3.attn.gating_factor",
        ),
        ({**lit_state(), "transformer.h.4.attn.adapter_wte.weight": torch.ones(2, C)}, BASE, "as in every other layer"),
        (
            {**lit_state(), "transformer.h.4.attn.adapter_wte.weight": torch.full((3, C), torch.nan)},
            BASE,
            "layer 4 contain NaN",
        ),
        ({"lm_head.weight": torch.ones(1)}, BASE, "no LitGPT adapter"),
    ],
)
def test_refusals(state: dict[str, Tensor], base: Base, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.adapter", {"model": state})
    with pytest.raises(ValueError, match=message):
        read_litgpt(path, base)


def test_key_norms_are_refused_both_ways(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.adapter", {"model": lit_state()})
    with pytest.raises(ValueError, match="QK-norm"):
        read_litgpt(path, qwen3())
    with pytest.raises(ValueError, match="QK-norm"):
        write_litgpt(random_adapter([4]), tmp_path / "b.adapter", qwen3())


def test_export_needs_the_topmost_layers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="topmost layers without a gap"):
        write_litgpt(random_adapter([0, 4]), tmp_path / "a.adapter", BASE)
    assert not list(tmp_path.iterdir())
