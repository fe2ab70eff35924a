"""CLIP from base classes to novel ones: what is learned and what is asked, a real comparison, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from zerogate.bases.load import base_path
from zerogate.comparison import compare, load_comparison
from zerogate.errors import UserError
from zerogate.training.problems.base_to_novel import BaseToNovel
from zerogate.training.problems.trained import load_trained
from zerogate.training.recipe_file import parse_recipe

COLOURS = {
    "black": (20, 20, 20),
    "blue": (20, 20, 200),
    "green": (20, 200, 20),
    "red": (200, 20, 20),
    "sea_grey": (90,) * 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with pocket's tokenizer, and pictures of five colours."""
    made = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 4096, "max_position_embeddings": 32, "eos_token_id": 1, "bos_token_id": 0,
            "pad_token_id": 2}  # fmt: skip
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(made / "clip")
    size = {"height": 8, "width": 8}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(made / "clip")
    AutoTokenizer.from_pretrained(base_path("pocket")).save_pretrained(made / "clip")
    for part, count in (("train", 9), ("test", 3)):
        for name, (r, g, b) in COLOURS.items():
            (made / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (8, 8), (r + number, g, b + 10 * (part == "test")))
                picture.save(made / "photos" / part / name / f"{number}.png")
    return made


def settings(folder: Path, **data: Any) -> dict[str, Any]:
    photos = str(folder / "photos")
    return {
        "task": "base_to_novel",
        "base": {"name": str(folder / "clip"), "device": "cpu"},
        "data": {"path": photos, "split": "train", "held_out": "test", "shots": 4} | data,
        "train": {"steps": 4, "batch_size": 4, "learning_rate": 0.01},
        "output": str(folder / "run"),
    }


def problem(folder: Path, adapter: dict[str, Any] | None = None, **data: Any) -> BaseToNovel:
    recipe = parse_recipe(settings(folder, **data) | {"adapter": adapter or {"method": "coop"}})
    return BaseToNovel(recipe)


def test_shots_of_base_classes_are_learned_and_halves_are_asked_apart(folder: Path) -> None:
    asked = problem(folder)
    assert asked.halves == (["black", "blue", "green"], ["red", "sea_grey"])
    model, processor = asked.load_base(False, "cpu")
    data = asked.load_data(processor)
    assert [picture.label for picture in data.train.records] == [name for name in asked.halves[0] for _ in range(4)]
    assert data.lines() == [
        "12 training pictures of 3 base classes; 2 novel classes",
        "15 held-out pictures; no leak: none of them is in the training part",
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder / "clip")
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in asked.texts["input_ids"]]
    assert texts[3:] == ["a photo of a red.", "a photo of a sea grey."]
    assert data.held_out is not None
    examples = [data.held_out.examples[row] for row in range(len(data.held_out))]
    inputs = asked.collate(examples)
    logits = asked.logits(model, inputs)
    finite = torch.isfinite(logits)
    novel = torch.tensor([picture.label in asked.halves[1] for picture in data.held_out.records])
    assert finite[~novel].int().unique(dim=0).tolist() == [[1, 1, 1, 0, 0]]
    assert finite[novel].int().unique(dim=0).tolist() == [[0, 0, 0, 1, 1]]
    only_base = {name: tensor[~novel] for name, tensor in inputs.items()}
    assert torch.allclose(asked.logits(model, only_base), logits[~novel][:, :3], atol=1e-5)
    figures = asked.measure(model, data.held_out, 4)
    right = [asked.predict(logits[row : row + 1], {}, [])[0] == inputs["labels"][row] for row in range(15)]
    base, unseen = sum(right[:9]) / 9, sum(right[9:]) / 6
    assert figures["eval_base"] == pytest.approx(float(base)) and figures["eval_novel"] == pytest.approx(float(unseen))
    assert figures["eval_loss"] > 0


def test_scores_are_shares_of_halves_and_their_harmonic_mean(folder: Path) -> None:
    asked = problem(folder)
    _, processor = asked.load_base(False, "cpu")
    part = asked.load_data(processor).held_out
    assert part is not None
    always = asked.score([0] * 9 + [3] * 6, part)
    assert always == {"base": pytest.approx(1 / 3), "novel": 0.5, "harmonic mean": pytest.approx(0.4)}
    assert asked.score([4] * 15, part) == {"base": 0.0, "novel": 0.5, "harmonic mean": 0.0}


@pytest.mark.slow
def test_a_comparison_asks_the_base_alone_and_what_was_saved(folder: Path, tmp_path: Path) -> None:
    vision = {"method": "zero_init", "target_modules": r".*vision_model\.encoder.*", "prompt_length": 2}
    methods: list[dict[str, Any]] = [
        {"name": "CoCoOp", "adapter": {"method": "cocoop"}, "learning_rates": [0.1]},
        {"name": "MaPLe", "adapter": {"method": "maple", "depth": 2}, "learning_rates": [0.01, 0.1]},
        {"name": "zero-init", "adapter": vision, "learning_rates": [0.1]},
        {"name": "full", "adapter": {"method": "full"}, "learning_rates": [0.001]},
    ]
    whole = settings(folder) | {"methods": methods, "sweep": {"steps": 2, "data": {"held_out": 9, "shots": 2}}}
    whole |= {"train": {"steps": 4, "batch_size": 4, "evaluate_every": 4}, "output": str(tmp_path / "out")}
    file = tmp_path / "comparison.yaml"
    file.write_text(yaml.safe_dump(whole))
    made = compare(load_comparison(file), console=Console(quiet=True))
    rows = {row.method: row for row in made.every_row}
    assert list(rows) == ["", "CoCoOp", "MaPLe", "zero-init", "full"]
    alone = problem(folder)
    model, processor = alone.load_base(False, "cpu")
    part = alone.load_data(processor).held_out
    assert part is not None
    figures = alone.measure(model, part, 32)
    assert rows[""].accuracy["harmonic mean"].mean == figures["eval_harmonic mean"]
    assert list(rows["MaPLe"].accuracy) == ["harmonic mean", "base", "novel"]
    swept = [json.loads(f.read_text()) for f in (tmp_path / "out" / "cells" / "sweep").rglob("result.json")]
    best = max(swept, key=lambda r: (r["accuracy"]["base"], -r["rate"]))
    assert json.loads((tmp_path / "out/cells/MaPLe-seed0/result.json").read_text())["rate"] == best["rate"]
    run = tmp_path / "out" / "cells" / "CoCoOp-seed0" / "run"
    classes = json.loads((run / "last" / "classes.json").read_text())
    assert classes == {"base": ["black", "blue", "green"], "novel": ["red", "sea_grey"], "template": "a photo of a {}."}
    again = load_trained(run / "last", device="cpu").model
    assert alone.measure(again, part, 32)["eval_base"] == rows["CoCoOp"].accuracy["base"].mean


@pytest.mark.parametrize(
    ("adapter", "data", "message"),
    [
        ({}, {"shots": 10}, "data.shots=10, but the class 'black' has 9 pictures"),
        ({}, {"template": "a {} square"}, "does not begin with adapter.context 'a photo of a'"),
        ({"context": "a photo"}, {"template": "a photo of"}, r"has no \{\} for the class's name"),
    ],
)
def test_what_cannot_be_learned_is_said(folder: Path, adapter: dict[str, Any], data: Any, message: str) -> None:
    asked = problem(folder, {"method": "coop"} | adapter, **data)
    with pytest.raises(UserError, match=message):
        asked.load_data(None)
