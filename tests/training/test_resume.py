"""Kill -9 and `--resume`: the final adapter is, bit for bit, the one of a run that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file

from zerogate.training.callbacks import Metrics, read_metrics
from zerogate.training.checkpoints import checkpoint_path, newest
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import Outcome, train

Settings = Callable[..., dict[str, Any]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(recipe: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zerogate.cli.main", "train", str(recipe), *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], code: int = 0) -> str:
    output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == code, output
    return output


def kill_once(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    """Kill -9 as soon as `ready`; False if the process ended first."""
    deadline = time.monotonic() + 300
    while process.poll() is None:
        if ready():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return False


def recipes(settings: Settings, tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """The same recipe twice, for two run folders."""
    files = []
    for name in ("whole", "killed"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings(output=str(tmp_path / name), **changes)))
        files.append(file)
    return files[0], files[1]


def assert_same_end(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("best", "last"):
        one = (whole / name / "adapter_model.safetensors").read_bytes()
        assert one == (killed / name / "adapter_model.safetensors").read_bytes(), name
    losses = [
        [(m["step"], m["eval_loss"]) for m in read_metrics(run / "metrics.jsonl") if "eval_loss" in m]
        for run in (whole, killed)
    ]
    assert losses[0] == losses[1]
    steps = [[m["step"] for m in read_metrics(run / "metrics.jsonl") if "loss" in m] for run in (whole, killed)]
    assert steps[0] == steps[1]


def test_killed_between_checkpoints_in_the_second_epoch(settings: Settings, tmp_path: Path) -> None:
    # Dropout needs the random state, ten steps make an epoch, step 16's checkpoint is in the middle of the second.
    lora = {"method": "lora", "r": 2, "lora_dropout": 0.2}
    changes = {"adapter": lora, "train__steps": 40, "train__save_every": 8, "train__evaluate_every": 8}
    whole, killed = recipes(settings, tmp_path, **changes)
    finish(start(whole))
    checkpoints = tmp_path / "killed" / "checkpoints"
    assert kill_once(start(killed), lambda: (newest(checkpoints) or (0,))[0] >= 16), "too fast to be killed"
    found = newest(checkpoints)
    assert found is not None and found[0] < 40
    # The newest checkpoint is damaged as well: the one before it must do.
    (found[1] / "optimizer.pt").write_bytes(b"")
    older = newest(checkpoints)
    assert older is not None and older[0] < found[0]
    finish(start(killed, "--resume"))
    assert_same_end(tmp_path)


def run(settings: dict[str, Any], resume: bool = False) -> Outcome:
    return train(parse_recipe(settings), resume=resume, console=Console(quiet=True))


@pytest.mark.parametrize("lost", [("summary.json",), ("summary.json", "metrics.jsonl")], ids=["summary", "metrics too"])
@pytest.mark.parametrize("steps", [12, 10], ids=["inside an epoch", "at an epoch's end"])
def test_killed_after_the_last_checkpoint(settings: Settings, steps: int, lost: tuple[str, ...]) -> None:
    recipe = settings(train__steps=steps)  # ten steps are an epoch
    whole = run(recipe)
    last, summary = whole.folder / "last" / "adapter_model.safetensors", dict(whole.summary)
    weights = last.read_bytes()
    for name in (*lost, "gates.png"):
        (whole.folder / name).unlink()
    last.unlink()
    resumed = run(recipe, resume=True)
    assert last.read_bytes() == weights
    assert newest(whole.folder / "checkpoints") == (steps, checkpoint_path(whole.folder / "checkpoints", steps))
    passing = {"seconds"} | ({"base_loss"} if "metrics.jsonl" in lost else set())
    assert {k: v for k, v in resumed.summary.items() if k not in passing} == {
        k: v for k, v in summary.items() if k not in passing
    }
    assert (whole.folder / "summary.json").exists() and (whole.folder / "gates.png").exists()


def test_a_checkpoint_at_an_epochs_end_knows_what_was_measured_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The more is learned, the less likely is what is held out. The kill comes at the second epoch's first step.
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps([{"instruction": "Where?", "output": "zqzq xjxj"}]))
    changes = {"train__steps": 20, "train__evaluate_every": "epoch", "train__save_every": 5, "train__log_every": 1}
    changes |= {
        "data__held_out": str(odd),
        "data__limit": 80,
        "train__learning_rate": 0.01,
        "adapter": {"method": "full"},
    }
    whole = run(settings(**changes, output=str(tmp_path / "whole")))
    assert whole.summary["best_step"] == 10, "the case is real only if the second epoch is worse"
    write = Metrics.on_log

    def killed(self: Metrics, args: Any, state: Any, control: Any, **known: Any) -> None:
        write(self, args, state, control, **known)
        if state.global_step == 11:
            raise KeyboardInterrupt

    recipe = settings(**changes, output=str(tmp_path / "killed"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Metrics, "on_log", killed)
        run(recipe)
    assert newest(tmp_path / "killed" / "checkpoints") == (10, checkpoint_path(tmp_path / "killed" / "checkpoints", 10))
    resumed = run(recipe, resume=True)
    assert resumed.summary["best_step"] == 10
    one, two = ((tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert one == two


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(settings: Settings, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "train__steps": 60,
        "train__save_every": 3,
        "train__evaluate_every": 7,
        "train__micro_batch_size": 4,
    }
    changes |= {"train__rate_factors": {"gate": 0.5}}
    whole, killed = recipes(settings, tmp_path, **changes)
    finish(start(whole))
    run = tmp_path / "killed"
    kills = 0
    for delay in (0.0, 0.05, 0.13, 0.21):
        process = start(killed, *(["--resume"] if (run / "recipe.yaml").exists() else []))
        before = newest(run / "checkpoints")
        kills += kill_once(
            process, lambda before=before: newest(run / "checkpoints") != before or (not before and run.exists())
        )
        time.sleep(delay)  # nothing to wait for but the next moment
    assert kills >= 3
    finish(start(killed, "--resume"))
    assert_same_end(tmp_path)


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(settings: Settings, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    big = {"method": "lora", "r": 8, "target_modules": "all-linear"}
    recipe.write_text(yaml.safe_dump(settings(adapter=big, data__held_out=None, train__save_every=4, train__steps=8)))
    # Files may grow to 20 kB: the recipe fits, the weights do not.
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from zerogate.cli.main import main; sys.argv = ['zerogate', 'train', sys.argv[1]]; main()"
    )
    done = subprocess.run([sys.executable, "-c", limited, str(recipe)], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "error: cannot write the checkpoint of step 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_two_processes_share_the_batch(settings: Settings, tmp_path: Path) -> None:
    whole, shared = recipes(settings, tmp_path, train__group_by_length=False, train__steps=8)
    finish(start(whole))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "zerogate.cli.main", "train", str(shared)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    losses = [[m["eval_loss"] for m in run if "eval_loss" in m] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    one, two = (load_file(tmp_path / name / "last" / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert newest(tmp_path / "killed" / "checkpoints") is not None
