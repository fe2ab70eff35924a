"""`zerogate score` as users meet it: one JSON object on stdout, or one clear message and exit code 2."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_command_line import refused, zerogate


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_a_process_prints_the_score_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        {"response": "The answer is 1,250.", "label": "1250"},
        {"response": "About 0.667", "label": 0.67},
        {"response": "-5", "label": -5.0},
        {"response": "No idea.", "label": "3"},
        {"response": None, "label": 3, "error": "the prompt leaves no room for an answer"},
    ]
    done = zerogate("score", "GSM8k", write(tmp_path / "p.jsonl", *rows), "--out", tmp_path / "judged.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"n": 5, "compat": 0.4, "strict": 0.6, "unanswered": 2}
    assert len(done.stdout.splitlines()) == 1
    judged = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [row["strict"] for row in judged] == [True, True, True, False, False]
    assert judged[3]["extracted_compat"] == "inf" and judged[3]["extracted_strict"] is None


def test_compressed_predictions_and_the_tasks_own_labels(
    tmp_path: Path,
    shared_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zerogate.cli import main

    labels = shared_data("commonsense/openbookqa_test.json")
    rows = [{"response": row["output"]} for row in json.loads(labels.read_text())]
    file = tmp_path / "p.jsonl.xz"
    file.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    monkeypatch.setattr("sys.argv", ["zerogate", "score", "obqa", str(file), "--labels", str(labels)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"n": 500, "compat": 1.0, "strict": 1.0, "unanswered": 0}


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        ("gms8k", [{"response": "1", "label": 1}], "unknown task 'gms8k'; did you mean GSM8K?"),
        ("gsm8k", [{"prediction": "1", "label": 1}], "p.jsonl, row 1: there is no column 'response'; this row has"),
        (
            "gsm8k",
            [{"response": "1"}],
            "there is no column 'label'; this row has 'response'; labels of their own go with",
        ),
        ("gsm8k", [{"response": "1", "label": 1}, {"response": "2"}], "row 2: there is no column 'label'"),
        (
            "gsm8k",
            [{"response": "1", "label": 1}, {"response": "1", "label": "A"}],
            "row 2: the label of a GSM8K row 'A'",
        ),
        ("aqua", [{"response": "1", "label": 1}], "row 1: the label of a AQuA row is a number, not a letter"),
        ("gsm8k", [{"response": 1, "label": 1}], "row 1: the response is int, not text"),
        ("gsm8k", ['{"response": "1", "label": 1}', '{"response": '], "p.jsonl, line 2, column 14: malformed JSON"),
        ("gsm8k", ["[1]"], "row 1: expected an object with named fields, found list"),
        ("gsm8k", [], "p.jsonl is empty"),
        ("gsm8k", ['{"response": "1", "label": NaN}'], "row 1: the label of a GSM8K row 'nan' is not a number"),
    ],
)
def test_bad_input(
    task: str, rows: list[Any], said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, monkeypatch, "score", task, write(Path("p.jsonl"), *rows))


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(Path("p.jsonl"), {"response": "1"}, {"response": "2"})
    labels = write(Path("l.jsonl"), {"label": 1})
    assert "data file not found: no.jsonl" in refused(capsys, monkeypatch, "score", "gsm8k", "no.jsonl")
    said = refused(capsys, monkeypatch, "score", "gsm8k", file, "--labels", labels)
    assert "p.jsonl has 2 responses and l.jsonl 1 labels" in said
    said = refused(capsys, monkeypatch, "score", "gsm8k", labels, "--labels", labels)
    assert "row 1: there is no column 'response'; this row has 'label'" in said
    write(Path("p.jsonl"), {"response": "1"})
    said = refused(capsys, monkeypatch, "score", "gsm8k", file, "--labels", labels, "--out", "nowhere/x.jsonl")
    assert "nowhere for the output does not exist" in said
