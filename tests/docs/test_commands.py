"""Runs what README and docs show: every `bash` block, command by command, and every `python` block, page by page.

Each page has a folder of its own, in which its commands run in order, so a page can train something and then use it. A
folder starts with `my_data.json`, forty Alpaca records of the pocket world. A comment above a block may shorten it or
say why it is not run:

    <!-- run with: train.steps=2 -->        appended to each command of the block
    <!-- not run: it needs a model hub -->  its options are still checked against the command's help

`make` targets are looked up with `make -n` (CI runs the real ones); installing is what the reader's shell is for.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from commands import run_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_OURS = ("pip", "git", "cd", "python", "export", "source", "accelerate", "torchrun")
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*?) -->\n)?```(?P<kind>bash|python)\n(?P<body>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with what the comment above it says."""

    page: Path
    kind: str
    body: str
    note: str

    def commands(self) -> list[list[str]]:
        """The words of each command, without comments and with continued lines joined."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


def blocks(page: Path) -> list[Block]:
    """The page's blocks in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, m["kind"], m["body"], m["note"] or "") for m in BLOCK.finditer(text)]


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder with a small data file, as a reader might have one, and the project's recipes."""
    from zerogate.bases.pocket.world import instruction_records

    records = instruction_records()[0][:40]
    (tmp_path / "my_data.json").write_text(json.dumps(records), encoding="utf-8")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


def run(words: list[str], folder: Path) -> None:
    """Runs one command of ours in `folder` and fails with what it printed."""
    done = run_command(*words[1:], cwd=folder, env={"COLUMNS": "120"}, timeout=600)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@cache
def help_of(command: str) -> str:
    """What `zerogate COMMAND --help` prints."""
    return run_command(command, "--help", env={"COLUMNS": "200"}).stdout


def check_options(words: list[str]) -> None:
    """Checks a command that is not run: the command exists, and so do the options it names."""
    shown = help_of(words[1])
    for word in words[2:]:
        if word.startswith("--"):
            assert word.split("=")[0] in shown, f"{shlex.join(words)}: {word} is not an option of {words[1]}"


def run_bash(block: Block, folder: Path) -> None:
    """Runs a block of shell commands."""
    for words in block.commands():
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "zerogate" and block.note.startswith("not run: "):
            check_options(words)
        elif words[0] == "zerogate":
            extra = shlex.split(block.note.removeprefix("run with: ")) if block.note.startswith("run with: ") else []
            run([*words, *extra], folder)
        else:
            assert words[0] in NOT_OURS, f"{block.page.name}: {shlex.join(words)} is neither ours nor a known tool"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and every piece of Python on the page, in the order of the page."""
    shown = blocks(page)
    if not shown:
        pytest.skip("shows no commands")
    monkeypatch.chdir(sandbox)
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in shown:
        if block.kind == "bash":
            run_bash(block, sandbox)
        elif not block.note.startswith("not run: "):
            exec(compile(block.body, f"{page.name} (python block)", "exec"), names)


def test_every_page_is_reached_from_the_readme() -> None:
    """No page of docs/ is an orphan."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme]
    assert not missing, f"README.md links none of {missing}"
