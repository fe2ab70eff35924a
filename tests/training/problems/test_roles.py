"""`zerogate predict` for semantic roles: it says what training asks for, and every sentence has its predicate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_command
from rich.console import Console

from zerogate.errors import UserError
from zerogate.inference.predict import Predictor, spans_of
from zerogate.training.problems import find_problem
from zerogate.training.problems.labelled import LabelledProblem
from zerogate.training.problems.tagged_files import marked_predicates
from zerogate.training.problems.trained import load_trained
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import train

NAMES = ["anna", "who", "live", "where"]


def trained_on(rows: list[dict[str, Any]], base: Path, folder: Path) -> tuple[Path, LabelledProblem]:
    """A short run on rows, and its problem."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "task": "token_classification",
        "base": {"name": str(base), "device": "cpu"},
        "adapter": {"method": "zero_init"},
        "data": {"path": str(folder / "rows.jsonl"), "held_out": 8, "max_length": 16},
        "train": {"steps": 12, "batch_size": 8, "learning_rate": 0.03, "evaluate_every": 12, "save_every": 12},
        "output": str(folder / "run"),
    }
    outcome = train(parse_recipe(recipe), console=Console(quiet=True))
    problem = find_problem(parse_recipe(recipe))
    assert isinstance(problem, LabelledProblem)
    return outcome.folder, problem


def sentence(number: int) -> tuple[list[str], list[str]]:
    """Words, and tags of the predicate `lives`."""
    extra = number % 3
    words = [NAMES[number % 4], *"x" * extra, "lives", "in", "paris", "."]
    return words, ["B-ARG0", *["I-ARG0"] * extra, "B-V", "B-LOC", "I-LOC", "O"]


@pytest.fixture(scope="module")
def roles(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelledProblem]:
    rows = []
    for number in range(40):
        words, tags = sentence(number)
        rows.append({"words": words, "frames": [{"predicate": words.index("lives"), "tags": tags}]})
    return trained_on(rows, tiny_bert, tmp_path_factory.mktemp("roles"))


def test_what_is_said_is_what_was_measured(roles: tuple[Path, LabelledProblem]) -> None:
    folder, problem = roles
    trained = load_trained(folder / "last")
    part = problem.load_data(trained.processor).held_out
    assert part is not None
    asked = [{"text": " ".join(sentence.words)} for sentence in part.records]
    right = said = there = 0
    for row, record in zip(Predictor(trained, batch_size=3)(asked), part.records, strict=True):
        assert row["tokens"] == list(record.unmarked) and row["tokens"][row["predicate"]] == "lives"
        at = row["predicate"]
        tags = [tag or "O" for tag in (*record.tags[:at], None, *record.tags[at + 3 :])]
        true = {(s["label"], s["first"], s["last"]) for s in spans_of(row["tokens"], tags)}
        guess = {(s["label"], s["first"], s["last"]) for s in row["spans"]}
        right, said, there = right + len(true & guess), said + len(guess), there + len(true)
    measured = problem.measure(trained.model, part, batch_size=4)
    assert measured["eval_f1"] == pytest.approx(2 * right / (said + there)) and right > 0


def test_neither_the_predicate_nor_its_marks_have_a_role(roles: tuple[Path, LabelledProblem]) -> None:
    folder, _ = roles
    trained = load_trained(folder / "last")
    predictor = Predictor(trained)
    # A head that says the same of every token, so what training ignores is certain to be said.
    with torch.no_grad():
        for name, parameter in trained.model.named_parameters():
            if "classifier" in name and name.endswith("bias"):
                parameter[predictor.names.index("I-ARG0")] = 1000.0
    first, last = (
        {"label": "ARG0", "text": "anna", "first": 0, "last": 0},
        {"label": "ARG0", "text": "in paris .", "first": 2, "last": 4},
    )
    words = ["anna", "lives", "in", "paris", "."]
    given = [
        {"text": "anna * lives * in paris."},
        {"text": "anna *lives* in paris."},
        {"tokens": ["anna", "*", "lives", "*", "in", "paris", "."]},
        {"tokens": words, "predicate": 1},
    ]
    for row in predictor(given):
        assert (row["tokens"], row["predicate"], row["spans"]) == (words, 1, [first, last])
    # A row that was answered can be asked again.
    again = list(predictor(predictor(given)))
    assert all(row["tokens"] == words and row["spans"] == [first, last] for row in again)
    # At the beginning; and at the end of sentences of every length, so that some are cut between the marks.
    (row,) = predictor([{"text": "* lives * in"}])
    assert (row["tokens"], row["predicate"]) == (["lives", "in"], 0)
    assert [(span["first"], span["last"]) for span in row["spans"]] == [(1, 1)]
    for before in range(40):
        (row,) = predictor([{"tokens": [*["anna"] * before, "*", "lives", "*"]}])
        assert len(row["tokens"]) == before + 1 and row["predicate"] == before
        assert [(span["first"], span["last"]) for span in row["spans"]] == ([(0, before - 1)] if before else [])


def test_ordinary_asterisks_are_words_as_in_training(roles: tuple[Path, LabelledProblem]) -> None:
    predictor = Predictor(load_trained(roles[0] / "last"))
    words, marked = ["*", "anna", "*", "x", "*", "lives", "in"], ["*", "anna", "*", "x", "*", "*", "lives", "*", "in"]
    with pytest.raises(UserError, match=r"row 1 has several words \('anna', 'x', 'lives'\) between two"):
        list(predictor([{"tokens": marked}]))
    seen: list[list[int]] = []
    embeddings = predictor.trained.model.get_base_model().bert.embeddings.word_embeddings
    with embeddings.register_forward_hook(lambda *a: seen.extend(a[1][0].tolist())):
        (row,) = predictor([{"tokens": words, "predicate": 5}])
    assert seen == [predictor.trained.processor(marked, is_split_into_words=True)["input_ids"]]
    assert (row["tokens"], row["predicate"]) == (words, 5)
    (row,) = predictor([{"text": "anna * * lives * in"}])  # only one word is between two
    assert (row["tokens"], row["predicate"]) == (["anna", "*", "lives", "in"], 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "anna lives in paris."},
            r"row 2 has no word between two '\*' as its predicate; write `Anna \* lives",
        ),
        ({"text": "anna * lives in paris."}, "row 2 has no word between two"),
        ({"text": "anna * * * paris."}, "row 2 has no word between two"),
        ({"tokens": ["*", "anna", "*", "lives", "*"]}, r"row 2 has several words \('anna', 'lives'\) between two"),
        ({"text": "anna lives", "predicate": 1}, "give `tokens` without marks, and as `predicate` its number"),
        ({"tokens": ["anna", "lives"], "predicate": 2}, "row 2: `predicate` must be a word's number, 0 to 1, not 2"),
        ({"tokens": ["anna", "lives"], "predicate": "lives"}, "must be a word's number, 0 to 1, not 'lives'"),
    ],
)
def test_a_sentence_without_its_predicate_is_named(
    roles: tuple[Path, LabelledProblem], row: dict[str, Any], message: str
) -> None:
    predictor = Predictor(load_trained(roles[0] / "last"))
    with pytest.raises(UserError, match=message):
        list(predictor([{"text": "anna * lives * in paris."}, row]))


def test_the_command(roles: tuple[Path, LabelledProblem], tmp_path: Path) -> None:
    folder, _ = roles
    said = run_command("predict", folder, "anna * lives * in paris.", "anna lives in paris.", "--device", "cpu")
    assert said.returncode == 2 and "row 2 has no word between two '*'" in said.stderr, said.stderr
    out = tmp_path / "said.jsonl"
    said = run_command("predict", folder, "anna * lives * in paris.", "--out", out, "--device", "cpu")
    assert said.returncode == 0, said.stderr
    assert json.loads(out.read_text())["tokens"] == ["anna", "lives", "in", "paris", "."]


def test_an_adapter_that_does_not_say_so_is_asked_as_it_is(roles: tuple[Path, LabelledProblem]) -> None:
    folder, _ = roles
    mark = folder / "last" / "roles.json"
    kept = mark.read_bytes()
    mark.unlink()
    try:
        (row,) = Predictor(load_trained(folder / "last"))([{"text": "anna * lives * in paris."}])
    finally:
        mark.write_bytes(kept)
    assert row["tokens"] == ["anna", "*", "lives", "*", "in", "paris", "."] and "predicate" not in row


def test_a_run_on_names_asks_for_no_predicate(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["anna", "*", "x", "*"], "tags": ["B-PER", "O", "O", "O"]} for _ in range(24)]
    folder, _ = trained_on(rows, tiny_bert, tmp_path)
    assert not (folder / "last" / "roles.json").exists()
    (row,) = Predictor(load_trained(folder / "last"))([{"tokens": ["anna", "*", "x", "*"], "predicate": "any"}])
    assert row["tokens"] == ["anna", "*", "x", "*"] and row["predicate"] == "any"


@pytest.mark.parametrize(
    ("words", "found"),
    [("", []), ("*", []), ("* a *", [1]), ("* * *", []), ("a * b * * c *", [2, 5]), ("* a * b *", [1, 3])],
)
def test_marks_are_found(words: str, found: list[int]) -> None:
    assert marked_predicates(words.split()) == found
