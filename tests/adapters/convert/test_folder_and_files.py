"""Our own folder, safe reading of pickles, writing that is whole or not at all, and telling formats apart."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_adapters import C, H, N, base_of, logits, ours, random_adapter, saved, some_tokens, tiny_llama
from transformers import CLIPConfig, CLIPModel

from zerogate import ZeroInitConfig
from zerogate.adapters.convert import Base, PromptAdapter, detect_format, read_official, read_zerogate, write_zerogate
from zerogate.adapters.convert.files import read_pickle, write_file, write_folder

# --- our folder ----------------------------------------------------------------------------------------------------


def trained_by_us(folder: Path, **config: object) -> PeftModel:
    """A real adapter with gates that have moved, saved by PEFT."""
    settings = {"prompt_length": 3, "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(tiny_llama(), ZeroInitConfig(**settings))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        loss = model(input_ids=some_tokens(), labels=some_tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [
        {"num_layers": 2},
        {"num_layers": 2, "gate_scale": 10.0},
        {"layers_to_transform": [0, 3]},
        {"gate_per": "layer", "gate_activation": "identity"},
        {"num_layers": 1, "target_modules": ".*self_attn"},
    ],
    ids=str,
)
def test_read_and_written_again(config: dict[str, object], tmp_path: Path) -> None:
    model = trained_by_us(tmp_path / "a", **config)
    adapter = read_zerogate(tmp_path / "a", base=base_of(tiny_llama()))
    write_zerogate(adapter, tmp_path / "b")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path / "b").eval()
    assert torch.equal(logits(again, some_tokens()), logits(model, some_tokens()))


def test_every_layer_without_saying_so(tmp_path: Path) -> None:
    trained_by_us(tmp_path / "a")
    write_zerogate(read_zerogate(tmp_path / "a"), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["num_layers"] == N


def test_gates_changed_on_the_way_act_the_same(tmp_path: Path) -> None:
    model = trained_by_us(tmp_path / "a", gate_scale=10.0)
    adapter = read_zerogate(tmp_path / "a")
    for changed in (adapter.with_gates("identity"), adapter.with_gates("identity").with_gates("tanh")):
        assert changed.scale == 1
        found = logits(ours(tiny_llama(), changed), some_tokens())
        torch.testing.assert_close(found, logits(model, some_tokens()), atol=1e-5, rtol=1e-5)
    assert torch.equal(adapter.with_gates("identity").gates_LH, torch.tanh(10 * adapter.gates_LH))


def test_bfloat16_is_half_the_size_and_says_so(tmp_path: Path) -> None:
    adapter = random_adapter([3, 4])
    write_zerogate(adapter, tmp_path / "a", dtype="bfloat16")
    state = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["save_dtype"] == "bfloat16"
    assert torch.equal(read_zerogate(tmp_path / "a").prompts_LKC, adapter.prompts_LKC.bfloat16().float())
    with pytest.raises(ValueError, match="'float16' is unknown"):
        write_zerogate(adapter, tmp_path / "b", dtype="float16")
    assert not (tmp_path / "b").exists()


def test_7b_has_the_paper_s_numbers(tmp_path: Path) -> None:
    base = Base.llama(32, 4096, 32, "llama-7b")
    layers = range(2, 32)
    adapter = PromptAdapter(
        {i: base.modules[i] for i in layers}, torch.zeros(30, 10, 4096), torch.zeros(30, 32), "tanh"
    )
    assert adapter.num_parameters() == 1_229_760
    write_zerogate(adapter, tmp_path / "a", base)
    assert (tmp_path / "a" / "adapter_model.safetensors").stat().st_size == pytest.approx(4.92e6, rel=0.01)


def test_vanilla_is_refused(tmp_path: Path) -> None:
    trained_by_us(tmp_path / "a", attention="vanilla")
    with pytest.raises(ValueError, match=r"vanilla.*no gates"):
        read_zerogate(tmp_path / "a")


def test_other_trained_modules_are_refused(tmp_path: Path) -> None:
    trained_by_us(tmp_path / "a", modules_to_save=["norm"])
    with pytest.raises(
        ValueError, match=r"also holds base_model.model.model.layers.0.input_layernorm.*modules_to_save"
    ):
        read_zerogate(tmp_path / "a")


def test_several_stacks_are_refused(tmp_path: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPConfig(
        text_config={**tower, "vocab_size": 61}, vision_config={**tower, "image_size": 8, "patch_size": 4}
    )
    get_peft_model(CLIPModel(clip), ZeroInitConfig(target_modules=".*self_attn")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="several"):
        read_zerogate(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    write_zerogate(random_adapter([4]), tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors"):
        read_zerogate(tmp_path / "a")


def test_another_base(tmp_path: Path) -> None:
    write_zerogate(random_adapter([4]), tmp_path / "a")
    for base, message in [
        (Base.llama(4, C, H), "has 4 layers"),
        (Base.llama(N, 64, H), "C=64"),
        (Base.llama(N, C, 8), "H=8"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_zerogate(tmp_path / "a", base=base)
        with pytest.raises(ValueError, match=message):
            write_zerogate(random_adapter([4]), tmp_path / "b", base)


def test_base_of_nonsense() -> None:
    with pytest.raises(ValueError, match="no LLaMA has"):
        Base.llama(4, 30, 4)


# --- pickles -------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil-was-here",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_call_things_are_refused(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth is refused.*(posix|nt).mkdir"):
        read_pickle(Path("evil.pth"))
    assert not Path("evil-was-here").exists()


def test_a_class_that_is_not_allowed_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"adapter_query.weight": torch.ones(1), "where": Path("x")})
    with pytest.raises(ValueError, match=r"pathlib.*(Posix|Windows)Path"):
        read_official(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02."])
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth is not a"):
        read_pickle(path)


def test_cut_short(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"adapter_query.weight": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a whole torch checkpoint"):
        read_pickle(path)


# --- writing -------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    write_folder(tmp_path / "folder", {"adapter_config.json": b"old"})
    with pytest.raises(ValueError, match="exists already"):
        write_file(tmp_path / "file", b"new")
    with pytest.raises(ValueError, match="exists already"):
        write_folder(tmp_path / "folder", {"adapter_config.json": b"new"})
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "adapter_config.json").read_bytes() == b"old"
    write_file(tmp_path / "file", b"new", overwrite=True)
    write_folder(tmp_path / "folder", {"adapter_config.json": b"new"}, overwrite=True)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "adapter_config.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_with_more_than_an_adapter_is_never_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "run", {"adapter_config.json": b"{}", "metrics.jsonl": b"work of days"})
    with pytest.raises(ValueError, match=r"more than an adapter \(metrics.jsonl\)"):
        write_folder(tmp_path / "run", {"adapter_config.json": b"new"}, overwrite=True)
    with pytest.raises(ValueError, match="is a folder"):
        write_file(tmp_path / "run", b"new", overwrite=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b"work of days"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "a", {"adapter_config.json": b"old"})
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[:2])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    for write in (
        lambda: write_folder(tmp_path / "a", {"adapter_config.json": b"new"}, overwrite=True),
        lambda: write_folder(tmp_path / "b", {"adapter_config.json": b"new"}),
        lambda: write_file(tmp_path / "c", b"new"),
    ):
        with pytest.raises(OSError, match="No space"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "adapter_config.json").read_bytes() == b"old"


# --- telling formats apart -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"x": torch.ones(1)}}, "no adapter that zerogate knows"),
        ([torch.ones(1)], "no adapter that zerogate knows"),
    ],
)
def test_unknown_files(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        detect_format(saved(tmp_path / "a.pth", content))


def test_unknown_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        detect_format(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no adapter_config.json"):
        detect_format(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        detect_format(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="no peft_type"):
        detect_format(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="give the folder"):
        detect_format(tmp_path / "adapter_model.safetensors")


def test_broken_safetensors(tmp_path: Path) -> None:
    write_zerogate(random_adapter([4]), tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_zerogate(tmp_path / "a")
