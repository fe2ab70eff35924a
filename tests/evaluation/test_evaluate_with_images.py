"""Evaluating adapters that take images: the same at any batch size and with beams, resumed, own images or others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_base import make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.bases import load_adapted
from zerogate.errors import UserError
from zerogate.evaluation.evaluate import TaskResult, evaluate_task
from zerogate.evaluation.exact_match import exact_match
from zerogate.evaluation.other_images import shuffled_images
from zerogate.evaluation.tasks import Question, find_task
from zerogate.inference import Engine, Sampling
from zerogate.vision import source_from

TASK = find_task("nlvr")
COLOURS = ("red", "green", "blue", "black", "yellow")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluate_images")
    base = make_base(root / "base", context=512)
    for colour in COLOURS:
        make_picture(root / f"{colour}.png", colour)
    return {
        "root": root,
        "base": base,
        "eye": make_seeing_adapter(root / "seeing", base, make_eye(root / "eye")),
        "text": make_adapter(root / "text", base, 3),
    }


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> tuple[Any, Any]:
    return load_adapted(str(folders["base"]), {"eye": folders["eye"]})


@pytest.fixture(scope="module")
def questions(folders: dict[str, Path]) -> list[Question]:
    """With no image, one and two; of several lengths."""
    sources = [source_from(f"{colour}.png", folders["root"]) for colour in COLOURS]
    shown = [sources[:1], sources[1:2], [], sources[2:4], sources[4:5], sources[2:3], []]
    return [
        Question(row, f"Is it {'very ' * (row % 3)}so?", "", "true", tuple(images))
        for row, images in enumerate(shown, start=1)
    ]


def ask(model: tuple[Any, Any], questions: list[Question], **settings: Any) -> TaskResult:
    return evaluate_task(*model, TASK, questions, **{"max_new_tokens": 8, "batch_size": 3} | settings)


def responses(result: TaskResult) -> list[str]:
    return [row["response"] for row in result.rows]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_batch_of_any_size_gives_the_same_responses(
    model: tuple[Any, Any], questions: list[Question], num_beams: int
) -> None:
    alone = responses(ask(model, questions, batch_size=1, num_beams=num_beams))
    for batch_size in (3, 7):
        assert responses(ask(model, questions, batch_size=batch_size, num_beams=num_beams)) == alone
    blind = responses(ask(model, questions, images="none", num_beams=num_beams))
    changed = [n for n, (seen, unseen) in enumerate(zip(alone, blind, strict=True)) if seen != unseen]
    assert changed == [n for n, question in enumerate(questions) if question.images]


def test_greedy_responses_are_the_engines(
    model: tuple[Any, Any], questions: list[Question], folders: dict[str, Path]
) -> None:
    engine = Engine.load(str(folders["base"]), {"eye": folders["eye"]})
    sampling = Sampling(temperature=0, max_new_tokens=8)
    answers = [engine.ask(q.instruction, q.input, sampling, images=q.images).text for q in questions]
    assert responses(ask(model, questions)) == answers


def test_own_images_those_of_others_and_none_are_told_apart(
    model: tuple[Any, Any], questions: list[Question], tmp_path: Path
) -> None:
    file = tmp_path / "nlvr.jsonl"
    own = ask(model, questions, predictions=file)
    assert own.decoding["images"] == "own" and own.rows[3]["images"] == ["blue.png", "black.png"]
    for images in ("other", "none"):
        with pytest.raises(UserError, match=rf"other settings \(images: own -> {images}"):
            ask(model, questions, images=images, predictions=file)
    shuffled = tmp_path / "shuffled.jsonl"
    ask(model, questions, images="other", predictions=shuffled)
    with pytest.raises(UserError, match=r"other settings \(images: other -> none"):
        ask(model, questions, images="none", predictions=shuffled)
    other = ask(model, questions, images="other")
    assert responses(other) == responses(ask(model, shuffled_images(questions, seed=0)))
    assert responses(other) != responses(own)
    changed = [replace(questions[0], images=questions[1].images), *questions[1:]]
    with pytest.raises(UserError, match="line 1 answers another question"):
        ask(model, changed, predictions=file)


def test_stopped_and_resumed(model: tuple[Any, Any], questions: list[Question], tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    ask(model, questions, predictions=whole)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(model, questions, predictions=stopped, progress=stop)
    assert ask(model, questions, predictions=stopped, batch_size=2).resumed == 3
    assert stopped.read_bytes() == whole.read_bytes()


def test_bad_images_are_named_before_the_start(
    model: tuple[Any, Any], questions: list[Question], tmp_path: Path
) -> None:
    gone = [*questions[:5], replace(questions[5], images=(source_from("gone.png", tmp_path),))]
    file = tmp_path / "nlvr.jsonl"
    with pytest.raises(UserError, match=r"NLVR: 1 rows have images that cannot be used:\n  row 6: gone\.png: no such"):
        ask(model, gone, predictions=file)
    assert not file.exists()
    assert ask(model, gone, images="none").n == 6  # nobody looks


def test_without_images_nothing_is_recorded(
    model: tuple[Any, Any], questions: list[Question], folders: dict[str, Path]
) -> None:
    plain = [replace(question, images=()) for question in questions]
    result = ask(model, plain)
    assert "images" not in result.decoding and responses(result) == responses(ask(model, questions, images="none"))
    with pytest.raises(UserError, match="nothing to shuffle: its questions have no images"):
        ask(model, plain, images="other")
    text = load_adapted(str(folders["base"]), {"text": folders["text"]})
    assert "images" not in ask(text, questions).decoding
    assert responses(ask(text, questions)) == responses(ask(text, plain))


def test_questions_read_without_their_images(model: tuple[Any, Any], questions: list[Question], tmp_path: Path) -> None:
    """They are answered blind, which their rows record as they do of any other blind answer."""
    unseen = [
        replace(question, images=(), left_out=tuple(image.name for image in question.images)) for question in questions
    ]
    blind, result = ask(model, questions, images="none"), ask(model, unseen, images="none")
    assert result.rows == blind.rows and result.decoding["images"] == "none"
    assert result.rows[3]["images"] == ["blue.png", "black.png"]
    for images in ("own", "other"):
        with pytest.raises(ValueError, match="read without their images"):
            ask(model, unseen, images=images)


def test_exact_match_shows_images_to_adapters_that_take_them(
    model: tuple[Any, Any], questions: list[Question], folders: dict[str, Path]
) -> None:
    records = [{"instruction": q.instruction, "output": "true", "images": q.images} for q in questions]
    seen = exact_match(*model, records, max_new_tokens=8, batch_size=3)
    assert [row.answer for row in seen.rows] == [text.strip() for text in responses(ask(model, questions))]
    blind = exact_match(*model, [{**record, "images": ()} for record in records], max_new_tokens=8)
    assert [row.answer for row in blind.rows] != [row.answer for row in seen.rows]
    text = load_adapted(str(folders["base"]), {"text": folders["text"]})
    assert exact_match(*text, records, max_new_tokens=8).n == 7
