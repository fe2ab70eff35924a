"""`zerogate convert` as a user runs it: real processes, real files, exit codes and what they leave behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run_command
from safetensors.torch import load_file
from transformers import LlamaConfig

N, C, H, K, L = 4, 16, 2, 10, 2


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an official checkpoint and a base's configuration (converting reads no weights of a base)."""
    folder = tmp_path_factory.mktemp("convert")
    generator = torch.Generator().manual_seed(0)
    state = {"adapter_query.weight": torch.randn(L * K, C, generator=generator)}
    for i in range(N):
        state[f"layers.{i}.attention.gate"] = torch.randn(1, H, 1, 1, generator=generator) * (i >= N - L)
    torch.save(state, folder / "official.pth")
    sizes = {"hidden_size": C, "num_hidden_layers": N, "num_attention_heads": H, "num_key_value_heads": H}
    config = LlamaConfig(**sizes, vocab_size=31, intermediate_size=24, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder / "base")
    return folder


def convert(folder: Path, *words: str, code: int = 0, small_files: bool = False) -> subprocess.CompletedProcess[str]:
    if small_files:
        done = subprocess.run(
            [sys.executable, "-m", "zerogate.cli.main", "convert", *words],
            cwd=folder,
            env={**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)),
        )
    else:
        done = run_command("convert", *words, cwd=folder, env={"COLUMNS": "100"})
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
    return done


def same(first: Path, second: Path) -> bool:
    a, b = (torch.load(path, weights_only=True) for path in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_there_and_back(here: Path) -> None:
    done = convert(here, "official.pth", "ours", "--gate-activation", "tanh", "--base", "base")
    assert (
        "2: layers 2-3" in done.stdout
        and "2 per layer, tanh(g)" in done.stdout
        and "10 per layer, of 16" in done.stdout
    )
    config = json.loads((here / "ours" / "adapter_config.json").read_text())
    assert config["num_layers"] == L and config["gate_activation"] == "tanh"
    assert config["base_model_name_or_path"] == "base" and config["peft_type"] == "ZERO_INIT"

    convert(here, "ours", "back.pth", "--write-gates", "tanh")  # the base is the recorded one
    assert same(here / "official.pth", here / "back.pth")

    done = convert(here, "ours", "lit_model.pth.adapter")
    assert "LitGPT 0.5.5" in done.stdout
    convert(here, "lit_model.pth.adapter", "from-litgpt", "--base", "base", "--dtype", "bfloat16")
    raw = load_file(here / "from-litgpt" / "adapter_model.safetensors")
    tanh = load_file(here / "ours" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.3.self_attn.zero_init."
    assert torch.equal(raw[key + "gate"], tanh[key + "gate"].tanh().bfloat16())
    assert torch.equal(raw[key + "prompt"], tanh[key + "prompt"].bfloat16())


def test_from_one_foreign_format_to_another(here: Path) -> None:
    """An official file says all about its LLaMA itself; PEFT needs a loss to be allowed."""
    words = ["official.pth", "peft", "--gate-activation", "tanh", "--to", "peft"]
    assert "--lossy mean" in convert(here, *words, code=2).stderr
    assert not (here / "peft").exists()
    assert "note: lossy" in convert(here, *words, "--lossy", "mean").stdout
    assert json.loads((here / "peft" / "adapter_config.json").read_text())["adapter_layers"] == L
    convert(here, "peft", "from-peft", "--gate-per", "head", "--write-gates", "tanh", "--llama-shape", f"{N},{C},{H}")
    gate = load_file(here / "from-peft" / "adapter_model.safetensors")[
        "base_model.model.model.layers.3.self_attn.zero_init.gate"
    ]
    assert gate.shape == (H,)
    expected = torch.load(here / "official.pth", weights_only=True)["layers.3.attention.gate"].tanh().mean()
    torch.testing.assert_close(gate.tanh(), expected.expand(H))


def test_dry_run_keeps_nothing(here: Path, tmp_path: Path) -> None:
    done = convert(tmp_path, str(here / "official.pth"), "new", "--gate-activation", "identity", "--dry-run")
    assert "would be written" in done.stdout and "not kept" in done.stdout
    assert not list(tmp_path.iterdir())


def test_overwrite(here: Path, tmp_path: Path) -> None:
    source = str(here / "official.pth")
    convert(tmp_path, source, "a", "--gate-activation", "identity")
    assert "exists already" in convert(tmp_path, source, "a", "--gate-activation", "tanh", code=2).stderr
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["gate_activation"] == "identity"
    convert(tmp_path, source, "a", "--gate-activation", "tanh", "--overwrite")
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["gate_activation"] == "tanh"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_takes_no_more(here: Path, tmp_path: Path) -> None:
    words = [str(here / "official.pth"), "a", "--gate-activation", "tanh"]
    assert "File too large" in convert(tmp_path, *words, code=2, small_files=True).stderr
    assert not list(tmp_path.iterdir())


def test_a_pickle_that_calls_things(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"model": Evil()}, tmp_path / "a.pth")
    assert "posix.mkdir" in convert(tmp_path, "a.pth", "b", code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


BAD = {
    "no activation": (["official.pth", "x"], "does not say how its gates multiply"),
    "missing source": (["nowhere.pth", "x", "--gate-activation", "tanh"], "nowhere.pth does not exist"),
    "which format": (["saved", "x"], "add --to peft"),
    "activation of ours": (["saved", "x.pth", "--gate-activation", "tanh"], "use --write-gates"),
    "prompt length of ours": (["saved", "x.pth", "--prompt-length", "4"], "--prompt-length is for an official"),
    "wrong K": (["official.pth", "x", "--gate-activation", "tanh", "--prompt-length", "7"], "20 rows"),
    "tanh in LitGPT": (["saved", "x.adapter", "--base", "base", "--write-gates", "tanh"], "has no tanh"),
    "base not known": (["saved", "x.pth"], "does not record its base"),
    "two bases": (["saved", "x.pth", "--base", "base", "--llama-shape", "4,16,2"], "not both"),
    "shape": (["saved", "x.pth", "--llama-shape", "4x16"], "N,C,H"),
    "another base": (["official.pth", "x", "--gate-activation", "tanh", "--llama-shape", "4,32,2"], "C=32"),
    "base is no model": (["saved", "x.pth", "--base", "saved"], "is an adapter, not a base"),
    "LitGPT without base": (["lit.adapter", "x"], "name the transformers model"),
}


@pytest.fixture(scope="module")
def more(here: Path) -> Path:
    from zerogate.adapters.convert import Base, read_official, write_litgpt, write_zerogate

    adapter = read_official(here / "official.pth", gate_activation="tanh")
    write_zerogate(adapter, here / "saved")
    write_litgpt(adapter, here / "lit.adapter", Base.llama(N, C, H))
    return here


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, more: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One message, exit code 2, nothing written. In this process: starting Python anew for each would be most of it."""
    from zerogate.cli import main as cli

    words, message = BAD[case]
    monkeypatch.chdir(more)
    monkeypatch.setattr(sys, "argv", ["zerogate", "convert", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
    assert not [path for path in more.iterdir() if path.name.startswith(("x", "."))]
