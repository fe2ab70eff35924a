"""Dependencies run one way. Every import in src/zerogate is read from the source, also those inside functions.

adapters <- bases <- vision <- data <- training, evaluation, tools <- inference, comparison, judging, toolform
<- serving <- page <- cli
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "zerogate"
RANK = {
    "adapters": 1,
    "bases": 2,
    "vision": 3,
    "data": 4,
    "training": 5,
    "evaluation": 5,
    "tools": 5,
    "toolform": 6,
    "inference": 6,
    "comparison": 6,
    "judging": 6,
    "serving": 7,
    "page": 8,
    "cli": 9,
}
# What every part may import, and what stands above them all.
ANYWHERE = {"cache", "errors"}
TOP = {"__init__", "_registration"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(source: str, module: list[str]) -> Iterator[str]:
    """Full names of what a file imports; `module` is its own dotted name, `__init__` included, in parts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            # `from zerogate import cli` imports a part as much as `import zerogate.cli` does.
            yield from (".".join([*names, alias.name]) for alias in node.names)


def backward(part: str, imported: str) -> bool:
    """Whether a file of `part` may not import this."""
    names = imported.split(".")
    if names[0] != "zerogate" or part in TOP:
        return False
    target = names[1] if len(names) > 1 else "zerogate"
    if target in ANYWHERE or target == part:
        return False
    # What is no part of its own, such as zerogate.ZeroInitConfig, is a public name of the adapters.
    return part in ANYWHERE or RANK.get(target, RANK["adapters"]) >= RANK[part]


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_no_arrow_runs_back(file: Path) -> None:
    place = file.relative_to(PACKAGE).with_suffix("")
    part = place.parts[0]
    assert part in RANK or part in ANYWHERE or part in TOP, f"{part} has no place in the order: give it one here"
    found = [
        name for name in imports(file.read_text(encoding="utf-8"), ["zerogate", *place.parts]) if backward(part, name)
    ]
    assert not found, f"zerogate.{part} must not import {', '.join(found)}"


def test_adapters_need_only_torch_transformers_and_peft() -> None:
    allowed = {"torch", "transformers", "peft", "safetensors", "zerogate", *sys.stdlib_module_names}
    kernels = {"triton"}  # comes with torch for GPUs; this one file is imported where it is there
    for file in (PACKAGE / "adapters").rglob("*.py"):
        module = ["zerogate", *file.relative_to(PACKAGE).with_suffix("").parts]
        foreign = {name.split(".")[0] for name in imports(file.read_text(encoding="utf-8"), module)} - allowed
        foreign -= kernels if file.stem == "fused_kernels" else set()
        assert not foreign, f"{file.relative_to(PACKAGE)} imports {', '.join(sorted(foreign))}"


@pytest.mark.parametrize(
    ("part", "line", "wrong"),
    [
        ("adapters", "from zerogate.bases import load_base", True),
        ("adapters", "def f():\n    import zerogate.cli.main", True),
        ("bases", "from ..training import run", True),
        ("data", "from zerogate import evaluation", True),
        ("vision", "from zerogate.data import Record", True),
        ("training", "from zerogate.evaluation import exact_match", True),
        ("adapters", "from zerogate import ZeroInitConfig", True),
        ("errors", "from zerogate.bases import load", True),
        ("training", "from zerogate import ZeroInitConfig", False),
        ("bases", "from ..adapters.layouts import find_blocks", False),
        ("cli", "from zerogate.inference import Engine", False),
        ("adapters", "from zerogate.errors import UserError", False),
        ("bases", "from .load import load_base\nimport torch", False),
    ],
)
def test_the_test_sees_an_arrow(part: str, line: str, wrong: bool) -> None:
    found = [name for name in imports(line, ["zerogate", part, "file"]) if backward(part, name)]
    assert bool(found) == wrong
