"""The command line as users meet it: quick help, one clear message and exit code 2 for bad input, the main paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command
from tiny_base import lora, make_adapter, make_base

from zerogate.cli import main as command_line

COMMANDS = command_line.COMMANDS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cli")
    base = make_base(root / "base")
    other = make_base(root / "other", hidden=64)
    return {
        "root": root,
        "base": base,
        "other": other,
        "one": make_adapter(root / "one", base, seed=1),
        "two": make_adapter(root / "two", base, seed=2),
        "low": make_adapter(root / "low", base, seed=3, config=lora()),
        "misfit": make_adapter(root / "misfit", other),
    }


def zerogate(*words: str | Path, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A real run of the command line in a process of its own."""
    return run_command(*words, stdin=stdin, cwd=cwd, env={"COLUMNS": "200"}, timeout=600)


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    """Run the command line here; it must end with code 2. Returns what it said, white space made even."""
    monkeypatch.setattr(sys, "argv", ["zerogate", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return " ".join(output.err.split())


def test_help_of_everything_without_torch() -> None:
    code = (
        "import sys\nfrom zerogate.cli import main\n"
        f"for name in {[[], *[[name] for name in COMMANDS]]!r}:\n"
        "    try:\n        main.app([*name, '--help'])\n"
        "    except SystemExit as ended:\n        assert ended.code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert f"zerogate {name}" in done.stdout  # in the epilog's examples, too
    assert done.stdout.count("Example") >= len(COMMANDS)


def test_version_and_no_arguments() -> None:
    assert zerogate("--version").stdout.startswith("zerogate 0.")
    assert "zerogate demo" in zerogate().stdout


def test_mistyped_command_and_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "generate" in refused(capsys, monkeypatch, "generat")
    assert "--adapter" in refused(capsys, monkeypatch, "generate", "--adaptor", "x")
    assert "--temperature" in refused(capsys, monkeypatch, "generate", "x", "--temperature", "warm")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "hi", "--base", "{root}/nothing"], ["{root}/nothing", "does not exist"]),
        (["generate", "hi", "--adapter", "{root}/nothing"], ["{root}/nothing", "does not exist"]),
        (["generate", "hi", "--adapter", "{base}"], ["{base}", "is a base model"]),
        (
            ["generate", "hi", "--base", "{base}", "--adapter", "{misfit}"],
            ["does not fit", "[4, 64]", "[4, 32]", "{other}"],
        ),
        (["generate", "hi", "--adapter", "{one}", "--adapter", "{misfit}"], ["different bases"]),
        (["generate", "hi", "--adapter", "a={one}", "--adapter", "a={two}"], ["two adapters are called 'a'"]),
        (["generate", "hi", "--base", "{base}", "--temperature", "-1"], ["temperature is -1"]),
        (["generate", "hi", "--base", "{base}", "--top-p", "2"], ["top_p is 2"]),
        (["generate", "hi", "--base", "{base}", "--template", "chat"], ["chat template", "alpaca"]),
        (["generate", "word " * 300, "--base", "{base}"], ["256"]),
        (["generate", "hi", "--in", "a.jsonl"], ["--in and --out"]),
        (["generate", "hi", "--in", "a.jsonl", "--out", "b.jsonl"], ["not both"]),
        (
            ["generate", "--in", "{root}/a.jsonl", "--out", "b.jsonl", "--base", "{base}"],
            ["{root}/a.jsonl does not exist"],
        ),
        (["chat", "--base", "{base}", "--persona", "nobody"], ["nobody", "assistant"]),
        (["chat", "--base", "{base}", "--adapter", "x={root}"], ["{root}", "these in it are"]),
        (["inspect", "{root}/nothing"], ["does not exist"]),
        (["inspect", "{base}", "--png", "x.png"], ["--png"]),
        (["inspect", "{low}", "--png", "x.png"], ["no gates", "LORA"]),
        (["inspect", "{one}", "--png", "{root}/no/x.png"], ["cannot write"]),
        (["demo", "train.stpes=3"], ["stpes", "steps"]),
    ],
)
def test_bad_input(
    words: list[str],
    says: list[str],
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = refused(capsys, monkeypatch, *[word.format(**folders) for word in words])
    for part in says:
        assert part.format(**folders) in message, message
    assert message.count("error: ") == 1


def test_no_prompt_at_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert "there is no prompt" in refused(capsys, monkeypatch, "generate")


def test_full_disk_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "runs/x/metrics.jsonl")

    monkeypatch.setattr(command_line, "app", full)
    assert refused(capsys, monkeypatch) == "error: No space left on device: runs/x/metrics.jsonl"


def test_generate_one_prompt(folders: dict[str, Path]) -> None:
    words = ("generate", "--adapter", folders["one"], "--greedy", "--max-new-tokens", "8")
    done = zerogate(*words, "Where does the fox live?")
    assert done.returncode == 0, done.stderr
    piped = zerogate(*words, stdin="Where does the fox live?\n")
    assert piped.stdout == done.stdout and done.stdout.strip()
    base = zerogate(
        "generate", "Where does the fox live?", "--base", folders["base"], "--greedy", "--max-new-tokens", "8"
    )
    assert base.stdout != done.stdout


def test_generate_a_file_and_go_on(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "adapter": ("one", "two", "__base__")[n % 3]} for n in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("generate", "--in", "in.jsonl", "--adapter", f"one={folders['one']}", "--adapter", f"two={folders['two']}",
             "--max-new-tokens", "6", "--batch-size", "2")  # fmt: skip
    done = zerogate(*words, "--out", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "out.jsonl").read_bytes()
    assert [json.loads(line)["record"] for line in content.splitlines()] == rows
    (tmp_path / "torn.jsonl").write_bytes(content[: len(content) // 2])
    again = zerogate(*words, "--out", "torn.jsonl", cwd=tmp_path)
    assert again.returncode == 0 and "by an earlier run" in again.stderr
    assert (tmp_path / "torn.jsonl").read_bytes() == content


def test_inspect(folders: dict[str, Path], tmp_path: Path) -> None:
    done = zerogate("inspect", folders["one"], "--png", tmp_path / "gates.png")
    assert done.returncode == 0, done.stderr
    for part in ("ZERO_INIT", str(folders["base"]), "K=4", "L=3", "396", "layer   3", "gate_activation tanh"):
        assert part in done.stdout, part
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")
    base = zerogate("inspect", folders["base"], "--prompt-length", "4")
    for part in ("LlamaForCausalLM", "N=4", "H=4", "G=2", "C=32", "528"):
        assert part in base.stdout, part


def test_demo_with_a_small_base(folders: dict[str, Path], tmp_path: Path) -> None:
    words = ("demo", "--questions", "8", f"base.name={folders['base']}", "train.steps=2", "train.warmup_steps=1",
             "data.limit=40", "data.held_out=8", "data.max_length=200")  # fmt: skip
    done = zerogate(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "demo"
    assert (run / "loss.png").is_file() and (run / "gates.png").is_file()
    for part in (
        "1. The frozen base",
        "3. The same base",
        "8 held-out questions",
        "0.0% before",
        "zerogate chat --adapter",
    ):
        assert part in done.stdout, part
    weights = (run / "best" / "adapter_model.safetensors").read_bytes()
    again = zerogate(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "holds a finished run" in again.stdout
    other = zerogate(*words, "train.learning_rate=0.5", cwd=tmp_path)
    assert other.returncode == 2 and not other.stdout
    assert "was started with another recipe (train.learning_rate: " in other.stderr and "-> 0.5)" in other.stderr
    assert (run / "best" / "adapter_model.safetensors").read_bytes() == weights
