"""PEFT's AdaptionPrompt: trained and run by PEFT itself, imported, exported and run by PEFT again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import C, N, base_of, by_the_paper, logits, ours, random_adapter, some_tokens, tiny_llama
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, PreTrainedModel

from zerogate.adapters.convert import Base, detect_format, read_peft, write_peft, write_zerogate

LLAMA = {"num_key_value_heads": 4}
GROUPED = {"num_key_value_heads": 2}


def trained_by_peft(model: PreTrainedModel, folder: Path, L: int = 3) -> PeftModel:
    """A few real steps of PEFT's own AdaptionPrompt, saved by PEFT."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, AdaptionPromptConfig(adapter_layers=L, adapter_len=4, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(5):
        loss = adapted(input_ids=some_tokens(), labels=some_tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    adapted.save_pretrained(folder)
    return adapted.eval()


def mistral() -> MistralForCausalLM:
    torch.manual_seed(2)
    sizes = {"vocab_size": 61, "hidden_size": C, "intermediate_size": 48, "num_hidden_layers": N, "head_dim": 8}
    return MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()


@pytest.mark.parametrize(
    "make", [lambda: tiny_llama(**LLAMA), lambda: tiny_llama(**GROUPED), mistral], ids=["llama", "grouped", "mistral"]
)
def test_trained_by_peft_and_back(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    theirs = trained_by_peft(make(), tmp_path / "peft")
    expected = logits(theirs, some_tokens())
    assert (expected - logits(make(), some_tokens())).abs().max() > 1e-3  # the adapter matters

    base = base_of(make(), "tiny")
    adapter = read_peft(tmp_path / "peft", base=base)
    assert adapter.gates_LH.abs().min() > 0.05  # non-zero gates: at zero anything would agree
    write_zerogate(adapter, tmp_path / "ours", base)
    torch.testing.assert_close(logits(ours(make(), tmp_path / "ours"), some_tokens()), expected, atol=1e-5, rtol=1e-5)

    write_peft(adapter, tmp_path / "again", base)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].shape == second[key].shape for key in first)
    back = PeftModel.from_pretrained(make(), tmp_path / "again").eval()
    assert torch.equal(logits(back, some_tokens()), expected)
    assert back.peft_config["default"].base_model_name_or_path == "tiny"


def test_ours_runs_in_peft(tmp_path: Path) -> None:
    adapter = random_adapter([2, 3, 4], heads=1, activation="tanh", scale=3.0)
    model = tiny_llama()
    prompts = {i: (adapter.prompts_LKC[i - 2], adapter.effective_gates()[i - 2].expand(4)) for i in (2, 3, 4)}
    expected = by_the_paper(model, prompts, some_tokens())
    write_peft(adapter, tmp_path / "peft", base_of(model))
    theirs = PeftModel.from_pretrained(tiny_llama(), tmp_path / "peft").eval()
    torch.testing.assert_close(logits(theirs, some_tokens()), expected, atol=1e-5, rtol=1e-5)


def test_weights_in_a_bin(tmp_path: Path) -> None:
    trained_by_peft(tiny_llama(), tmp_path / "peft")
    expected = read_peft(tmp_path / "peft")
    safe = tmp_path / "peft" / "adapter_model.safetensors"
    torch.save(load_file(safe), tmp_path / "peft" / "adapter_model.bin")
    safe.unlink()
    found = read_peft(tmp_path / "peft")
    assert torch.equal(found.prompts_LKC, expected.prompts_LKC) and torch.equal(found.gates_LH, expected.gates_LH)


def test_heads_that_agree_are_no_loss(tmp_path: Path) -> None:
    adapter = random_adapter([4], heads=1).with_gate_per_head(4)
    written = write_peft(adapter, tmp_path / "peft", base_of(tiny_llama()))
    assert torch.equal(written.gates_LH, adapter.effective_gates()[:, :1]) and not written.notes


def test_heads_that_differ_are_refused_unless_a_loss_is_allowed(tmp_path: Path) -> None:
    adapter, base = random_adapter([3, 4]), base_of(tiny_llama())
    with pytest.raises(ValueError, match=r"differ between heads.*2 of 2 layers.*--lossy mean"):
        write_peft(adapter, tmp_path / "peft", base)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="'median' is unknown"):
        write_peft(adapter, tmp_path / "peft", base, lossy="median")
    written = write_peft(adapter, tmp_path / "peft", base, lossy="mean")
    assert "differed between heads" in written.notes[0]
    gate = load_file(tmp_path / "peft" / "adapter_model.safetensors")[
        "base_model.model.model.layers.4.self_attn.adaption_gate"
    ]
    torch.testing.assert_close(gate, adapter.effective_gates()[1].mean()[None])


def with_output_bias() -> nn.Module:
    return tiny_llama(attention_bias=True)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (lambda: base_of(with_output_bias()), "bias, which PEFT's AdaptionPrompt adds twice"),
        (lambda: base_of(tiny_llama(head_dim=16)), r"not heads \* head_dim.*C=32, H=4, D=16"),
        (
            lambda: Base({i: f"model.layers.{i}.self_attn" for i in range(N)}, C, 4, 4, 8, model_type="qwen2"),
            "llama and mistral.*'qwen2'",
        ),
    ],
)
def test_bases_where_peft_differs(base, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        write_peft(random_adapter([4], heads=1), tmp_path / "peft", base())
    assert not list(tmp_path.iterdir())


def test_peft_really_adds_the_output_bias_twice(tmp_path: Path) -> None:
    """The reason for a refusal above: at gate zero PEFT's adapter should change nothing, and with an output bias it "
    "does."""
    model = with_output_bias()
    before = logits(model, some_tokens())
    adapted = get_peft_model(model, AdaptionPromptConfig(adapter_layers=1, adapter_len=2, task_type="CAUSAL_LM")).eval()
    assert (logits(adapted, some_tokens()) - before).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adds twice"):
        read_peft(tmp_path, base=base_of(with_output_bias()))


def test_gpt2_is_refused(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4))
    get_peft_model(model, AdaptionPromptConfig(adapter_layers=1, adapter_len=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"GPT-2.*after the output projection"):
        read_peft(tmp_path)


def test_only_the_topmost_layers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="topmost layers without a gap"):
        write_peft(random_adapter([1, 2], heads=1), tmp_path / "peft", base_of(tiny_llama()))


def test_another_method_is_refused(tmp_path: Path) -> None:
    get_peft_model(tiny_llama(), LoraConfig(r=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type LORA"):
        read_peft(tmp_path)
    with pytest.raises(ValueError, match="type LORA, which has no adaption prompts"):
        detect_format(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda state, config: state.update(extra=torch.ones(2)), "also holds extra"),
        (lambda state, config: state.pop("base_model.model.model.layers.4.self_attn.adaption_gate"), "incomplete"),
        (lambda state, config: config.update(adapter_len=9), "adapter_len=9"),
        (lambda state, config: config.update(adapter_layers=3), "adapter_layers=3"),
        (
            lambda state, config: state["base_model.model.model.layers.4.self_attn.adaption_prompt"].fill_(torch.inf),
            "prompts of layer 4 contain",
        ),
        (lambda state, config: state.clear(), "holds no tensors"),
    ],
)
def test_broken_folders(break_it, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_peft(random_adapter([3, 4], heads=1), tmp_path / "peft", base_of(tiny_llama()))
    weights, config_file = tmp_path / "peft" / "adapter_model.safetensors", tmp_path / "peft" / "adapter_config.json"
    state, config = load_file(weights), json.loads(config_file.read_text())
    break_it(state, config)
    save_file(state, weights)
    config_file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        read_peft(tmp_path / "peft")


def test_no_weights(tmp_path: Path) -> None:
    write_peft(random_adapter([4], heads=1), tmp_path / "peft", base_of(tiny_llama()))
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors"):
        read_peft(tmp_path / "peft")
