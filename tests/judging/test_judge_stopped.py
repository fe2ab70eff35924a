"""`zerogate judge` as a process of its own: killed, interrupted, asked to confirm. What was paid for is not lost."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_files import make_files
from judge_server import JudgeServer

FILE = Path("runs/judge/judgements.jsonl")


@pytest.fixture
def many(folder: Path) -> Path:
    """40 questions: 80 requests."""
    make_files(folder, 40)
    return folder


def start(server: JudgeServer, *more: str, **options: Any) -> subprocess.Popen[bytes]:
    words = ["long.jsonl", "short.jsonl", "-q", "q.jsonl", "--url", server.url, "-m", "judge", "--concurrency", "4"]
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    # Whoever runs the tests in the background of a shell has it ignore Ctrl-C, and so do all processes after it.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-m", "zerogate.cli.main", "judge", *words, *more], **options)


def wait_for(server: JudgeServer, good: int) -> None:
    end = time.monotonic() + 60
    while server.good < good:
        assert time.monotonic() < end, f"only {server.good} replies went out"
        time.sleep(0.01)


def results(folder: str) -> dict[str, Any]:
    found = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in ("pairs", "tokens", "requests")}


def test_a_killed_run_goes_on(many: Path, server: JudgeServer, judge: Callable[..., tuple[int, str]]) -> None:
    server.delay = 0.05
    killed = start(server, "--yes", "--no-cache")
    wait_for(server, 20)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    time.sleep(0.2)  # what is under way at the server comes to its end
    whole = FILE.read_bytes()
    kept = [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]
    assert 12 <= len(kept) < 80 and not (FILE.parent / "results.json").exists()
    with FILE.open("ab") as opened:  # as if the kill had come in the middle of a line
        opened.write(b'{"key": "0123", "text": "[[')
    sent = len(server.bodies)
    server.delay = 0.0
    done = start(server, "--yes", "--no-cache")
    _, said = done.communicate(timeout=60)
    assert done.returncode == 0
    # Nothing that was written is asked again: at most what was under way, four at once, is.
    assert len(server.bodies) - sent == 80 - len(kept) and len(server.bodies) <= 80 + 4
    assert f"{len(kept)} of 80 are known already".encode() in said
    lines = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert lines[: len(kept)] == kept and len({line["key"] for line in lines}) == len(lines) == 80
    words = ["long.jsonl", "short.jsonl", "-q", "q.jsonl", "--url", server.url, "-m", "judge", "--out", "undisturbed"]
    assert judge(*words, "--yes", "--no-cache")[0] == 0
    assert results("undisturbed") == results("runs/judge")


def test_ctrl_c_leaves_whole_lines(many: Path, server: JudgeServer) -> None:
    server.delay = 0.05
    stopped = start(server, "--yes")
    wait_for(server, 10)
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and b"Traceback" not in said
    assert b"the same command goes on from there" in said
    content = FILE.read_bytes()
    assert content.endswith(b"\n") and 6 <= len([json.loads(line) for line in content.splitlines()]) < 80


def test_two_runs_do_not_write_to_one_file(many: Path, server: JudgeServer) -> None:
    server.delay = 0.2
    first = start(server, "--yes")
    wait_for(server, 1)
    second = start(server, "--yes")
    _, said = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2 and b"another run is writing to runs/judge/judgements.jsonl" in said


@pytest.mark.parametrize(("answer", "code", "sent"), [(b"n\n", 1, 0), (b"y\n", 0, 4)])
def test_the_estimate_is_confirmed(answer: bytes, code: int, sent: int, many: Path, server: JudgeServer) -> None:
    ours, theirs = pty.openpty()
    run = start(server, "--limit", "2", stdin=theirs)
    os.close(theirs)
    os.write(ours, answer)
    _, said = run.communicate(timeout=60)
    os.close(ours)
    assert (run.returncode, len(server.bodies)) == (code, sent)
    assert b"4 requests to send: about" in said and b"Send 4 requests?" in said
