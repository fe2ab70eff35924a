"""LLM-Adapters' real logs: `compat` takes what the authors took, item by item, and ends where their logs end."""

from __future__ import annotations

import importlib.util
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from zerogate.evaluation.score import total

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "llm_adapters_logs.py"


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llm_adapters_logs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_prediction_and_every_accuracy(converter: ModuleType, shared_data: Callable[[str], Path]) -> None:
    files = sorted(shared_data("llm-adapters-logs").glob("*.txt.xz"))
    assert len(files) == 25
    for file in files:
        log = converter.read_log(file)
        rows = converter.judged(log)
        assert [row["extracted_compat"] for row in rows] == [item.prediction for item in log.items], log.name
        assert total(rows).compat == log.right / len(log.items), log.name


def test_strict_shows_what_compat_hides(converter: ModuleType, shared_data: Callable[[str], Path]) -> None:
    """AQuA's first capital is mostly the first letter of a sentence: half of the responses choose no option."""
    file = shared_data("llm-adapters-logs/llama_7b_lora_math_all_r32_AQuA.txt.xz")
    score = total(converter.judged(converter.read_log(file)))
    assert score.compat == 48 / 254
    assert score.strict < score.compat
    assert score.unanswered > 100


def test_a_log_that_was_cut_short(converter: ModuleType, shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    log = shared_data("llm-adapters-logs/llama_7b_lora_math_all_r32_AQuA.txt.xz")
    whole = lzma.decompress(log.read_bytes())
    (tmp_path / "x_AQuA.txt.xz").write_bytes(lzma.compress(whole[: len(whole) // 2]))
    with pytest.raises(ValueError, match="ends before its last item"):
        converter.read_log(tmp_path / "x_AQuA.txt.xz")
