"""`zerogate eval` as users meet it: a base alone, an adapter, a run that is killed, questions that were trained on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_command_line import command_line, refused, zerogate
from tiny_base import make_adapter, make_base

from zerogate.evaluation.write import with_earlier, write_results
from zerogate.training.run_folder import versions

ROWS = [
    {"instruction": f"Fox {n} has {n} apples and eats one of them. How many has it?", "input": "", "answer": str(n - 1)}
    for n in range(1, 13)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("eval")
    base = make_base(root / "base", context=512)
    run = root / "run"
    make_adapter(run / "best", base)
    (run / "recipe.yaml").write_text(f"data: {{path: {root / 'train.json'}}}\ntrain: {{seed: 7}}\n")
    (root / "train.json").write_text(json.dumps([{"instruction": "Where does the owl sleep?", "output": "There."}]))
    (root / "test.json").write_text(json.dumps(ROWS))
    (root / "leaky.json").write_text(json.dumps([{"instruction": ROWS[4]["instruction"], "output": "4"}]))
    yes_no = [{"instruction": "Is it so?", "input": "", "output": "", "answer": "true"}] * 3
    (root / "boolq.json").write_text(json.dumps(yes_no))
    return {"root": root, "base": base, "run": run, "test": root / "test.json"}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_base_and_adapter_over_two_tasks(folders: dict[str, Path], tmp_path: Path) -> None:
    root = folders["root"]
    words = ["eval", "-t", "addsub", "-d", folders["test"], "-t", "boolq", "-d", root / "boolq.json", "--limit", "5",
             "--max-new-tokens", "8"]  # fmt: skip
    bare = zerogate(*words, "--model", folders["base"], "--out", tmp_path / "bare")
    assert bare.returncode == 0, bare.stderr
    assert "AddSub" in bare.stdout and "BoolQ" in bare.stdout and "mean" in bare.stdout
    assert "not checked" in bare.stdout
    adapted = zerogate(*words, "--adapter", folders["run"], "--out", tmp_path / "adapted")
    assert adapted.returncode == 0, adapted.stderr
    assert "none of 5 test questions stands in the training data" in adapted.stderr

    report = json.loads((tmp_path / "adapted" / "results.json").read_text())
    assert report["models"] == {"base": str(folders["base"]), "adapter": str(folders["run"]), "dtype": "float32"}
    assert report["seeds"] == {"decoding": None, "training": 7}
    assert report["versions"] == versions()
    assert report["tasks"]["AddSub"]["n"] == 5 and report["tasks"]["BoolQ"]["n"] == 3
    assert report["tasks"]["AddSub"]["near_duplicates"] == 0
    assert report["tasks"]["AddSub"]["decoding"]["num_beams"] == 4
    assert report["mean"].keys() == {"compat", "strict"}
    one, two = (lines(tmp_path / name / "AddSub.jsonl") for name in ("bare", "adapted"))
    assert [row["prompt"] for row in one] == [row["prompt"] for row in two]
    assert [row["response"] for row in one] != [row["response"] for row in two]

    scored = zerogate("score", "addsub", tmp_path / "adapted" / "AddSub.jsonl")
    task = report["tasks"]["AddSub"]
    assert json.loads(scored.stdout) == {name: task[name] for name in ("n", "compat", "strict", "unanswered")}


def test_one_task_after_the_other_and_both_results_are_kept(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = str(folders["test"])

    def results(task: str, *words: str) -> dict[str, Any]:
        common = ["-d", test, "-m", str(folders["base"]), "--max-new-tokens", "4", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["zerogate", "eval", "-t", task, *common, *words])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        assert ended.value.code == 0
        found: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
        return found

    first = results("addsub", "--limit", "2")
    both = results("svamp", "--limit", "2")
    assert list(both["tasks"]) == ["AddSub", "SVAMP"] and both["tasks"]["AddSub"] == first["tasks"]["AddSub"]
    assert both["mean"]["strict"] == sum(task["strict"] for task in both["tasks"].values()) / 2
    assert results("addsub", "--limit", "2") == both
    capsys.readouterr()
    assert list(results("svamp", "--limit", "3")["tasks"]) == ["SVAMP"]
    assert "was of another model, limit, seed or version: it is replaced" in " ".join(capsys.readouterr().err.split())
    assert list(results("addsub", "--limit", "3")["tasks"]) == ["SVAMP", "AddSub"]
    assert list(results("addsub", "--limit", "3", "--overwrite")["tasks"]) == ["AddSub"]


def test_lm_evals_results_are_kept_too(tmp_path: Path) -> None:
    made = {"models": {"base": "x"}, "limit": None, "seeds": {}, "versions": {}}
    harness = {"results": {"foxes": {"acc": 0.5}}, "versions": {"foxes": 1}, "seed": 0, "lm_eval": "1"}
    file = tmp_path / "results.json"
    assert with_earlier(file, {**made, "tasks": {}}) == {**made, "tasks": {}}
    write_results(file, {**made, "tasks": {}, "harness": harness})
    found = with_earlier(file, {**made, "tasks": {"COCO": {"bleu4": 0.5}}})
    assert found is not None and found["harness"] == harness and "mean" not in found
    found = with_earlier(file, {**made, "tasks": {}, "harness": harness | {"results": {"owls": {"acc": 1.0}}}})
    assert found is not None and found["harness"]["results"] == {"foxes": {"acc": 0.5}, "owls": {"acc": 1.0}}
    assert with_earlier(file, {**made, "limit": 5, "tasks": {}}) is None
    file.write_text("torn")
    assert with_earlier(file, {**made, "tasks": {}}) is None


def test_a_wrong_harness_is_refused_before_any_question(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", "-t", "addsub", "-d", folders["test"], "-m", folders["base"], "--out", tmp_path / "out"]
    monkeypatch.setattr("zerogate.evaluation.harness.importlib.util.find_spec", lambda name: None)
    assert "lm-eval, which is not installed" in refused(capsys, monkeypatch, *words, "--harness", "foxes")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_and_resumed(folders: dict[str, Path], tmp_path: Path) -> None:
    words = ["eval", "-t", "addsub", "-d", str(folders["test"]), "-m", str(folders["base"]), "--max-new-tokens", "60",
             "--batch-size", "2"]  # fmt: skip
    whole = zerogate(*words, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "zerogate.cli.main", *words, "--out", str(tmp_path / "killed")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    file = tmp_path / "killed" / "AddSub.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not (file.exists() and file.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(file.read_bytes().splitlines()) <= 12
    assert not (tmp_path / "killed" / "results.json").exists()
    again = zerogate(*words, "--out", tmp_path / "killed")
    assert again.returncode == 0, again.stderr
    assert file.read_bytes() == (tmp_path / "whole" / "AddSub.jsonl").read_bytes()
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")]
    assert results[0] == results[1]


def test_questions_that_were_trained_on(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", "-t", "addsub", "-d", folders["test"], "-m", folders["base"], "--max-new-tokens", "4"]
    leaky = folders["root"] / "leaky.json"
    out = tmp_path / "out"
    said = refused(capsys, monkeypatch, *words, "--train-data", leaky, "--out", out)
    assert "AddSub: 12 of 12 test questions also stand in the training data" in said
    assert "--allow-leak AddSub" in said and "Fox 5 has 5 apples" in said
    assert not out.exists()
    said = refused(capsys, monkeypatch, *words, "--train-data", leaky, "--allow-leak", "boolq", "--out", out)
    assert "AddSub: 12 of 12" in said
    done = zerogate(*words, "--train-data", leaky, "--allow-leak", "addsub", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 test questions" in done.stderr and "Fox 5 has 5 apples" in done.stderr
    assert json.loads((out / "results.json").read_text())["tasks"]["AddSub"]["near_duplicates"] == 12


def test_what_the_adapters_run_recorded_is_checked(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, recipe = folders["root"] / "train.json", folders["run"] / "recipe.yaml"
    kept = train.read_text(), recipe.read_text()
    words = ["eval", "-t", "addsub", "-d", folders["test"], "-a", folders["run"] / "best", "--max-new-tokens", "4"]
    try:
        train.write_text((folders["root"] / "leaky.json").read_text())
        assert "12 of 12 test questions" in refused(capsys, monkeypatch, *words, "--out", tmp_path / "out")
        train.unlink()
        done = zerogate(*words, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert "train.json is not here: not checked for leaks" in done.stderr
    finally:
        train.write_text(kept[0])
        recipe.write_text(kept[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name something to evaluate"),
        (["-t", "addsub"], "there are 1 tasks and 0 files"),
        (["-t", "adsub", "-d", "test.json"], "unknown task 'adsub'; did you mean AddSub?"),
        (["-t", "addsub", "-d", "no.json"], "data file not found: no.json"),
        (["-t", "addsub", "-d", "test.json", "-t", "AddSub", "-d", "test.json"], "the task AddSub is named twice"),
        (
            ["-t", "boolq", "-d", "test.json"],
            "test.json, row 1: the label of a BoolQ row '0' is not one of true, false",
        ),
        (["-t", "addsub", "-d", "train.json"], "train.json, row 1: there is no column 'answer'"),
        (["-t", "addsub", "-d", "test.json", "--allow-leak", "addsup"], "unknown task 'addsup'; did you mean AddSub?"),
        (["-t", "addsub", "-d", "test.json", "--train-data", "no.json"], "data file not found: no.json"),
        (["-t", "addsub", "-d", "test.json", "-m", "./nowhere"], "the base folder nowhere does not exist"),
        (["-t", "addsub", "-d", "test.json", "-a", "nowhere"], "the adapter folder nowhere does not exist"),
        (["--harness", "foxes", "--include-path", "nowhere", "-m", "base"], "nowhere does not exist"),
    ],
)
def test_bad_input(
    words: list[str], said: str, folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folders["root"])
    assert said in refused(capsys, monkeypatch, "eval", *words)
