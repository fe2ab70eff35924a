"""Finding the processes that Ray started for a command, to kill one of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def need_ray() -> None:
    """Skips a test module where Ray is not installed, or where its processes cannot be found."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`", allow_module_level=True)
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds processes through /proc", allow_module_level=True)


def descendants(process: int, title: str) -> list[int]:
    """The processes below one whose title begins so, oldest first."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def below(child: int) -> bool:
        while child in parents and child != process:
            child = parents[child]
        return child == process

    return sorted(child for child in parents if titles[child].startswith(title) and below(child))
