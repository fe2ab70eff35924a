"""Exact-match questions of a comparison are shown with their images."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_base import make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.bases import load_adapted, load_base
from zerogate.comparison.questions import ask
from zerogate.comparison.sections import TaskSection
from zerogate.data.section import DataSection
from zerogate.inference import Engine, Sampling
from zerogate.vision import source_from

COLOURS = ("red", "green", "blue", "black", "yellow", "white")


def test_questions_are_asked_with_their_own_images(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", context=512)
    adapter = make_seeing_adapter(tmp_path / "seeing", base, make_eye(tmp_path / "eye"))
    rows = []
    for colour in COLOURS:
        make_picture(tmp_path / f"{colour}.png", colour)
        rows.append({"instruction": "What is it?", "output": colour, "image": f"{colour}.png"})
    file = tmp_path / "colours.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    model, tokenizer = load_adapted(str(base), {"eye": adapter})
    task = TaskSection(task="exact_match", max_new_tokens=8)
    found = ask(task, DataSection(path=str(file), held_out=5), model, tokenizer, tmp_path)
    assert found["n"] == 5
    answers = [json.loads(line) for line in (tmp_path / "exact_match.jsonl").read_text().splitlines()]

    engine = Engine.load(str(base), {"eye": adapter})
    blind = engine.ask("What is it?", "", Sampling(temperature=0, max_new_tokens=8)).text.strip()
    assert blind not in {answer["answer"] for answer in answers}
    for answer in answers:
        images = [source_from(f"{answer['expected']}.png", tmp_path)]
        one = engine.ask("What is it?", "", Sampling(temperature=0, max_new_tokens=8), images=images)
        assert one.text.strip() == answer["answer"]


def test_captions_are_scored_together_with_own_images_and_others(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", context=512)
    adapter = make_seeing_adapter(tmp_path / "seeing", base, make_eye(tmp_path / "eye"))
    (tmp_path / "photos" / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for colour in COLOURS:
        make_picture(tmp_path / "photos" / "Images" / f"{colour}.png", colour)
        lines += [f"{colour}.png,a {colour} box on white", f"{colour}.png,there is a {colour} box"]
    (tmp_path / "photos" / "captions.txt").write_text("\n".join(lines) + "\n")
    model, tokenizer = load_adapted(str(base), {"eye": adapter})
    answers = {}
    for images in ("own", "other"):
        where = f"{tmp_path / 'photos'}:train"
        task = TaskSection(task="flickr8k", data=where, max_new_tokens=8, images=images)
        found = ask(task, DataSection(path=where), model, tokenizer, tmp_path)
        assert found["n"] == 6 and found["accuracy"] == found["bleu4"] and found["cider"] is not None
        assert found["decoding"]["images"] == images
        answers[images] = [json.loads(line)["response"] for file in tmp_path.glob("*.jsonl") for line in file.open()]
    assert task.label == "flickr8k (photos:train), other images, BLEU-4"
    assert len(answers["other"]) == 12, "the two are kept in files of their own"
    (tmp_path / "blind").mkdir()
    blind, _ = load_base(str(base))
    assert "images" not in ask(task, DataSection(path=where), blind, tokenizer, tmp_path / "blind")["decoding"]
