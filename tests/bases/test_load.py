"""Loading bases and adapters: what works, and the one clear message for each thing that cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_base import lora, make_adapter, make_base
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaModel, ViTConfig, ViTModel

from zerogate.bases import base_path, load_adapted, load_base, recorded_base
from zerogate.bases.adapted import base_for, portable_name, read_adapter
from zerogate.bases.facts import adapter_facts, base_facts
from zerogate.errors import UserError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base.parent / "adapter", base)


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_base(*args, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_loads_frozen_in_its_own_precision(base: Path, tmp_path: Path) -> None:
    model, tokenizer = load_base(str(base))
    assert model.dtype == torch.float32 and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer("fox").input_ids[0] == tokenizer.bos_token_id
    half = shutil.copytree(base, tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    assert load_base(str(half))[0].dtype == torch.bfloat16
    assert load_base(str(half), dtype="float32")[0].dtype == torch.float32


def test_pad_token_falls_back_to_eos(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["pad_token"]
    file.write_text(json.dumps(settings))
    _, tokenizer = load_base(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./not/there", ["not/there", "does not exist"]),
        ("a/b/c", ["does not exist", "Hub id"]),
        ("{adapter}", ["is an adapter, not a base"]),
        ("{base}/config.json", ["is a file", "folder"]),
        ("{tmp}", ["no config.json"]),
    ],
)
def test_what_is_no_base(name: str, says: list[str], base: Path, adapter: Path, tmp_path: Path) -> None:
    message = refusal(name.format(base=base, adapter=adapter, tmp=tmp_path))
    assert all(part in message for part in says), message


def test_hub_id_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("some-org/some-model")
    for part in ("some-org/some-model", "Tried", "cache", "hf download", "pocket"):
        assert part in message


def test_pickled_weights_need_permission(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(str(folder))
    wanted = AutoModelForCausalLM.from_pretrained(base)
    torch.save(wanted.state_dict(), folder / "pytorch_model.bin")
    message = refusal(str(folder))
    assert "pytorch_model.bin" in message and "--allow-pickle" in message and "save_pretrained" in message
    model, _ = load_base(str(folder), allow_pickle=True)
    assert torch.equal(model.model.norm.weight, wanted.model.norm.weight)


def test_a_pickle_that_runs_code_is_never_opened(base: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "harmed",)  # type: ignore[return-value]

    folder = shutil.copytree(base, tmp_path / "harmful")
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harm()}, folder / "pytorch_model.bin")
    assert "cannot load the base" in refusal(str(folder), allow_pickle=True)
    assert not (tmp_path / "harmed").exists()


def test_models_that_cannot_write_text(tmp_path: Path, base: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(**small)).save_pretrained(tmp_path / "vit")
    assert "not a causal language model" in refusal(str(tmp_path / "vit"))
    BertModel(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "bert")
    assert "head" in refusal(str(tmp_path / "bert"))
    full = AutoModelForCausalLM.from_pretrained(base)
    full.config.tie_word_embeddings = False
    LlamaModel(full.config).save_pretrained(tmp_path / "backbone")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "backbone")
    assert "lm_head.weight" in refusal(str(tmp_path / "backbone"))


def test_no_tokenizer(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "mute")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refusal(str(folder))


def test_broken_weights(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "cut")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "cannot load the base" in refusal(str(folder))


def test_options_are_checked(base: Path) -> None:
    assert "bfloat16" in refusal(str(base), dtype="half")
    assert "examples" in refusal(str(base), device="gpu")
    if not torch.cuda.is_available():
        assert "sees no CUDA device" in refusal(str(base), device="cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "zerogate[quant]" in refusal(str(base), quantization="nf4")


def test_embedded_base_by_name() -> None:
    assert base_path("pocket").name == "pocket"
    with pytest.raises(UserError, match="pocket"):
        base_path("purse")
    assert portable_name(str(base_path("pocket"))) == "pocket"


def test_adapters_give_what_was_saved(base: Path, adapter: Path) -> None:
    other = make_adapter(base.parent / "other", base, seed=2)
    model, tokenizer = load_adapted(str(base), {"one": adapter, "two": other})
    assert model.active_adapter == "one" and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = torch.tensor([tokenizer("Where does the fox live?").input_ids])
    alone, _ = load_adapted(str(base), {"default": other})
    plain, _ = load_base(str(base))
    with torch.no_grad():
        model.set_adapter("two")
        assert torch.equal(model(ids).logits, alone(ids).logits)
        assert not torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-2)


def test_a_run_folder_stands_for_its_best_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "run" / "last")
    assert read_adapter(tmp_path / "run").folder.name == "last"
    shutil.copytree(adapter, tmp_path / "run" / "best")
    assert read_adapter(tmp_path / "run").folder.name == "best"


def test_adapter_of_another_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    wide = make_base(tmp_path / "wide", hidden=64)
    with pytest.raises(UserError) as caught:
        load_adapted(str(wide), {"one": adapter})
    for part in ("layers.1.self_attn.zero_init.prompt", "[4, 32]", "[4, 64]", "does not fit", str(base)):
        assert part in str(caught.value)
    deep = make_base(tmp_path / "deep", layers=6)
    with pytest.raises(UserError, match=r"layers\.5.*is not in the adapter.*layers\.1.*has no place"):
        load_adapted(str(deep), {"one": adapter})
    flat = make_base(tmp_path / "flat", layers=2)
    with pytest.raises(UserError, match=r"num_layers=3.*2 attention layers"):
        load_adapted(str(flat), {"one": adapter})


def test_folders_that_are_no_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            read_adapter(folder)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "nothing")
    assert "is a base model" in message(base)
    assert "no adapter_config.json" in message(tmp_path)
    assert "these in it are" in message(adapter.parent)
    cut = shutil.copytree(adapter, tmp_path / "cut")
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "not a whole safetensors file" in message(cut)
    weights.rename(cut / "adapter_model.bin")
    assert "pickle" in message(cut)
    (cut / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors" in message(cut)
    (cut / "adapter_config.json").write_text("{")
    assert "not valid JSON" in message(cut)
    (cut / "adapter_config.json").write_text("{}")
    assert "peft_type" in message(cut)


@pytest.mark.parametrize("name", ["", "1st", "a.b", "__base__", "self_attn", "zero_init"])
def test_names_that_peft_would_confuse(name: str, base: Path, adapter: Path) -> None:
    with pytest.raises(UserError, match="cannot name an adapter"):
        load_adapted(str(base), {name: adapter})


def test_the_base_an_adapter_records(base: Path, adapter: Path, tmp_path: Path) -> None:
    assert recorded_base(adapter) == str(base)
    assert base_for({"one": adapter}, None) == str(base)
    assert base_for({"one": adapter}, "other") == "other"
    assert base_for({}, None) == "pocket"
    other = make_adapter(tmp_path / "other", make_base(tmp_path / "another"))
    with pytest.raises(UserError, match="different bases"):
        base_for({"one": adapter, "two": other}, None)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(UserError, match="does not record"):
        recorded_base(other)


def test_facts_of_an_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    from zerogate import gates

    facts = adapter_facts(read_adapter(adapter))
    model, _ = load_adapted(str(base), {"default": adapter})
    assert facts.parameters == 3 * (4 * 32 + 4)
    assert (facts.prompt_length, facts.width, facts.layers) == (4, 32, [1, 2, 3])
    for layer, gate_H in gates(model).items():
        assert torch.equal(facts.gates[layer], gate_H)
    low_rank = adapter_facts(read_adapter(make_adapter(tmp_path / "lora", base, config=lora())))
    assert low_rank.method == "LORA" and low_rank.gates == {} and low_rank.prompt_length is None


def test_facts_of_a_base(base: Path) -> None:
    facts = base_facts(str(base))
    model, _ = load_base(str(base))
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim, facts.width) == (4, 4, 2, 8, 32)
    assert facts.context == 256 and facts.attention == "LlamaAttention"
    assert facts.trainable(num_layers=3, prompt_length=4) == 3 * (4 * 32 + 4)
