"""A judge's server, a small set of questions with the answers of two models, and the command line run here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_files import make_files
from judge_server import JudgeServer, serving

from zerogate.cli import main as command_line


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    """A running judge; each test has its own."""
    with serving() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with questions and answers. `long` has the longer answer to all questions but the last."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    make_files(tmp_path, 12)
    return tmp_path


@pytest.fixture
def judge(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Runs `zerogate judge` in this process; returns its code and all it said, white space made even."""

    def run(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["zerogate", "judge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), " ".join((said.out + said.err).split())

    return run
