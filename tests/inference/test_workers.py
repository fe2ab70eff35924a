"""Answering with several processes, real ones of Ray, when they or the command itself are killed.

Starting Ray and a worker takes seconds, so there are two starts: a command, and one for all that needs no command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from zerogate.evaluation.responses import Batch
from zerogate.evaluation.responses import answering as responding
from zerogate.evaluation.tasks import Question, find_task
from zerogate.inference import Engine, Sampling, workers
from zerogate.inference.batch import answer_file, answering
from zerogate.inference.cluster import Places, share
from zerogate.inference.workers import Workers

need_ray()
ROWS, TOKENS = 40, 150
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=TOKENS, seed=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("workers")
    base = make_base(root / "base")
    return base, make_adapter(root / "one", base)


@pytest.fixture(scope="module")
def several(folders: tuple[Path, Path]) -> Iterator[Workers[Any, Any]]:
    """Two workers that answer prompts and questions, and obey a few words."""
    model = str(folders[0]), {"one": folders[1]}, {"dtype": "float32"}

    def load(device: str) -> Callable[[Any], Any]:  # in here, as workers cannot import this file
        answer, respond = answering(*model, SAMPLING, device), responding(*model, device)

        def work(chunk: Any) -> Any:
            if chunk == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if chunk == "refuse":
                raise UserError("this chunk is bad")
            return chunk if isinstance(chunk, str) else (respond if isinstance(chunk, Batch) else answer)(chunk)

        return work

    told: list[str] = []
    with Workers(load, 2, device="cpu", name=repr, told=told.append) as started:
        assert list(started.map([])) == [] and told == []  # nothing to do: nothing is started
        yield started
    assert told[0] == "2 workers load the model."
    assert descendants(os.getpid(), "ray::") == []


def command(folders: tuple[Path, Path], source: Path, target: Path) -> subprocess.Popen[str]:
    words = ["generate", "--in", source, "--out", target, "--base", folders[0], "--adapter", f"one={folders[1]}"]
    words += ["--temperature", "1", "--top-p", "1", "--max-new-tokens", TOKENS, "--seed", "5", "--dtype", "float32"]
    words += ["--device", "cpu", "--batch-size", "2", "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "zerogate.cli.main", *map(str, words)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_rows(process: subprocess.Popen[str], target: Path, most: int) -> int:
    """Wait until there are more than so many whole rows; how many there are."""
    end = time.monotonic() + 300
    while not target.exists() or target.read_bytes().count(b"\n") <= most:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)
    return target.read_bytes().count(b"\n")


def test_worker_and_command_are_killed(folders: tuple[Path, Path], several: Workers[Any, Any], tmp_path: Path) -> None:
    source, alone, target = (tmp_path / name for name in ("in.jsonl", "alone.jsonl", "out.jsonl"))
    source.write_text("".join(json.dumps({"prompt": f"Where does fox {n} live?"}) + "\n" for n in range(ROWS)))
    engine = Engine.load(str(folders[0]), {"one": folders[1]}, dtype="float32", device="cpu")
    models = {"base": str(folders[0]), "adapters": {"one": str(folders[1])}, "dtype": "float32"}
    answer = partial(answer_file, engine, source, sampling=SAMPLING, template=None, models=models, batch_size=2)
    answer(alone)

    process = command(folders, source, target)
    there = wait_for_rows(process, target, 0)
    found = descendants(process.pid, "ray::_Worker")
    assert len(found) == 2
    os.kill(found[0], signal.SIGKILL)
    # The other one has at most the killed one's first chunk between it and these rows.
    there = wait_for_rows(process, target, there + 4)
    process.kill()
    said = process.communicate()[1]
    assert "A worker died with rows" in said, said
    there = len(whole_lines(target))
    assert 0 < there < ROWS

    # The same again; here the workers are this test's, which spares a start.
    written = answer(target, spread=several.map)
    assert (written.rows, written.resumed) == (ROWS, there)
    assert [line["row"] for line in whole_lines(target)] == list(range(1, ROWS + 1))
    assert target.read_bytes() == alone.read_bytes()


def test_evaluation(folders: tuple[Path, Path], several: Workers[Any, Any]) -> None:
    questions = [Question(n, f"A fox has {n} apples and eats one. How many has it?", "", str(n - 1)) for n in range(9)]
    model, tokenizer = load_adapted(str(folders[0]), {"one": folders[1]}, dtype="float32", device="cpu")
    ask = partial(evaluate_task, model, tokenizer, find_task("addsub"), questions)
    ask = partial(ask, batch_size=2, max_new_tokens=20, num_beams=2)
    assert ask(spread=several.map).rows == ask().rows


def test_chunks_that_end_the_work(several: Workers[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(several.map(str(n) for n in range(30))) == [str(n) for n in range(30)]
    with pytest.raises(UserError, match=r"^this chunk is bad$"):
        list(several.map(["refuse"]))
    monkeypatch.setattr(workers, "MOST_DEATHS", 2)  # each costs a start
    done = several.map(["first", "die"])
    assert next(done) == "first"
    with pytest.raises(UserError, match="2 workers have died with 'die', one after the other: leave them out"):
        next(done)


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


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_no_cluster_there(address: str) -> None:
    with Workers(str, 2, address=address) as few, pytest.raises(UserError, match=f"no Ray cluster at {address}"):
        list(few.map(["a"]))
