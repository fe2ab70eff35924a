"""`zerogate predict`: what it says is what training measured, on real runs of every task; and bad input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from rich.console import Console
from transformers import BertForQuestionAnswering

from zerogate.errors import UserError
from zerogate.inference.predict import Predictor, spans_of
from zerogate.inference.reading import reader_of
from zerogate.tools.named import named_tools
from zerogate.training.problems import find_problem
from zerogate.training.problems.base import load_fast_tokenizer
from zerogate.training.problems.labelled import LabelledProblem
from zerogate.training.problems.question_answering import QuestionAnswering
from zerogate.training.problems.squad_score import exact_match
from zerogate.training.problems.trained import Trained, load_trained
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import train

NAMES = ["anna", "paris", "who", "live"]


def settings(task: str, base: Path, folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "base": {"name": str(base), "device": "cpu"},
        "adapter": {"method": "zero_init"},
        "data": data,
        "train": {"steps": 12, "batch_size": 8, "learning_rate": 0.03, "evaluate_every": 12, "save_every": 12},
        "output": str(folder / "run"),
    }


def run(recipe: dict[str, Any]) -> tuple[Path, LabelledProblem]:
    outcome = train(parse_recipe(recipe), console=Console(quiet=True))
    problem = find_problem(parse_recipe(recipe))
    assert isinstance(problem, LabelledProblem)
    return outcome.folder, problem


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command("predict", *arguments)


def test_pictures(tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
    data = {"path": str(photos), "split": "train", "held_out": "test"}
    folder, problem = run(settings("image_classification", tiny_vit, tmp_path, data))
    trained = load_trained(folder / "last")
    part = problem.load_data(trained.processor).held_out
    assert part is not None
    measured = problem.measure(trained.model, part, batch_size=4)["eval_accuracy"]
    files = sorted((photos / "test").rglob("*.png"))
    rows = list(Predictor(trained, batch_size=3, top=2)({"image": str(file)} for file in files))
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert sum(row["label"] == Path(row["image"]).parent.name for row in rows) / len(rows) == measured
    for row in rows:
        assert row["top"][0] == [row["label"], row["score"]] and sum(p for _, p in row["top"]) == pytest.approx(1, 1e-4)
    # The command says the same, from a folder and from a file of rows beside the pictures.
    said = command(folder, photos / "test", "--top", "2", "--device", "cpu")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        f"{row['image']}: " + ", ".join(f"{label} {score:.1%}" for label, score in row["top"]) for row in rows
    ]
    listed, out = photos / "rows.jsonl", tmp_path / "said.jsonl"
    listed.write_text("".join(json.dumps({"image": str(file.relative_to(photos))}) + "\n" for file in files))
    assert command(folder, "--in", listed, "--out", out, "--device", "cpu").returncode == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["image"], row["label"]) for row in again] == [(row["image"], row["label"]) for row in rows]


def test_names(tiny_bert: Path, tmp_path: Path) -> None:
    lines = []
    for number in range(40):
        lines += [f"{NAMES[number % 4]} B-PER", f"x{'y' * (number % 3)} I-PER", "lives O", "in O", "paris B-LOC", ""]
    (tmp_path / "all.conll").write_text("\n".join(lines) + "\n")
    data = {"path": str(tmp_path / "all.conll"), "held_out": 10, "max_length": 16}
    with pytest.raises(UserError, match=r"max_length 256 is too long: .* reads 128 tokens; .* at most 128"):
        run(settings("token_classification", tiny_bert, tmp_path, {**data, "max_length": 256}))
    folder, problem = run(settings("token_classification", tiny_bert, tmp_path, data))
    trained = load_trained(folder / "last")
    part = problem.load_data(trained.processor).held_out
    assert part is not None
    predictor = Predictor(trained, batch_size=4)
    rows = list(predictor({"tokens": list(sentence.words)} for sentence in part.records))
    right = said = there = 0
    for row, sentence in zip(rows, part.records, strict=True):
        true = {(s["label"], s["first"], s["last"]) for s in spans_of(list(sentence.words), list(sentence.tags))}
        guess = {(s["label"], s["first"], s["last"]) for s in row["spans"]}
        right, said, there = right + len(true & guess), said + len(guess), there + len(true)
    measured = problem.measure(trained.model, part, batch_size=4)
    assert measured["eval_f1"] == pytest.approx(2 * right / (said + there)) and right > 0
    # A text is cut into words with its marks apart; one far beyond the longest sequence is asked in pieces.
    long = " ".join(["anna x lives in paris."] * 60)
    (row,) = predictor([{"text": long}])
    assert row["tokens"][:6] == ["anna", "x", "lives", "in", "paris", "."] and len(row["tokens"]) == 360
    assert row["spans"][-1]["last"] > 300
    with pytest.raises(UserError, match="has not learned to answer questions about passages"):
        reader_of(str(folder))
    said_ = command(folder, "anna x lives in paris.", "--device", "cpu")
    assert said_.returncode == 0, said_.stderr
    expected = next(predictor([{"text": "anna x lives in paris."}]))["spans"]
    assert said_.stdout.strip() == "; ".join(f"{s['text']} ({s['label']})" for s in expected)


def test_answers(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = []
    for number in range(10):
        context = " ".join(["a b c d e f g h"] * (number % 3)) + f" {NAMES[number % 4]} lives in paris."
        start = context.index("paris")
        asked = {"id": f"{number}", "question": "where ?", "answers": [{"text": "paris", "answer_start": start}]}
        articles.append({"title": str(number), "paragraphs": [{"context": context, "qas": [asked]}]})
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    data = {"path": str(tmp_path / "squad.json"), "held_out": 5, "max_length": 32, "stride": 8}
    folder, problem = run(settings("question_answering", tiny_bert, tmp_path, data))
    trained = load_trained(folder / "last")
    part = problem.load_data(trained.processor).held_out
    assert part is not None
    asked = [{"question": q.question, "context": q.context, "id": n} for n, q in enumerate(part.records)]
    rows = list(Predictor(trained, batch_size=2)(asked))
    assert [row["id"] for row in rows] == list(range(len(asked)))
    right = [exact_match(row["answer"], [t for t, _ in q.answers]) for row, q in zip(rows, part.records, strict=True)]
    measured = problem.measure(trained.model, part, batch_size=4)
    assert sum(right) / len(right) == measured["eval_exact_match"]
    assert all(row["answer"] and row["answer"] in row["context"] for row in rows)
    # As long a window as in training, though the base reads 128 tokens; an adapter of PEFT's making says nothing of it.
    seen: list[int] = []
    with trained.model.get_base_model().bert.embeddings.register_forward_hook(lambda *a: seen.append(a[2].shape[1])):
        list(Predictor(trained)([{"question": "where ?", "context": "a b c d " * 60}]))
    assert max(seen) == 32
    (folder / "last" / "lengths.json").rename(tmp_path / "lengths.json")
    with trained.model.get_base_model().bert.embeddings.register_forward_hook(lambda *a: seen.append(a[2].shape[1])):
        list(Predictor(trained)([{"question": "where ?", "context": "a b c d " * 60}]))
    assert max(seen) == 128
    (tmp_path / "lengths.json").rename(folder / "last" / "lengths.json")
    # A passage of many windows: the answer is the best of them all. With --no-answer none where that is likelier.
    passage = " ".join(["a b c d e f g h"] * 120) + " anna lives in paris."
    (tmp_path / "passage.txt").write_text(passage)
    (long,) = Predictor(trained)([{"question": "where ?", "context": passage}])
    assert long["answer"] in passage
    said = command(folder, "where ?", "--context", f"@{tmp_path / 'passage.txt'}", "--device", "cpu")
    assert said.stdout.strip() == long["answer"], said.stderr
    (none,) = Predictor(trained, margin=0.0)([{"question": "where ?", "context": passage}])
    assert none["score"] == long["score"] and (none["answer"] == "") == (long["score"] < 0)
    for margin in (long["score"], long["score"] + 0.001):
        (row,) = Predictor(trained, margin=margin - 0.0005)([{"question": "where ?", "context": passage}])
        assert (row["answer"] == "") == (margin > long["score"])
    said = command(folder, "where ?", "--context", f"@{tmp_path / 'passage.txt'}", "--device", "cpu", "--margin", "999")
    assert said.stdout.strip() == "(no answer)", said.stderr
    # The same run as the reader of a tool: of the passages that are found, what the surest one says.
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))
    for title, text in (("anna", "anna lives in paris."), ("who", "a b c who lives in paris."), ("d", "e f g h")):
        (tmp_path / "notes" / f"{title}.txt").write_text(text)
    called = named_tools([f"qa={tmp_path / 'notes'}@{folder}"], reader_of=reader_of).call("QA", "who lives where ?")
    asked = [
        {"question": "who lives where ?", "context": f"{title}. {text}"}
        for title, text in (("anna", "anna lives in paris."), ("who", "a b c who lives in paris."))
    ]
    surest = max(Predictor(trained, margin=0.0)(asked), key=lambda row: row["score"])
    assert called.result == surest["answer"] and (called.error is None) == bool(surest["answer"])


def test_a_question_that_is_too_long_is_named_by_its_row(tiny_bert: Path) -> None:
    model = BertForQuestionAnswering.from_pretrained(tiny_bert).eval()
    trained = Trained(model, load_fast_tokenizer(str(tiny_bert)), QuestionAnswering, tiny_bert, str(tiny_bert))
    rows = [{"question": "where ?", "context": "anna lives in paris"}] * 5
    with pytest.raises(UserError, match="question 6 has 300 tokens"):
        list(Predictor(trained, batch_size=4)([*rows, {"question": "a " * 300, "context": "anna lives in paris"}]))


def test_spans() -> None:
    words = list("abcdef")
    tags = ["I-X", "B-X", "I-X", "I-Y", "O", "B-Y"]
    found = [(s["label"], s["first"], s["last"]) for s in spans_of(words, tags)]
    assert found == [("X", 0, 0), ("X", 1, 2), ("Y", 3, 3), ("Y", 5, 5)]


def test_bad_input(tiny_vit: Path, photos: Path, tmp_path: Path) -> None:
    data = {"path": str(photos), "split": "train", "held_out": "test"}
    folder, _ = run(settings("image_classification", tiny_vit, tmp_path, data))
    trained = load_trained(folder)
    with pytest.raises(UserError, match="classes are named for"):
        Predictor(trained, classes=["a"])
    with pytest.raises(UserError, match="row 2 has no 'image'"):
        list(Predictor(trained)([{"image": str(photos / "test/red/0.png")}, {"text": "a"}]))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    for arguments, message in (
        ((), "give what to ask about"),
        ((photos / "nowhere.png",), "does not exist"),
        ((tmp_path / "broken.png",), "cannot be read as a picture"),
        ((photos / "test", "--in", "a.jsonl"), "not both"),
        ((photos / "test", "--out", tmp_path / "none" / "a.jsonl"), "does not exist"),
    ):
        said = command(folder, *arguments, "--device", "cpu")
        assert said.returncode == 2 and message in said.stderr and "Traceback" not in said.stderr, said.stderr
