"""The report: figures over seeds, what is recommended and why, and tables that hold what was measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from zerogate.comparison.advice import recommend
from zerogate.comparison.cell import Result, seconds_per_step
from zerogate.comparison.recipe import Comparison, short_names
from zerogate.comparison.report import write_report
from zerogate.comparison.rows import Spread
from zerogate.comparison.run import best_rate
from zerogate.comparison.table import cells
from zerogate.errors import UserError

TASK = "exact_match"


def result(method: str, seed: int, accuracy: float | None, parameters: int = 1000, **known: Any) -> Result:
    made = Result("pocket", method, seed, known.pop("rate", 0.1), known.pop("sweep", False))
    made.trained_parameters = parameters
    if accuracy is not None:
        made.accuracy = {TASK: accuracy}
        made.details = {TASK: {"accuracy": accuracy, "exact": accuracy, "contains": accuracy + 0.01, "n": 500}}
    for name, value in known.items():
        setattr(made, name, value)
    return made


def comparison(folder: Path, **change: Any) -> Comparison:
    settings = {
        "base": {"name": "pocket"},
        "data": {"path": "pocket"},
        "train": {"steps": 1},
        "methods": [{"name": "A", "adapter": {"method": "zero_init"}}, {"name": "B", "adapter": {"method": "lora"}}],
        "tasks": [{"task": TASK}],
        "output": str(folder),
    }
    return Comparison.model_validate(settings | change)


def rows(folder: Path, finals: list[Result], sweeps: list[Result] | None = None) -> Any:
    return write_report(comparison(folder, sweep={"choose_by": "accuracy"}), finals, sweeps or [])


def test_spread_over_seeds() -> None:
    spread = Spread.of([0.9, 0.92, None, 0.94])
    assert spread is not None
    assert (spread.mean, spread.seeds) == (pytest.approx(0.92), 3)
    assert spread.deviation == pytest.approx(0.02)
    assert spread.show("{:.1%}".format) == "92.0% ± 2.0%"
    assert Spread.of([0.5]) == Spread(0.5, None, 1)
    assert Spread.of([None, None]) is None


def test_the_tables_hold_what_was_measured(tmp_path: Path) -> None:
    finals = [
        result("", 0, 0.01, 0),
        *(result("A", seed, 0.9 + seed / 100, held_out_loss=1.25, train_loss=1.0, base_loss=2.5) for seed in range(3)),
        result("B", 0, 0.5, 2000, adapter_bytes=8_200, peak_memory_bytes=1_500_000_000, seconds_per_step=0.25),
    ]
    sweeps = [result("A", 0, 0.7, sweep=True, rate=0.1), result("A", 0, None, sweep=True, rate=9.0, failed="inf")]
    made = rows(tmp_path, finals, sweeps)
    text = (tmp_path / "table.md").read_text()
    assert "| A | 1,000 |" in text and "91.0% ± 1.0%" in text and "92.0% ± 1.0%" in text  # exact, contains
    assert "0.1 (0.1: 70.0%, 9: diverged)" in text
    assert "the base alone" in text and "8.2 kB" in text and "1.50 GB" in text and "0.250" in text
    parsed = list(csv.reader((tmp_path / "table.csv").open()))
    assert len(parsed) == 4 and {len(row) for row in parsed} == {len(parsed[0])}
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["rows"]["pocket"][1]["accuracy"][TASK]["mean"] == pytest.approx(0.91)
    assert {picture.name for picture in made.pictures} == {"accuracy.png"}  # one rate that worked is no sweep to draw
    assert all(picture.stat().st_size > 5000 for picture in made.pictures)


def test_the_better_method_is_recommended(tmp_path: Path) -> None:
    finals = [result("A", 0, 0.95, 9000), result("B", 0, 0.60, 10)]
    line = rows(tmp_path, finals).advice["pocket"]
    assert line.startswith("Use A, because") and "95.0%" in line and "60.0%" in line


def test_of_equals_the_smaller_is_recommended(tmp_path: Path) -> None:
    finals = [result("A", 0, 0.951, 9000), result("B", 0, 0.950, 10)]
    line = rows(tmp_path, finals).advice["pocket"]
    assert line.startswith("Use B, because") and "trains 10 parameters, not 9,000" in line


def test_a_few_parameters_less_do_not_decide(tmp_path: Path) -> None:
    finals = [result("A", 0, 0.951, 9000), result("B", 0, 0.950, 8000)]
    line = rows(tmp_path, finals).advice["pocket"]
    assert line.startswith("Use A, because") and line.endswith(
        "95.0% on exact_match, which these runs cannot tell apart."
    )


def test_the_terminal_has_the_short_table(tmp_path: Path) -> None:
    every = rows(tmp_path, [result("A", 0, 0.9, adapter_bytes=10, train_loss=1.0), result("B", 0, 0.5)]).every_row
    assert cells(every, brief=True)[0] == ["method", "trained parameters", TASK, f"{TASK}, contains"]
    assert {"adapter", "training loss", "learning rate (tried)"} < set(cells(every)[0])


def test_without_tasks_the_held_out_loss_decides(tmp_path: Path) -> None:
    finals = [result("A", 0, None, held_out_loss=1.5), result("B", 0, None, held_out_loss=1.25)]
    made = write_report(comparison(tmp_path, tasks=[]), finals, [])
    assert made.advice["pocket"].startswith("Use B, because") and "1.2500" in made.advice["pocket"]
    assert write_report(comparison(tmp_path, tasks=[], advice=False), finals, []).advice == {}


def test_no_advice_from_one_method_or_from_failures(tmp_path: Path) -> None:
    assert rows(tmp_path, [result("A", 0, 0.9)]).advice == {}
    found = rows(tmp_path, [result("A", 0, 0.9), result("B", 0, None, failed="the loss became nan at step 3. And so")])
    assert found.advice == {}
    assert "the loss became nan at step 3" in (tmp_path / "table.md").read_text()
    assert recommend([], [TASK]) is None


def test_why_a_run_failed_is_told_in_a_whole_sentence_and_other_seeds_are_shown(tmp_path: Path) -> None:
    failed = result("A", 0, None, failed="the loss became nan at step 3, learning rate 0.1, in the rows 1. And so")
    for finals in ([failed, result("A", 1, 0.5)], [result("A", 1, 0.5), failed]):
        headings, (line,) = cells(rows(tmp_path, finals).every_row)
        assert line[headings.index("failed")] == "the loss became nan at step 3, learning rate 0.1, in the rows 1"
        assert line[headings.index(TASK)] == "50.0%"


def test_names_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    adapter = {"method": "lora"}
    with pytest.raises(ValueError, match="the methods 'LoRA r=3' and 'LoRA, r=3' would share a folder"):
        comparison(tmp_path, methods=[{"name": n, "adapter": adapter} for n in ("LoRA r=3", "LoRA, r=3")])
    assert comparison("~/x").output == str(Path.home() / "x")  # type: ignore[arg-type]


def test_the_best_rate_is_that_of_lower_loss_of_equals_then_the_lower_and_never_a_failure() -> None:
    swept = [
        result("A", 0, 0.5, rate=0.03),
        result("A", 0, 0.7, rate=0.3),
        result("A", 0, 0.7, rate=0.1),
        result("A", 0, None, rate=1.0, failed="nan"),
    ]
    assert best_rate(swept, TASK) == 0.1
    by_loss = [result("A", 0, None, rate=r, held_out_loss=loss) for r, loss in ((1, 2.0), (2, 1.0), (3, math.inf))]
    assert best_rate(by_loss) == 2
    unlearned = [result("A", 0, 0.0, rate=r, held_out_loss=loss) for r, loss in ((1, 2.0), (2, 1.0), (3, None))]
    assert best_rate(unlearned, TASK) == 2
    assert best_rate([]) is None
    with pytest.raises(UserError, match="no learning rate of the sweep gave a finite loss"):
        best_rate(swept[3:], TASK)
    with pytest.raises(UserError, match=r"set data\.held_out"):
        best_rate([result("A", 0, None, rate=1)])


def test_seconds_per_step_leave_measuring_and_resuming_out() -> None:
    lines = [
        {"step": 1, "loss": 2.0, "seconds": 1.0},
        {"step": 11, "loss": 2.0, "seconds": 3.0},
        {"step": 11, "eval_loss": 2.0, "seconds": 60.0},
        {"step": 21, "loss": 2.0, "seconds": 62.0},
        {"step": 31, "loss": 2.0, "seconds": 64.0},
        {"step": 41, "loss": 2.0, "seconds": 2.0},  # a new process counts from 0
    ]
    assert seconds_per_step(lines) == pytest.approx(0.2)
    assert seconds_per_step(lines[:1]) is None


def test_bases_are_called_by_what_tells_them_apart() -> None:
    assert short_names(["runs/bases/llama/export", "runs/bases/opt/export"]) == {
        "runs/bases/llama/export": "llama/export",
        "runs/bases/opt/export": "opt/export",
    }
    assert short_names(["org/one", "two"]) == {"org/one": "one", "two": "two"}
