"""Answering with several processes, real ones of Ray, when they or the command itself are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray_processes import descendants, need_ray
from tiny_base import make_adapter, make_base

from zerogate.bases import load_adapted
from zerogate.data.jsonl import whole_lines
from zerogate.errors import UserError
from zerogate.evaluation.evaluate import evaluate_task
from zerogate.evaluation.responses import answering
from zerogate.evaluation.tasks import Question, find_task
from zerogate.inference import Engine, Sampling
from zerogate.inference.batch import answer_file
from zerogate.inference.cluster import Places, share
from zerogate.inference.workers import Workers

need_ray()
ROWS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("workers")
    base = make_base(root / "base")
    return base, make_adapter(root / "one", base)


def loading(base: Path, adapter: Path, marks: Path) -> Callable[[str], Callable[[Any], Any]]:
    """What each worker calls first: a model that answers questions, and words that make it die."""

    def load(device: str) -> Callable[[Any], Any]:  # in here, as workers cannot import this file
        respond = answering(str(base), {"one": adapter}, {"dtype": "float32"}, device)

        def work(chunk: Any) -> Any:
            if not isinstance(chunk, str):
                return respond(chunk)
            if chunk == "bad":
                raise UserError("this chunk is bad")
            mark = marks / f"{chunk}-{len(list(marks.glob(f'{chunk}-*')))}"
            mark.write_text(str(os.getpid()))
            if chunk == "kills every one" or mark.name == "kills one-0":
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk

        return work

    return load


def test_chunks_and_deaths(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    told: list[str] = []
    task = find_task("addsub")
    questions = [Question(n, f"A fox has {n} apples and eats one. How many has it?", "", str(n - 1)) for n in range(9)]
    model, tokenizer = load_adapted(str(base), {"one": adapter}, dtype="float32", device="cpu")
    ask = partial(evaluate_task, model, tokenizer, task, questions, batch_size=2, max_new_tokens=20, num_beams=2)
    with Workers(loading(base, adapter, tmp_path), 2, name=repr, told=told.append) as workers:
        assert list(workers.map([])) == [] and told == []  # nothing to do: nothing is started
        assert ask(spread=workers.map).rows == ask().rows

        chunks = ["a", "kills one", *(f"chunk {n}" for n in range(20))]
        assert list(workers.map(chunks)) == chunks
        assert [line for line in told if "died" in line] == [
            "A worker died with 'kills one': given to another one, and a new worker takes its place."
        ]
        done = {mark.name.rpartition("-")[0]: mark.read_text() for mark in tmp_path.iterdir()}
        assert done.keys() == {*chunks}
        assert len(list(tmp_path.glob("kills one-*"))) == 2  # the only one that was begun twice
        assert len(list(tmp_path.iterdir())) == len(chunks) + 1

        found = workers.map(["b", "kills every one", "c"])
        assert next(found) == "b"
        with pytest.raises(UserError, match="3 workers have died with 'kills every one'"):
            next(found)
        with pytest.raises(UserError, match=r"^this chunk is bad$"):
            list(workers.map(["bad"]))
    assert descendants(os.getpid(), "ray::") == []


def command(folders: tuple[Path, Path], source: Path, target: Path) -> subprocess.Popen[str]:
    words = ["generate", "--in", source, "--out", target, "--base", folders[0], "--adapter", f"one={folders[1]}"]
    words += ["--temperature", "1", "--top-p", "1", "--max-new-tokens", "150", "--seed", "5", "--dtype", "float32"]
    words += ["--device", "cpu", "--batch-size", "2", "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "zerogate.cli.main", *map(str, words)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_rows(process: subprocess.Popen[str], target: Path, most: int) -> int:
    """Wait until there are more than so many whole rows; how many there are."""
    end = time.monotonic() + 200
    while not target.exists() or target.read_bytes().count(b"\n") <= most:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)
    return target.read_bytes().count(b"\n")


def test_command_and_worker_are_killed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    source, alone, target = (tmp_path / name for name in ("in.jsonl", "alone.jsonl", "out.jsonl"))
    source.write_text("".join(json.dumps({"prompt": f"Where does fox {n} live?"}) + "\n" for n in range(ROWS)))
    engine = Engine.load(str(folders[0]), {"one": folders[1]}, dtype="float32", device="cpu")
    models = {"base": str(folders[0]), "adapters": {"one": str(folders[1])}, "dtype": "float32"}
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=150, seed=5)
    answer_file(engine, source, alone, sampling, template=None, models=models, batch_size=2)

    first = command(folders, source, target)
    wait_for_rows(first, target, 0)
    first.kill()
    first.communicate()
    there = len(whole_lines(target))
    assert 0 < there < ROWS

    second = command(folders, source, target)
    wait_for_rows(second, target, there)
    workers = descendants(second.pid, "ray::_Worker")
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    said = second.communicate(timeout=200)[1]
    assert second.returncode == 0, said
    assert f"{ROWS} rows answered" in said and f"{there} of them by an earlier run" in said
    assert "A worker died with rows" in said
    assert [line["row"] for line in whole_lines(target)] == list(range(1, ROWS + 1))
    assert target.read_bytes() == alone.read_bytes()
    assert descendants(os.getpid(), "ray::") == []


def test_sharing_out() -> None:
    assert share(4, cpus=8, gpus=0, device=None) == Places(0, 2)
    assert share(4, cpus=2, gpus=0, device="cpu") == Places(0, 1)
    assert share(4, cpus=16, gpus=8, device=None) == Places(1, 4)
    assert share(4, cpus=16, gpus=2, device="cuda") == Places(0.5, 4)
    assert share(3, cpus=16, gpus=2, device=None).gpus == 0.5  # so that three fit into two
    assert share(2, cpus=16, gpus=2, device="cpu").gpus == 0
    with pytest.raises(UserError, match="--device cuda:1 has no meaning"):
        share(2, cpus=8, gpus=2, device="cuda:1")
    with pytest.raises(UserError, match="Ray sees no GPU"):
        share(2, cpus=8, gpus=0, device="cuda")


def test_no_cluster_there(tmp_path: Path) -> None:
    with (
        Workers(loading(tmp_path, tmp_path, tmp_path), 2, address="127.0.0.1:1") as workers,
        pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"),
    ):
        list(workers.map(["a"]))
