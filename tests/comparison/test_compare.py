"""A comparison for real: its cells are processes that train a tiny LLaMA; stopped and started again it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from tiny_base import make_base

from zerogate.comparison import compare, load_comparison
from zerogate.comparison.questions import check_tasks
from zerogate.comparison.recipe import cell_recipe, final_cells, sweep_cells
from zerogate.comparison.run import report
from zerogate.data.load import load_records
from zerogate.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
QUIET = Console(quiet=True)


def write(folder: Path, base: Path, **change: Any) -> Path:
    data = folder / "where.jsonl"
    rows = [{"instruction": f"Where is fox {n}?", "input": "", "output": f"In den {n % 7}."} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "base": {"name": str(base), "device": "cpu"},
        "data": {"path": str(data), "held_out": 8},
        "train": {"steps": 4, "batch_size": 4, "log_every": 1, "evaluate_every": 4},
        "methods": [
            {
                "name": "zero-init",
                "adapter": {"method": "zero_init", "prompt_length": 2},
                "learning_rates": [0.01, 1.0],
            },
            {"name": "LoRA, r=2", "adapter": {"method": "lora", "r": 2}, "learning_rates": [0.01]},
        ],
        "sweep": {"steps": 2},
        "tasks": [{"task": "exact_match", "max_new_tokens": 4, "limit": 5}],
        "output": str(folder / "out"),
    }
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(settings | change))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), context=512)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    file = write(folder, base)
    compare(load_comparison(file), console=QUIET)
    return file


def test_every_cell_is_trained_and_asked(done: Path) -> None:
    out = done.parent / "out"
    cells = {str(file.parent.relative_to(out / "cells")) for file in out.rglob("result.json")}
    expected = {"base-alone", "sweep/zero-init-0.01", "sweep/zero-init-1", "zero-init-seed0", "LoRA-r=2-seed0"}
    assert cells == expected
    result = json.loads((out / "cells" / "zero-init-seed0" / "result.json").read_text())
    assert result["trained_parameters"] == 4 * (2 * 32 + 4)
    assert result["steps"] == 4 and result["seconds_per_step"] > 0
    assert result["peak_memory_bytes"] > 50e6
    assert 0 < result["held_out_loss"] < 20 and result["base_loss"] > 0 and result["train_loss"] > 0
    assert result["details"]["exact_match"]["n"] == 5
    swept = [json.loads(f.read_text()) for f in (out / "cells" / "sweep").rglob("result.json")]
    assert result["rate"] == min(swept, key=lambda r: r["held_out_loss"])["rate"]
    answers = (out / "cells" / "zero-init-seed0" / "exact_match.jsonl").read_text().splitlines()
    assert len(answers) == 5 and set(json.loads(answers[0])) >= {"instruction", "expected", "answer", "exact"}
    written = {file.name for file in out.iterdir()}
    assert {"table.md", "table.csv", "results.json", "accuracy.png", "loss.png", "sweep.png"} <= written


def test_a_sweep_measures_on_other_records_than_the_result(done: Path) -> None:
    comparison = load_comparison(done)
    base, method = comparison.bases[0], comparison.methods[0]
    swept = [cell_recipe(comparison, cell) for cell in sweep_cells(comparison, base, method)]
    final = cell_recipe(comparison, final_cells(comparison, base, method, 0.5)[0])
    assert [recipe.train.learning_rate for recipe in swept] == [0.01, 1.0] and final.train.learning_rate == 0.5
    assert {recipe.data.split_seed for recipe in swept} == {1} and final.data.split_seed == 0
    learned, measured, _ = load_records(swept[0].data)
    _, result, _ = load_records(final.data)
    assert len(result) == 8 and len(measured) == 8
    assert not {record.row for record in result} & {record.row for record in (*learned, *measured)}
    assert {recipe.train.steps for recipe in swept} == {2} and final.train.steps == 4


def test_finished_cells_are_kept_and_missing_ones_run(done: Path) -> None:
    cells = done.parent / "out" / "cells"
    before = {file: file.stat().st_mtime_ns for file in cells.rglob("result.json")}
    lost = cells / "LoRA-r=2-seed0" / "result.json"
    figures = json.loads(lost.read_text())
    lost.unlink()
    compare(load_comparison(done), console=QUIET)
    again = json.loads(lost.read_text())  # its training was finished: only the questions are asked again
    assert again["held_out_loss"] == figures["held_out_loss"] and again["accuracy"] == figures["accuracy"]
    assert {f: f.stat().st_mtime_ns for f in before if f != lost} == {f: t for f, t in before.items() if f != lost}


def test_a_cell_that_another_process_is_at_is_waited_for(done: Path) -> None:
    cell = done.parent / "out" / "cells" / "base-alone"
    kept = (cell / "result.json").read_text()
    (cell / "result.json").unlink()
    with FileLock(cell / ".lock"):
        waiting = subprocess.Popen([sys.executable, "-m", "zerogate.comparison", str(cell / "cell.json")])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=20)
        (cell / "result.json").write_text(kept + "\n")  # as the other process would
    assert waiting.wait(timeout=60) == 0
    assert (cell / "result.json").read_text() == kept + "\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_cells_end_with_their_comparison_however_it_ends(tmp_path: Path, base: Path, how: signal.Signals) -> None:
    file = write(tmp_path, base, train={"steps": 100_000, "batch_size": 4, "log_every": 1}, base_alone=False)
    log = tmp_path / "log"
    with log.open("w") as writing:
        comparing = subprocess.Popen([sys.executable, "-m", "zerogate.cli.main", "compare", str(file)], stderr=writing)
    lock = FileLock(tmp_path / "out" / "cells" / "zero-init-seed0" / ".lock")
    deadline = time.monotonic() + 120
    while "learning rate 1.00e-02" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)  # the cell is at it
    comparing.send_signal(how)
    comparing.wait(timeout=30)
    lock.acquire(timeout=60)
    lock.release()
    assert "stopped by SIGTERM" in log.read_text()


def test_where_nothing_can_fork_each_cell_starts_by_itself(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = load_comparison(write(tmp_path, base, base_alone=False), ["sweep.steps=1"])
    monkeypatch.delattr("os.fork")  # as it is done where there is a GPU
    compare(comparison, only=["LoRA, r=2"], console=QUIET)
    assert (tmp_path / "out" / "cells" / "LoRA-r=2-seed0" / "result.json").is_file()


def test_a_result_of_other_settings_is_refused(done: Path) -> None:
    changed = load_comparison(done, ["train.batch_size=2"])
    with pytest.raises(UserError, match=r"than the recipe has now \(train.batch_size: . -> 2\); delete"):
        compare(changed, only=["LoRA, r=2"], console=QUIET)
    with pytest.raises(UserError, match=r"base-alone holds .* \(base.dtype: .* -> bfloat16\)"):
        compare(load_comparison(done, ["base.dtype=bfloat16"]), console=QUIET)
    cell = done.parent / "out" / "cells" / "base-alone" / "cell.json"
    spec = json.loads(cell.read_text())
    del spec["data"]["nothing_to_learn"]  # as an earlier version would have written it
    cell.write_text(json.dumps(spec))
    compare(load_comparison(done), only=["LoRA, r=2"], console=QUIET)


def test_a_result_under_other_defaults_of_the_libraries_is_refused(done: Path) -> None:
    cell = done.parent / "out" / "cells" / "LoRA-r=2-seed0" / "cell.json"
    kept = cell.read_text()
    spec = json.loads(kept)
    assert spec["adapter"]["r"] == 2 and spec["adapter"]["target_modules"] == ["q_proj", "v_proj"]
    spec["adapter"] |= {"lora_dropout": 0.5, "an_option_that_is_gone": 1}
    cell.write_text(json.dumps(spec))
    with pytest.raises(UserError, match=r"than the recipe has now \(adapter.lora_dropout: 0.5 -> 0.0\); delete"):
        compare(load_comparison(done), only=["LoRA, r=2"], console=QUIET)
    del spec["adapter"]  # as before it was kept
    cell.write_text(json.dumps(spec))
    compare(load_comparison(done), only=["LoRA, r=2"], console=QUIET)
    cell.write_text(kept)


def test_a_rate_that_diverges_is_a_result(tmp_path: Path, base: Path) -> None:
    methods = [{"name": "full", "adapter": {"method": "full"}, "learning_rates": [1e30]}]
    train = {"steps": 4, "batch_size": 4, "max_grad_norm": None, "log_every": 1}
    file = write(tmp_path, base, methods=methods, train=train, base_alone=False)
    row = compare(load_comparison(file), console=QUIET).rows[str(base)][0]
    assert row.failed is not None and "learning rate" in row.failed
    assert "became" in (tmp_path / "out" / "table.md").read_text()


def test_a_method_whose_rates_all_diverge_stops_no_other(tmp_path: Path, base: Path) -> None:
    rates = {"full": [1e29, 1e30], "LoRA": [0.01]}
    methods = [
        {"name": name, "adapter": {"method": name.lower()}, "learning_rates": found} for name, found in rates.items()
    ]
    train = {"steps": 4, "batch_size": 4, "max_grad_norm": None, "log_every": 1}
    file = write(tmp_path, base, methods=methods, train=train, sweep={"steps": 3}, base_alone=False)
    made = compare(load_comparison(file), console=QUIET)
    full, lora = made.rows[str(base)]
    assert full.failed is not None and full.tried == {1e29: None, 1e30: None}
    assert lora.failed is None and "exact_match" in lora.accuracy
    assert report(load_comparison(file)).table() == made.table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"methodz": []}, "unknown key methodz; did you mean methods?"),
        ({"methods": [{"name": "A", "adaptor": {}}]}, "unknown key methods.1.adaptor; did you mean adapter?"),
        (
            {"methods": [{"name": "A", "adapter": {"method": "zeroinit"}, "learning_rates": [1]}]},
            "did you mean zero_init?",
        ),
        (
            {"methods": [{"name": "A", "adapter": {"method": "lora"}, "learning_rates": [0.1, -1]}]},
            "methods.1.learning_rates",
        ),
        ({"methods": [{"name": "A", "adapter": {"method": "lora"}}]}, "give learning_rate or base_learning_rate"),
        ({"methods": [{"name": n, "adapter": {"method": "lora"}} for n in "AA"]}, "two methods are called 'A'"),
        ({"tasks": [], "sweep": {"choose_by": "accuracy"}}, "there are no tasks to measure it with"),
        ({"sweep": {"stepz": 3}}, "unknown key sweep.stepz; did you mean steps?"),
        ({"train": {"stepz": 3}}, "unknown key train.stepz; did you mean steps?"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tmp_path: Path, base: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_comparison(write(tmp_path, base, **change))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_method_that_does_not_fit_is_refused_before_anything_runs(tmp_path: Path, base: Path) -> None:
    methods = [
        {"name": "good", "adapter": {"method": "zero_init"}, "learning_rates": [0.1]},
        {"name": "deep", "adapter": {"method": "zero_init", "num_layers": 9}, "learning_rates": [0.1]},
    ]
    with pytest.raises(UserError, match="method 'deep': this adapter does not fit"):
        compare(load_comparison(write(tmp_path, base, methods=methods)), console=QUIET)
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"task": "gsm9k"}, "unknown task 'gsm9k'; did you mean GSM8K?"),
        ({"task": "gsm8k"}, "GSM8K|gsm8k needs the file of its questions"),
        ({"task": "svamp", "data": "nothing.json"}, "data file not found: nothing.json"),
    ],
)
def test_tasks_are_read_before_anything_runs(tmp_path: Path, base: Path, task: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        compare(load_comparison(write(tmp_path, base, tasks=[task])), console=QUIET)
    assert not (tmp_path / "out" / "cells").exists()


def test_questions_that_training_sees_are_refused_unless_allowed(tmp_path: Path, base: Path) -> None:
    """Real questions, in the training file and in the test file."""
    shared = REPOSITORY.parent / "shared" / "data" / "math" / "AddSub_test.json"
    if not shared.is_file():
        pytest.skip("the shared data is not here")
    task = {"task": "addsub", "data": str(shared), "limit": 3, "max_new_tokens": 4, "beams": 1}
    rate = {"learning_rate": 0.01, "steps": 1, "batch_size": 4}
    change = {
        "data": {"path": str(shared), "format": "alpaca", "limit": 50},
        "methods": [{"name": "LoRA", "adapter": {"method": "lora", "r": 2}}],
        "train": rate,
        "base_alone": False,
    }
    with pytest.raises(UserError, match=r"allow_leak: true in the recipe"):
        compare(load_comparison(write(tmp_path, base, tasks=[task], **change)), console=QUIET)
    file = write(tmp_path, base, tasks=[{**task, "allow_leak": True}], **change)
    row = compare(load_comparison(file), console=QUIET).rows[str(base)][0]
    assert row.questions == {"addsub (AddSub_test)": 3}


def test_exact_match_questions_that_training_sees_are_refused_too(tmp_path: Path, base: Path) -> None:
    learned = {"path": str(tmp_path / "where.jsonl"), "held_out": 8}
    unseen = tmp_path / "unseen.jsonl"
    unseen.write_text(json.dumps({"instruction": "What is the capital of France?", "output": "Paris."}) + "\n")

    def check(task: dict[str, Any], **change: Any) -> list[str]:
        comparison = load_comparison(write(tmp_path, base, tasks=[{"task": "exact_match", **task}], **change))
        return check_tasks(comparison, comparison.methods)

    with pytest.raises(UserError, match=r"^exact_match \(where\): .*also stand .*allow_leak: true in the recipe"):
        check({"data": learned["path"]})
    assert check({"data": learned["path"], "allow_leak": True}) == check({"data": str(unseen)}) == check({}) == []
    # A method's own data is compared, too.
    adapter = {"method": "lora", "r": 2}
    methods = [{"name": "more", "adapter": adapter, "learning_rates": [0.1], "data": {"path": learned["path"]}}]
    others = {"path": str(unseen), "held_out": None}
    with pytest.raises(UserError, match=r"^method 'more': exact_match"):
        check({"data": learned["path"]}, methods=methods, data=others)
    # Held-out records that the rest of the file repeats are told.
    twice = tmp_path / "twice.jsonl"
    write(tmp_path, base)
    twice.write_text((tmp_path / "where.jsonl").read_text() * 2)
    (line,) = check({}, data={"path": str(twice), "held_out": 8})
    assert line.startswith("exact_match: leak: the training part also has")


def test_reports_and_names_that_are_not_there(tmp_path: Path, base: Path) -> None:
    comparison = load_comparison(write(tmp_path, base))
    with pytest.raises(UserError, match="no finished cell"):
        report(comparison)
    with pytest.raises(UserError, match="no method is called 'nothing' here; there are: zero-init, LoRA, r=2"):
        compare(comparison, only=["nothing"], console=QUIET)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "recipes" / "compare").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_comparison_that_ships_is_whole(file: Path) -> None:
    load_comparison(file)
