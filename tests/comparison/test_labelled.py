"""A comparison of methods on pictures, over two data sets: real cells in processes of their own, one joint table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from zerogate.comparison import compare, load_comparison
from zerogate.comparison.recipe import cell_recipe, final_cells, sweep_cells, sweep_figure
from zerogate.comparison.run import report
from zerogate.errors import UserError
from zerogate.training.problems.held_out import read_parts
from zerogate.training.problems.question_answering import split_articles
from zerogate.training.problems.sections import QuestionSection
from zerogate.training.problems.squad_files import read_questions

QUIET = Console(quiet=True)


def write(folder: Path, **change: Any) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "vit")
    for part, count in (("train", 10), ("test", 3)):
        for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
            (folder / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (colour[0] + number, colour[1], colour[2])).save(
                    folder / "photos" / part / name / f"{number}.png"
                )
    photos = str(folder / "photos")
    settings = {
        "task": "image_classification",
        "base": {"name": str(folder / "vit"), "device": "cpu"},
        "data": {"path": photos, "split": "train", "held_out": "test"},
        "datasets": [
            {"name": "all", "group": "both", "data": {}},
            {"name": "few", "group": "both", "data": {"limit": 12}},
        ],
        "train": {"steps": 3, "batch_size": 4, "evaluate_every": 3, "log_every": 1},
        "methods": [
            {"name": "linear", "adapter": {"method": "linear"}, "learning_rates": [0.001, 0.1]},
            {"name": "full", "adapter": {"method": "full"}, "learning_rates": [0.001]},
        ],
        "sweep": {"steps": 2, "data": {"held_out": 4}},
        "output": str(folder / "out"),
    }
    file = folder / "comparison.yaml"
    file.write_text(yaml.safe_dump(settings | change))
    return file


@pytest.mark.slow
def test_methods_on_two_data_sets(tmp_path: Path) -> None:
    file = write(tmp_path)
    made = compare(load_comparison(file), console=QUIET)
    headings, lines = made.table(brief=True)
    assert headings == ["method", "trained parameters", "all", "few", "both (mean)"]
    assert [line[0] for line in lines] == ["linear", "full"]
    out = tmp_path / "out"
    result = json.loads((out / "all" / "cells" / "linear-seed0" / "result.json").read_text())
    assert result["trained_parameters"] == 2 * 16 + 2
    assert result["details"]["accuracy"]["n"] == 6 and result["accuracy"]["accuracy"] in [n / 6 for n in range(7)]
    # What is asked is what was saved, and it says what the run measured.
    summary = json.loads((out / "all" / "cells" / "linear-seed0" / "run" / "summary.json").read_text())
    assert result["accuracy"]["accuracy"] == summary["last"]["accuracy"]
    swept = [json.loads(f.read_text()) for f in (out / "all" / "cells" / "sweep").rglob("result.json")]
    assert len(swept) == 2 and all(r["details"]["accuracy"]["n"] == 4 for r in swept), (
        "rates are chosen on other records"
    )
    assert result["rate"] == max(swept, key=lambda r: (r["accuracy"]["accuracy"], -r["rate"]))["rate"]
    assert set(json.loads((out / "results.json").read_text())) == {"all", "few"}
    assert (out / "table.csv").read_text().startswith("method,trained parameters,all,few")
    # Read again, nothing is trained.
    assert report(load_comparison(file)).table() == (headings, lines)


def test_rates_are_chosen_by_accuracy_or_by_loss(tmp_path: Path) -> None:
    file = write(tmp_path)
    asked = {word: load_comparison(file, [f"sweep.choose_by={word}"]) for word in ("accuracy", "loss")}
    assert sweep_figure(load_comparison(file)) == sweep_figure(asked["accuracy"]) == "accuracy"
    assert sweep_figure(asked["loss"]) is None


def test_what_does_not_fit_is_said_first(tmp_path: Path) -> None:
    wrong = [{"name": "prompts", "adapter": {"method": "prompt_tuning"}, "learning_rates": [0.1]}]
    with pytest.raises(UserError, match=r"method 'prompts': .*for pictures there is vpt"):
        compare(load_comparison(write(tmp_path, methods=wrong)), console=QUIET)
    with pytest.raises(UserError, match="has held-out figures of its own"):
        load_comparison(tmp_path / "comparison.yaml", ["tasks=[{task: exact_match}]"])
    with pytest.raises(UserError, match="two datasets are called 'x'"):
        load_comparison(tmp_path / "comparison.yaml", ["datasets=[{name: x, data: {}}, {name: x, data: {}}]"])
    assert not (tmp_path / "out").exists()


def test_rates_are_chosen_without_the_records_that_are_measured(tmp_path: Path) -> None:
    # Whole articles are held out. With the same seed the sweep's would be the first of the result's own.
    articles = []
    for number in range(12):
        asked = [{"id": f"{number} {n}", "question": f"where {n} ?", "answers": []} for n in range(4)]
        articles.append({"title": str(number), "paragraphs": [{"context": f"fox {number}", "qas": asked}]})
    (tmp_path / "squad.json").write_text(json.dumps({"version": "2.0", "data": articles}))
    method = {"name": "linear", "adapter": {"method": "linear"}, "learning_rates": [0.001, 0.1]}
    file = write(
        tmp_path,
        task="question_answering",
        data={"path": str(tmp_path / "squad.json"), "held_out": 8},
        datasets=[],
        methods=[method],
    )
    comparison = load_comparison(file)
    base, entry = comparison.bases[0], comparison.methods[0]
    sweep = cell_recipe(comparison, sweep_cells(comparison, base, entry)[0])
    final = cell_recipe(comparison, final_cells(comparison, base, entry, 0.1)[0])
    assert isinstance(sweep.data, QuestionSection) and isinstance(final.data, QuestionSection)
    learned, measured = read_parts(sweep.data, read_questions, split_articles)
    _, result = read_parts(final.data, read_questions, split_articles)
    assert len(result) == 8 and len(measured) == 4 and len(learned) == 36
    assert not {one.context for one in result} & {one.context for one in (*learned, *measured)}
