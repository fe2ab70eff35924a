"""Several processes, as torchrun starts them, talking over gloo: the same run as in one, also on two hosts, and what a
lost one does.

The hosts are network namespaces with a cable between them, where the machine lets us make such: each has addresses of
its own and no way to the other but the cable.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from zerogate.training.callbacks import read_metrics
from zerogate.training.checkpoints import newest

Settings = Callable[..., dict[str, Any]]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
# Sixteen records a step whatever the number of processes, four at a time.
TRAIN = {"train__batch_size": 16, "train__micro_batch_size": 4, "train__save_every": 10, "train__evaluate_every": 10}


def start(processes: int, recipe: Path, *options: str, **more: str) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "zerogate.cli.main", "train", str(recipe)]
    return launch([*command, *options], **more)


def launch(command: list[str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def recipe(settings: Settings, folder: Path, name: str, steps: int = 60) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings(output=str(folder / name), train__steps=steps, **TRAIN)))
    return file


def losses(run: Path) -> list[tuple[int, float]]:
    return [
        (m["step"], m[key]) for m in read_metrics(run / "metrics.jsonl") for key in ("loss", "eval_loss") if key in m
    ]


def assert_same(one: Path, other: Path) -> None:
    """The same losses and the same adapter, but for the order in which sums are taken."""
    both = losses(one), losses(other)
    assert [step for step, _ in both[0]] == [step for step, _ in both[1]] and len(both[0]) > 10
    for (step, alone), (_, together) in zip(*both, strict=True):
        assert together == pytest.approx(alone, abs=1e-5), step
    last = [load_file(run / "last" / "adapter_model.safetensors") for run in (one, other)]
    for name, tensor in last[0].items():
        torch.testing.assert_close(last[1][name], tensor, rtol=1e-3, atol=1e-4)


def worker(launcher: int, rank: int) -> int | None:
    """The process id of a worker, once it is there."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"LOCAL_RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    return None


@pytest.fixture
def hosts() -> Iterator[tuple[list[str], list[str]]]:
    """What a command begins with to run on the first or the second of two hosts, 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("needs root and unshare, nsenter and ip to make network namespaces")
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "3600"], stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        ours, end = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
        while any(os.readlink(f"/proc/{holder.pid}/ns/net") == ours for holder in holders):
            if any(holder.poll() is not None for holder in holders) or time.monotonic() > end:
                pytest.skip("this machine makes no network namespaces")
            time.sleep(0.02)
        into = [["nsenter", "--net", "--target", str(holder.pid)] for holder in holders]
        cable = ["ip", "link", "add", "zg1", "type", "veth", "peer", "name", "zg2", "netns", str(holders[1].pid)]
        made = subprocess.run([*into[0], *cable], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"this machine makes no cable between network namespaces: {made.stderr.strip()}")
        for number, host in enumerate(into, start=1):
            subprocess.run([*host, "ip", "addr", "add", f"10.77.0.{number}/24", "dev", f"zg{number}"], check=True)
            for device in ("lo", f"zg{number}"):
                subprocess.run([*host, "ip", "link", "set", device, "up"], check=True)
        yield into[0], into[1]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def test_two_hosts(settings: Settings, tmp_path: Path, hosts: tuple[list[str], list[str]]) -> None:
    finish(start(1, recipe(settings, tmp_path, "one", steps=20)))
    both = recipe(settings, tmp_path, "both", steps=20)
    jobs = []
    for number, host in enumerate(hosts, start=1):
        # Both have one name and know no other: they are told their addresses, and who keeps the list.
        launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
                    "--rdzv-endpoint", "10.77.0.1:29500", "--rdzv-conf", f"is_host={int(number == 1)}",
                    "--local-addr", f"10.77.0.{number}"]  # fmt: skip
        command = [*host, sys.executable, *launcher, "-m", "zerogate.cli.main", "train", str(both)]
        jobs.append(launch(command, GLOO_SOCKET_IFNAME=f"zg{number}"))
    try:
        for job in jobs:
            finish(job)
    finally:
        for job in jobs:
            job.kill()
    assert_same(tmp_path / "one", tmp_path / "both")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds worker processes through /proc")
def test_processes_share_a_run_and_a_lost_one_ends_it(settings: Settings, tmp_path: Path) -> None:
    # One after the other, so that few processes are busy at any time.
    finish(start(1, recipe(settings, tmp_path, "one")))
    finish(start(4, recipe(settings, tmp_path, "four")))
    assert_same(tmp_path / "one", tmp_path / "four")

    # Two, of which one is killed: the job ends by itself, and says from where it goes on.
    lost = recipe(settings, tmp_path, "lost")
    job = start(2, lost)
    deadline = time.monotonic() + 200
    while newest(tmp_path / "lost" / "checkpoints") is None:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    victim = worker(job.pid, rank=1)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    said = finish(job, code=1)
    assert "go on with --resume" in said and "last complete checkpoint" in said, said
    assert "Signal 9 (SIGKILL)" in said  # torchrun names the one that was first

    # What two processes began goes on in one.
    saved = newest(tmp_path / "lost" / "checkpoints")
    assert saved is not None and saved[0] < 60
    finish(start(1, lost, "--resume"))
    assert_same(tmp_path / "one", tmp_path / "lost")


def test_sigterm_is_answered(settings: Settings, tmp_path: Path) -> None:
    job = start(1, recipe(settings, tmp_path, "stopped", steps=4000))
    deadline = time.monotonic() + 200
    while newest(tmp_path / "stopped" / "checkpoints") is None:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    job.terminate()
    said = finish(job, code=2)
    assert "error: stopped by SIGTERM; the last complete checkpoint is " in said and "Traceback" not in said
