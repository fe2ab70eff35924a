"""The official v1 format: against logits that the official code gives, and each of its rules."""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import C, H, N, base_of, by_the_paper, logits, ours, random_adapter, saved, some_tokens, tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM

from zerogate.adapters.convert import Base, detect_format, read_official, write_official, write_zerogate

SharedData = Callable[[str], Path]
BASE = Base.llama(N, C, H)


def v1_state(K: int = 3, L: int = 2, gate_shape: tuple[int, ...] = (1, H, 1, 1)) -> dict[str, Tensor]:
    """A file as the official code saves one, written out by hand."""
    generator = torch.Generator().manual_seed(5)
    state = {"adapter_query.weight": torch.randn(L * K, C, generator=generator)}
    for i in range(N):
        trained = i >= N - L
        state[f"layers.{i}.attention.gate"] = torch.randn(gate_shape, generator=generator) * 0.7 * trained
    return state


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return saved(tmp_path / "adapter.pth", v1_state())


# --- the real thing ------------------------------------------------------------------------------------------------


def test_gives_the_logits_of_the_official_code(tmp_path: Path, shared_data: SharedData) -> None:
    folder = shared_data("official-checkpoint")
    about = json.loads((folder / "about.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    base_model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    base = base_of(base_model, str(folder / "base"))

    torch.testing.assert_close(
        logits(base_model, expected["tokens"])[:, -1], expected["base_logits"], atol=1e-4, rtol=0
    )

    adapter = read_official(folder / "adapter.pth", gate_activation=about["gate_activation"], base=base)
    assert (adapter.prompt_length, len(adapter.modules)) == (about["prompt_length"], about["num_layers"])
    write_zerogate(adapter, tmp_path / "ours", base)
    model = ours(base_model, tmp_path / "ours")
    found = torch.stack([logits(model, expected["tokens"][:, :count])[:, -1] for count in (1, 5, 17)])
    torch.testing.assert_close(found, expected["logits_at_1_5_17"], atol=1e-4, rtol=0)
    assert (found[2] - expected["base_logits"]).abs().max() > 0.1  # the adapter matters here

    written = model.generate(
        input_ids=expected["tokens"][:, :9], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(written[:, 9:], expected["greedy_from_9"])

    # With the wrong activation the same file is another model: guessing would not do.
    wrong = read_official(folder / "adapter.pth", gate_activation="tanh", base=base)
    assert (
        logits(ours(AutoModelForCausalLM.from_pretrained(folder / "base"), wrong), expected["tokens"])[:, -1] - found[2]
    ).abs().max() > 1e-2


def test_real_checkpoint_round_trip_is_bit_for_bit(tmp_path: Path, shared_data: SharedData) -> None:
    folder = shared_data("official-checkpoint")
    base = Base.llama(6, 128, 8)
    adapter = read_official(folder / "adapter.pth", gate_activation="identity", base=base)
    write_official(adapter, tmp_path / "again.pth", base)
    first, second = (torch.load(path, weights_only=True) for path in (folder / "adapter.pth", tmp_path / "again.pth"))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]) and tensor.dtype == second[key].dtype, key


# --- what the file means -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_matches_the_formula(v1: Path, activation: str) -> None:
    state = v1_state()
    act = torch.tanh if activation == "tanh" else torch.clone
    prompts = {
        N - 2 + j: (
            state["adapter_query.weight"][3 * j : 3 * j + 3],
            act(state[f"layers.{N - 2 + j}.attention.gate"].flatten()),
        )
        for j in range(2)
    }
    model, ids_BT = tiny_llama(), some_tokens()
    expected = by_the_paper(model, prompts, ids_BT)
    adapter = read_official(v1, gate_activation=activation, prompt_length=3, base=base_of(model))
    torch.testing.assert_close(logits(ours(model, adapter), ids_BT), expected, atol=1e-5, rtol=1e-5)


def test_training_checkpoint_with_the_whole_model(tmp_path: Path) -> None:
    whole = {
        **v1_state(),
        "tok_embeddings.weight": torch.zeros(61, C),
        "norm.weight": torch.ones(C),
        "layers.0.attention.wq.weight": torch.zeros(C, C, dtype=torch.float16),
        "layers.0.feed_forward.w1.weight": torch.zeros(48, C, dtype=torch.float16),
        "layers.0.attention_norm.weight": torch.ones(C),
        "rope.freqs": torch.zeros(4),
    }
    args = argparse.Namespace(adapter_len=3, adapter_layer=2, batch_size=4, output_dir="somewhere")
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.009, "betas": (0.9, 0.95)}]}
    content = {"model": whole, "optimizer": optimizer, "epoch": 4, "scaler": {"scale": 65536.0}, "args": args}
    path = saved(tmp_path / "checkpoint-4.pth", content)
    assert detect_format(path) == "official"
    adapter = read_official(path, gate_activation="tanh")  # K comes from its own arguments
    assert adapter.prompt_length == 3
    assert torch.equal(adapter.prompts_LKC.flatten(0, 1), whole["adapter_query.weight"])
    with pytest.raises(ValueError, match=r"adapter_len=3 .* prompt length 2 was asked"):
        read_official(path, gate_activation="tanh", prompt_length=2)


def test_ordered_dict_and_old_pickle_without_zip(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(collections.OrderedDict(v1_state()), path, _use_new_zipfile_serialization=False)
    assert len(read_official(path, gate_activation="tanh", prompt_length=3).modules) == 2


def test_first_release_has_one_gate_without_tanh(tmp_path: Path) -> None:
    state = v1_state(gate_shape=(1,))
    path = saved(tmp_path / "first.pth", state)
    adapter = read_official(path, prompt_length=3)  # the shape tells
    assert adapter.activation == "identity" and adapter.one_gate
    model, ids_BT = tiny_llama(), some_tokens()
    prompts = {i: (adapter.prompts_LKC[i - 3], state[f"layers.{i}.attention.gate"].expand(H)) for i in (3, 4)}
    expected = by_the_paper(model, prompts, ids_BT)
    torch.testing.assert_close(logits(ours(model, adapter), ids_BT), expected, atol=1e-5, rtol=1e-5)


def test_half_precision_source_is_widened(tmp_path: Path) -> None:
    half = {key: value.half() for key, value in v1_state().items()}
    adapter = read_official(saved(tmp_path / "half.pth", half), gate_activation="tanh", prompt_length=3)
    assert adapter.prompts_LKC.dtype == adapter.gates_LH.dtype == torch.float32
    assert torch.equal(adapter.prompts_LKC.flatten(0, 1).half(), half["adapter_query.weight"])


def test_gates_below_the_prompts_are_ignored_with_a_note(tmp_path: Path) -> None:
    state = v1_state()
    state["layers.0.attention.gate"] = torch.full((1, H, 1, 1), 0.5)
    adapter = read_official(saved(tmp_path / "a.pth", state), gate_activation="tanh", prompt_length=3)
    assert list(adapter.modules) == [3, 4]
    assert "layer 0" in adapter.notes[0] and "--prompt-length" in adapter.notes[0]
    write_official(adapter, tmp_path / "b.pth", BASE, gate_activation="tanh")
    assert not torch.load(tmp_path / "b.pth", weights_only=True)["layers.0.attention.gate"].any()


def test_zero_gates_inside_the_prompts_give_a_note(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", v1_state(K=4, L=2))  # eight rows, read as four layers of two
    assert "If K is larger" in read_official(path, gate_activation="tanh", prompt_length=2).notes[0]
    assert not read_official(path, gate_activation="tanh", prompt_length=4).notes


# --- writing -------------------------------------------------------------------------------------------------------


def test_tanh_to_tanh_is_bit_for_bit(v1: Path, tmp_path: Path) -> None:
    adapter = read_official(v1, gate_activation="tanh", prompt_length=3, base=BASE)
    write_official(adapter, tmp_path / "again.pth", BASE, gate_activation="tanh")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert all(torch.equal(again[key], value) for key, value in v1_state().items()) and len(again) == N + 1


def test_export_stores_effective_gates(tmp_path: Path) -> None:
    adapter = random_adapter([3, 4], scale=10.0)
    write_official(adapter, tmp_path / "raw.pth", BASE)
    write_official(adapter, tmp_path / "tanh.pth", BASE, gate_activation="tanh")
    raw, with_tanh = (
        torch.load(tmp_path / name, weights_only=True)["layers.4.attention.gate"] for name in ("raw.pth", "tanh.pth")
    )
    assert torch.equal(raw.flatten(), torch.tanh(10 * adapter.gates_LH[1]))
    assert torch.equal(with_tanh.flatten(), 10 * adapter.gates_LH[1])


def test_raw_gates_become_tanh_gates_where_they_can(tmp_path: Path) -> None:
    adapter = random_adapter([4], activation="identity", size=0.3)
    write_official(adapter, tmp_path / "tanh.pth", BASE, gate_activation="tanh")
    stored = torch.load(tmp_path / "tanh.pth", weights_only=True)["layers.4.attention.gate"].flatten()
    torch.testing.assert_close(stored.tanh(), adapter.gates_LH[0], atol=1e-7, rtol=1e-6)
    beyond = random_adapter([4], activation="identity", size=3.0)
    with pytest.raises(ValueError, match=r"not inside \(-1, 1\).*layer 4, head"):
        write_official(beyond, tmp_path / "never.pth", BASE, gate_activation="tanh")
    assert [path.name for path in tmp_path.iterdir()] == ["tanh.pth"]


def test_one_gate_is_given_to_all_heads(tmp_path: Path) -> None:
    adapter = random_adapter([4], heads=1, activation="identity")
    write_official(adapter, tmp_path / "a.pth", BASE)
    gate = torch.load(tmp_path / "a.pth", weights_only=True)["layers.4.attention.gate"]
    assert gate.shape == (1, H, 1, 1) and (gate == adapter.gates_LH).all()


def test_bfloat16(tmp_path: Path) -> None:
    adapter = random_adapter([3, 4], activation="identity")
    write_official(adapter, tmp_path / "a.pth", BASE, dtype="bfloat16")
    query = torch.load(tmp_path / "a.pth", weights_only=True)["adapter_query.weight"]
    assert torch.equal(query, adapter.prompts_LKC.flatten(0, 1).bfloat16())


@pytest.mark.parametrize(
    ("layers", "base", "message"),
    [
        ([1, 2], BASE, r"topmost layers without a gap.*layers 3-4 of N=5; this adapter sits in layers 1-2"),
        ([2, 4], BASE, "sits in layers 2, 4"),
        ([4], Base.llama(N, 2 * C, H), "C=32, and the base has C=64"),
        ([4], Base.llama(N, C, 8), "H=4 heads, and the base has H=8"),
        ([4], Base.llama(4, C, H), r"adapts model.layers.4.self_attn \(layer 4\), and the base has 4 layers"),
    ],
)
def test_export_refusals(layers: list[int], base: Base, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_official(random_adapter(layers), tmp_path / "a.pth", base)
    assert not list(tmp_path.iterdir())


def test_export_refuses_bases_the_official_code_cannot_run(tmp_path: Path) -> None:
    grouped = base_of(tiny_llama(num_key_value_heads=2))
    with pytest.raises(ValueError, match="G=2"):
        write_official(random_adapter([4]), tmp_path / "a.pth", grouped)


# --- bad input -----------------------------------------------------------------------------------------------------


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = {**v1_state(), **changes}
    return {key: value for key, value in state.items() if value is not None}


BAD = {
    "no activation": (v1_state(), {"gate_activation": None}, "does not say how its gates multiply"),
    "K does not divide": (v1_state(), {"prompt_length": 4}, r"6 rows, which cannot be L <= 5 layers of K=4.*2, 3, 6"),
    "K assumed": (v1_state(), {"prompt_length": None}, "K=10 prompts .assumed"),
    "L > N": (v1_state(), {"prompt_length": 1}, "L <= 5"),
    "K < 1": (v1_state(), {"prompt_length": 0}, "at least 1, not 0"),
    "gate shape": (v1_state(gate_shape=(H, 1)), {}, r"gates of shape \[\[4, 1\]\]"),
    "a gate missing": (changed(**{"layers.1.attention.gate": None}), {}, "gates for layers 0, 2-4"),
    "no gates": ({"adapter_query.weight": torch.zeros(6, C)}, {}, "no layers.N.attention.gate"),
    "no prompts": (changed(**{"adapter_query.weight": None}), {}, "no adapter_query.weight"),
    "NaN": (
        changed(**{"layers.4.attention.gate": torch.full((1, H, 1, 1), torch.nan)}),
        {},
        "gates of layer 4 contain NaN",
    ),
    "trained norms of V2": (changed(**{"layers.3.attention_norm.weight": torch.ones(C)}), {}, "V2"),
    "biases of V2": (changed(**{"layers.3.attention.wq.bias": torch.ones(C)}), {}, "wq.bias.*V2"),
    "multimodal": (changed(**{"visual_query.weight": torch.ones(10, 768)}), {}, "multimodal.*visual_query.weight"),
    "multimodal, nested names": (
        {"adapter_query.weight": torch.zeros(6, C), "llama.layers.0.attention.gate": torch.zeros(1)},
        {},
        "multimodal",
    ),
    "not an adapter": ({"weight": torch.zeros(3)}, {}, "no official checkpoint"),
    "not tensors": ({"adapter_query.weight": [1, 2]}, {}, "table of tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path) -> None:
    state, options, message = BAD[case]
    path = saved(tmp_path / "adapter.pth", state)
    with pytest.raises(ValueError, match=message) as caught:
        read_official(path, **{"gate_activation": "tanh", "prompt_length": 3, **options})
    assert str(path) in str(caught.value) or case in ("K < 1", "NaN")


def test_multimodal_as_the_official_code_saves_it(tmp_path: Path) -> None:
    state = {
        "adapter_query.weight": torch.zeros(31, C),
        "clip_proj.weight": torch.zeros(2, 2),
        "llama.layers.0.attention.gate": torch.zeros(1, H, 1, 1),
    }
    path = saved(tmp_path / "mm.pth", {"model": state, "config": {"w_bias": True, "w_lora": True, "lora_rank": 16}})
    assert detect_format(path) == "official"
    with pytest.raises(ValueError, match="multimodal"):
        read_official(path, gate_activation="tanh")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (Base.llama(6, C, H), "N=5 layers, and the base has 6"),
        (Base.llama(N, 64, H, "big"), "C=32, and the base 'big' has C=64"),
        (Base.llama(N, C, 8), "H=4 heads, and the base has H=8"),
    ],
)
def test_another_base(v1: Path, base: Base, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_official(v1, gate_activation="tanh", prompt_length=3, base=base)
