"""Images on the command line: preview names them, bad ones are one clear message, evaluation shows its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from test_command_line import refused, zerogate

from zerogate.cli.eval_tables import show
from zerogate.evaluation.accuracy import KindScore, Score
from zerogate.evaluation.captions import CaptionScore
from zerogate.evaluation.evaluate import TaskResult


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"{colour}.png")
    rows = [
        {"instruction": "<image>\nWhat colour is it?", "output": f"It is {colour}.", "image": f"{colour}.png"}
        for colour in ("red", "green", "blue")
    ]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    return tmp_path / "data.json"


def test_preview_names_images_and_their_size(data: Path) -> None:
    done = zerogate("preview", "recipes/demo.yaml", f"data.path={data}", "data.held_out=1", "--examples", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(32 x 24)") == 2 and "image: " in done.stdout
    assert "<image>" not in done.stdout
    assert "2 images" in done.stdout and "held out: 1 images" in done.stdout
    assert "nobody looks at the images" in done.stdout


def test_preview_says_who_looks_at_images(data: Path) -> None:
    words = ("preview", "recipes/demo.yaml", f"data.path={data}", "data.held_out=1", "adapter.image_encoder=pocket-eye")
    seen = zerogate(*words)
    assert seen.returncode == 0, seen.stderr
    assert "2 images" in seen.stdout and "nobody looks" not in seen.stdout
    blind = zerogate(*words, "adapter.image_tokens=4", "data.use_images=false")
    assert blind.returncode == 0, blind.stderr
    said = "takes no images, as data.use_images is false: without image_encoder, image_tokens"
    assert said in blind.stdout and "2 images" not in blind.stdout


def test_bad_images_are_one_message(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (data.parent / "green.png").write_bytes(b"<html>")
    (data.parent / "blue.png").unlink()
    words = ("preview", "recipes/demo.yaml", f"data.path={data}", "data.held_out=null")
    said = refused(capsys, monkeypatch, *words)
    assert "cannot be used (the adapter takes no images: data.use_images=false reads the rows as text alone)" in said
    said = refused(capsys, monkeypatch, *words, "adapter.image_encoder=pocket-eye")
    assert "data.json: 2 rows have images that cannot be used (data.bad_images=drop leaves these rows out)" in said
    assert "row 2: green.png: not an image (it is a web page" in said and "row 3: blue.png: no such file" in said
    said = refused(capsys, monkeypatch, "preview", "recipes/demo.yaml", f"data.path={data}", "data.format=easyvqa")
    assert "easy_vqa" in said


def test_tables_of_kinds_and_captions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    kinds = {"shape": KindScore(3, 1.0, 1.0, 2 / 3), "colour": KindScore(1, 0.0, 0.0, 1.0)}
    results = [
        TaskResult("easy-VQA", Score(4, 0.75, 0.75, 0, kinds, 0.75), {}, []),
        TaskResult("Flickr8k", CaptionScore(800, 0.362, 1.222, 3), {}, []),
        TaskResult("COCO-captions", CaptionScore(1, 0.362, None, 0), {}, []),
    ]
    show(results, {}, None)
    lines = [line.split() for line in capsys.readouterr().out.replace("│", " ").replace("┃", " ").splitlines()]
    assert ["easy-VQA", "4", "75.0%", "75.0%", "0", "not", "checked"] in lines
    assert ["strict", "100.0%", "0.0%", "75.0%"] in lines and ["majority", "66.7%", "100.0%", "75.0%"] in lines
    assert ["Flickr8k", "800", "36.2", "122.2", "3", "not", "checked"] in lines
    assert ["COCO-captions", "1", "36.2", "-", "0", "not", "checked"] in lines
