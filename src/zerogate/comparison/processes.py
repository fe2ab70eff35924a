"""Cells as processes of their own, forked from one that has imported what every cell needs.

To import torch, transformers and TRL takes five seconds of a processor, and a comparison has hundreds of cells, so one
process imports them, does nothing else, and forks when a cell is to be run. What a cell does, remembers and leaks is
its own all the same. Where the system cannot fork, or has a GPU (whose driver does not survive it), each cell starts
from nothing. A cell ends with the comparison, however that ended: it would go on writing where the next one writes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import torch

_COMMAND = [sys.executable, "-m", "zerogate.comparison"]


class CellProcesses:
    """Runs cells one after the other; a context, at whose end the process they come from ends."""

    def __init__(self) -> None:
        self._origin: subprocess.Popen[str] | None = None
        self._answers: IO[str] | None = None

    def __enter__(self) -> CellProcesses:
        self._ours = os.pipe()  # nothing is ever written: cells wait for it to close
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for end in self._ours:
            os.close(end)

    def run(self, file: Path, quiet: bool) -> tuple[int, str]:
        """Run the cell that a file describes.

        Args:
            file: its `cell.json`.
            quiet: keep what it prints about its progress and errors.

        Returns:
            Its exit status, and what was kept.
        """
        with tempfile.TemporaryFile("w+") as kept:
            if "fork" not in dir(os) or torch.cuda.is_available():
                command, passed = self._command(str(file))
                done = subprocess.run(command, check=False, stderr=kept if quiet else None, pass_fds=passed)
                status = done.returncode
            else:
                with tempfile.NamedTemporaryFile("r") as named:
                    status = self._forked(file, named.name if quiet else None)
                    kept.write(named.read())
            kept.seek(0)
            return status, kept.read()

    def _forked(self, file: Path, errors: str | None) -> int:
        if self._origin is None or self._origin.poll() is not None:
            self._begin()
        assert self._origin is not None and self._origin.stdin is not None and self._answers is not None
        print(json.dumps({"file": str(file), "errors": errors}), file=self._origin.stdin, flush=True)
        answer = self._answers.readline()
        return int(answer) if answer else self._origin.wait() or 1  # without an answer it was killed

    def _command(self, *arguments: str) -> tuple[list[str], tuple[int, ...]]:
        """A command, and the files it needs open. Windows passes none on."""
        if os.name == "nt":
            return [*_COMMAND, *arguments], ()
        return [*_COMMAND, *arguments, "--while", str(self._ours[0])], self._ours[:1]

    def _begin(self) -> None:
        self._end()
        ours, theirs = os.pipe()
        command, passed = self._command("--answers", str(theirs))
        self._origin = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, pass_fds=(theirs, *passed))
        os.close(theirs)
        self._answers = os.fdopen(ours)

    def _end(self) -> None:
        if self._origin is None or self._origin.stdin is None or self._answers is None:
            return
        self._origin.stdin.close()
        try:
            self._origin.wait(timeout=30)  # a cell that is under way was stopped by the same key
        except subprocess.TimeoutExpired:
            self._origin.kill()
            self._origin.wait()
        self._answers.close()
        self._origin = self._answers = None


def fork_cells(answers: int) -> str:
    """Fork a process for each request on standard input; returns in those alone, with the file of their cell.

    Args:
        answers: where each one's exit status is written, a line each.
    """
    import trl  # noqa: F401

    import zerogate.training.run
    import zerogate.training.trainer  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the cell
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.close(answers)
            _point(0, os.devnull, os.O_RDONLY)
            if request["errors"] is not None:
                _point(2, request["errors"], os.O_WRONLY)
            return str(request["file"])
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            os.write(answers, f"{status}\n".encode())
        except BrokenPipeError:
            break
    sys.exit()


def end_with(pipe: int) -> None:
    """Have this process end as SIGTERM ends it when the other side of a pipe closes."""

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _point(number: int, path: str, flags: int) -> None:
    opened = os.open(path, flags)
    os.dup2(opened, number)
    os.close(opened)
