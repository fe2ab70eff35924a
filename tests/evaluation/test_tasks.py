"""Test sets as they lie on the disk: LLM-Adapters' layout, GSM8K's and ScienceQA's own; and broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zerogate.errors import UserError
from zerogate.evaluation.score import score_file, score_responses
from zerogate.evaluation.tasks import find_task, read_questions


@pytest.mark.parametrize(
    ("name", "file", "n", "label"),
    [
        ("addsub", "math/AddSub_test.json", 395, "4"),
        ("svamp", "math/SVAMP_test.json", 1000, "8.0"),
        ("aqua", "math/AQuA_test.json", 254, "A"),
        ("gsm8k", "math/gsm8k_train.jsonl.xz", 7473, "72"),
        ("arc-c", "commonsense/ARC-Challenge_test.json", 1172, "answer3"),
        ("obqa", "commonsense/openbookqa_test.json", 500, "answer2"),
        ("boolq", "commonsense/boolq_train.json.xz", 9427, "true"),
    ],
)
def test_real_files(name: str, file: str, n: int, label: str, shared_data: Callable[[str], Path]) -> None:
    questions = read_questions(find_task(name), shared_data(file))
    assert len(questions) == n
    assert questions[0].label == label
    assert questions[-1].row == n
    assert all(item.instruction and item.label for item in questions)
    assert read_questions(find_task(name), shared_data(file), limit=3) == questions[:3]


def test_scienceqa(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("scienceqa")
    questions = read_questions(find_task("ScienceQA"), folder / "problems_part.json.xz")
    assert len(questions) == 194  # of the 361 of the test split in this part, those without a picture
    assert questions == read_questions(find_task("ScienceQA"), folder)
    first = questions[0].instruction
    assert first.startswith("Question: ") and first.endswith("\nAnswer:")
    assert "\nContext: " in first and "\nOptions: (A) " in first
    assert {item.label for item in questions} <= set("ABCDE")


def test_names_of_tasks() -> None:
    assert find_task("ARC_Easy") is find_task("arc-e") is find_task("arce")
    assert find_task("social_i_qa").name == "SIQA"
    assert find_task("openbookqa").name == "OBQA"
    with pytest.raises(UserError, match=r"unknown task 'gsm88'; did you mean GSM8K\?"):
        find_task("gsm88")
    with pytest.raises(UserError, match="unknown task 'zzzzzzz'; known: AddSub, MultiArith"):
        find_task("zzzzzzz")


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"instruction": "x", "output": "y"},
            r"row 2: there is no column 'answer'; this row has 'instruction', 'output'",
        ),
        ({"prompt": "x"}, "no column 'instruction' and no column 'answer'"),
        ({"instruction": "x", "answer": "many"}, "row 2: the label of a GSM8K row 'many' is not a number"),
        ({"instruction": 3, "answer": "4"}, "row 2: instruction and input must be text"),
        ({"question": "x", "answer": "so\n#### twelve"}, "row 2: .* 'twelve' is not a number"),
    ],
)
def test_rows_that_do_not_fit(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "test.jsonl", [{"question": "x", "answer": "so\n#### 1,200"}, row])
    with pytest.raises(UserError, match=said):
        read_questions(find_task("gsm8k"), file)
    assert read_questions(find_task("gsm8k"), file, limit=1)[0].label == "1200"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no problems.json"),
        ({"problems.json": {"1": {"question": "q"}}}, "has no pid_splits.json"),
        (
            {"problems.json": {"1": {"question": "q"}}, "pid_splits.json": {"test": ["1"]}},
            "problem 1: no field 'choices'",
        ),
        ({"problems.json": {"1": {}}, "pid_splits.json": {"train": ["1"]}}, "no split 'test'; it has train"),
        ({"problems.json": {"1": {"image": "a.png"}}, "pid_splits.json": {"test": ["1"]}}, "no question of the split"),
        (
            {
                "problems.json": {"1": {"question": "q", "choices": ["a"], "answer": 1}},
                "pid_splits.json": {"test": ["1"]},
            },
            "the answer 1 is not the index of one of its 1 choices",
        ),
    ],
)
def test_scienceqa_that_does_not_fit(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_questions(find_task("scienceqa"), tmp_path)


def test_predictions_and_labels_of_different_length(tmp_path: Path) -> None:
    task = find_task("gsm8k")
    with pytest.raises(UserError, match="2 responses, but 1 labels"):
        score_responses(task, ["1", "2"], ["1"])
    predictions = write(tmp_path / "p.jsonl", [{"response": "1"}, {"response": "2"}])
    labels = write(tmp_path / "l.jsonl", [{"label": 1}])
    with pytest.raises(UserError, match=r"p\.jsonl has 2 responses and .*l\.jsonl 1 labels"):
        score_file(task, predictions, labels)
    assert [verdict.strict for verdict in score_responses(task, ["1", "2"], ["1", 3])] == [True, False]


def test_labels_from_the_tasks_own_file(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    file = shared_data("math/AddSub_test.json")
    rows = json.loads(file.read_text())
    predictions = write(tmp_path / "p.jsonl", [{"response": f"It is {row['answer']}."} for row in rows])
    assert all(row["strict"] and row["compat"] for row in score_file(find_task("addsub"), predictions, file))
