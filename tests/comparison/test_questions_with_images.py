"""Exact-match questions of a comparison are shown with their images."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_base import make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.bases import load_adapted
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
