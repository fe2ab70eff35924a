"""`zerogate chat` at a pseudo-terminal: typing, commands, Ctrl-C during an answer, history; and from a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from tiny_base import make_adapter, make_base

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("terminal")
    base = make_base(root / "base", context=4096)
    slow = root / "slow.yaml"
    slow.write_text("name: slow\ngreeting: I talk long.\nsampling: {temperature: 0, max_new_tokens: 3000}\n")
    return {
        "base": base,
        "one": make_adapter(root / "one", base, 1),
        "two": make_adapter(root / "two", base, 2),
        "slow": slow,
    }


class Terminal:
    """A program at a pseudo-terminal, and a person who reads and types."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background inherit a deaf one
            os.execve(sys.executable, [sys.executable, "-m", "zerogate.cli.main", *words], environment)
        self.seen = ""

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """Read until the pattern appears; returns what came with it, and forgets it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited in vain for {pattern!r}; there was: {self.seen!r}"
            try:
                self.seen += ESCAPES.sub("", os.read(self.descriptor, 65536).decode(errors="replace"))
            except OSError as error:  # the other side of a pseudo-terminal is gone
                raise AssertionError(f"it ended; waited for {pattern!r}; there was: {self.seen!r}") from error
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def interrupt(self, pattern: str) -> str:
        """Press Ctrl-C at a prompt.

        One that comes in the instant between the prompt's last letter and readline's wait for a key is only noticed at
        the next key, so it is pressed again, as a person would.
        """
        for _ in range(4):
            self.type("\x03")
            ready, _, _ = select.select([self.descriptor], [], [], 10)
            if ready:
                break
        return self.wait_for(pattern)

    def ends(self) -> int:
        """Wait for the end and return the exit code."""
        while True:
            assert select.select([self.descriptor], [], [], 60)[0], f"it does not end; there was: {self.seen!r}"
            try:
                if not os.read(self.descriptor, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(folders: dict[str, Path], tmp_path: Path) -> Iterator[Terminal]:
    words = [
        "chat",
        "--adapter",
        f"one={folders['one']}",
        "--adapter",
        f"two={folders['two']}",
        "--persona",
        str(folders["slow"]),
    ]
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path),
        "TERM": "xterm",
        "COLUMNS": "100",
        "HF_HUB_OFFLINE": "1",
    }
    opened = Terminal(words, environment)
    yield opened
    try:
        os.kill(opened.pid, 9)
        os.waitpid(opened.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    os.close(opened.descriptor)


def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.wait_for(r"one, two.*slow: I talk long\..*> ")
    terminal.type("Where does the fox live?\n")
    terminal.wait_for(r"live\?\r\n.{40,}")  # it is talking, and would for long
    terminal.type("\x03")
    terminal.wait_for(r"stopped: /continue goes on.*> ")
    terminal.type("/params max_new_tokens=5 temperature=0\n")
    terminal.wait_for(r"max_new_tokens=5.*> ")
    terminal.type("/regen\n")
    terminal.wait_for(r"/regen\r\n.*(cut at the length limit|> )")
    terminal.type("/adapter two\n")
    terminal.wait_for(r"one  \[two\]  base.*> ")
    terminal.type("/regn\n")
    terminal.wait_for(r"no command /regn; did you mean /regen\?.*> ")
    terminal.interrupt(r"Ctrl-D or /quit leaves.*> ")
    terminal.type(f"/save {tmp_path / 'talk.json'}\n")
    terminal.wait_for(r"saved in.*> ")
    terminal.type("/help\n")
    text = terminal.wait_for(r"Arrow keys.*> ")
    for command in ("reset", "undo", "regen", "continue", "persona", "adapter", "params", "save", "load", "quit"):
        assert f"/{command}" in text
    terminal.type("/quit\n")
    assert terminal.ends() == 0
    assert (tmp_path / "talk.json").is_file()
    history = (tmp_path / "zerogate" / "chat-history").read_text()
    assert "Where does the fox live?" in history.replace("\\040", " ")


def test_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.wait_for(r"one, two.*> ")
    terminal.type("\x04")
    assert terminal.ends() == 0


def test_slips_of_the_keyboard_end_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    lines = [
        '/params stop="it',
        "/params seed=99999999999999999999",
        "/save .",
        "/save /",
        "/save ~nobody-of-that-name/talk.json",
        "/save a\0b.json",
        "/image ~nobody-of-that-name/a.png",
        "/image data:image/png;base64,xx",
        "/image data:image/png;base64," + "A" * 5000,
        "/image https://example.org/a.png",
        "/image file://red.png",
        "/image a\0b.png",
        "/image " + "a" * 5000,
        "/params seed=5",
    ]
    done = run_command(
        "chat",
        "--base",
        folders["base"],
        stdin="".join(line + "\n" for line in lines),
        env={"XDG_STATE_HOME": str(tmp_path), "COLUMNS": "100"},
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = " ".join(done.stdout.split())
    for part in (
        "has no partner",
        "seed is 99999999999999999999",
        ". is a folder",
        "/ is a folder",
        "such user",
        "has a null character",
        "the image is a data: URL whose base64 is broken",
        "nothing is downloaded",
        "a file on the machine 'red.png'",
        "a path with a null character",
        "seed=5",
    ):
        assert part in said, said


def test_from_a_pipe(folders: dict[str, Path], tmp_path: Path) -> None:
    lines = [
        "/params max_new_tokens=6 temperature=0",
        "Hi.",
        "/continue",
        "/undo",
        "/undo",
        "/persona teacher",
        "/load nothing",
    ]
    done = run_command(
        "chat",
        "--base",
        folders["base"],
        stdin="".join(line + "\n" for line in lines),
        env={"XDG_STATE_HOME": str(tmp_path), "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    places = [
        done.stdout.index(part)
        for part in ("taken back: Hi.", "nothing was said yet", "teacher:", "cannot read nothing")
    ]
    assert places == sorted(places)
    assert "Traceback" not in done.stderr
