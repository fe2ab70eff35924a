"""Which part of a model is its head: what is fresh, trained whole and saved; the rest is as the checkpoint has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image
from rich.console import Console

from zerogate.training.callbacks import read_metrics
from zerogate.training.problems import find_problem
from zerogate.training.problems.base import find_heads, load_model
from zerogate.training.problems.trained import load_trained
from zerogate.training.recipe import BaseSection
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import train

SMALL: dict[str, Any] = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
SEES: dict[str, Any] = dict(**SMALL, image_size=16, patch_size=4)
READS: dict[str, Any] = dict(**SMALL, vocab_size=50, max_position_embeddings=16, bos_token_id=0, eos_token_id=1)


def two_towers(kind: str) -> tf.PreTrainedModel:
    """A tiny CLIP or SigLIP."""
    config = {"clip": tf.CLIPConfig, "siglip": tf.SiglipConfig}[kind]
    return tf.AutoModel.from_config(config(text_config=dict(READS), vision_config=dict(SEES)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def eye(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP or SigLIP, saved with an image processor."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    two_towers(request.param).save_pretrained(folder)
    tf.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("fine_tuned", [False, True], ids=["both towers", "a classifier of three"])
def test_a_classifiers_backbone_is_the_checkpoints(eye: Path, tmp_path: Path, fine_tuned: bool, classes: int) -> None:
    source = eye
    if fine_tuned:
        source = tmp_path / "classifier"
        torch.manual_seed(3)
        tf.AutoModelForImageClassification.from_pretrained(eye, num_labels=3).save_pretrained(source)
    saved = tf.AutoModelForImageClassification.from_pretrained(source, num_labels=classes, ignore_mismatched_sizes=True)
    torch.manual_seed(4)
    model = load_model(
        "AutoModelForImageClassification", BaseSection(name=str(source)), [f"c{n}" for n in range(classes)], "cpu"
    )
    assert find_heads(model) == ["classifier"]
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, dict(saved.named_parameters())[name])
        assert same != (name == "classifier.weight"), name


METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "full": {},
    "zero_init": {"prompt_length": 3, "num_layers": 2},
    "vpt": {"prompt_length": 3},
    "lora": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
    "bitfit": {},
    "seq_bn": {"reduction_factor": 4},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_a_classifier_of_clip_or_siglip(method: str, eye: Path, photos: Path, tmp_path: Path) -> None:
    recipe = parse_recipe({
        "task": "image_classification",
        "base": {"name": str(eye), "device": "cpu"},
        "adapter": {"method": method, **METHODS[method]},
        "data": {"path": str(photos), "split": "train", "held_out": "test"},
        "train": {"steps": 2, "batch_size": 8, "learning_rate": 0.01, "evaluate_every": 2, "save_every": 2},
        "output": str(tmp_path / "run"),
    })  # fmt: skip
    outcome = train(recipe, console=Console(quiet=True))
    trained = {name for name, p in outcome.model.named_parameters() if p.requires_grad}
    if method == "linear":
        assert all(".classifier." in name for name in trained) and len(trained) == 2
    elif method != "full":
        assert not any(name.endswith(("q_proj.weight", "fc1.weight")) for name in trained)
    loaded = load_trained(outcome.folder / "last")
    problem = find_problem(recipe)
    part = problem.load_data(loaded.processor).held_out
    last = [m["eval_loss"] for m in read_metrics(outcome.folder / "metrics.jsonl") if "eval_loss" in m][-1]
    assert problem.measure(loaded.model, part, batch_size=3)["eval_loss"] == pytest.approx(last, abs=1e-5)  # type: ignore[attr-defined]
    red = loaded.processor([Image.new("RGB", (16, 16), "red")], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        own = outcome.model.eval()(pixel_values=red).logits
        assert torch.allclose(loaded.model(pixel_values=red).logits, own, atol=1e-6)


MODERN = tf.ModernBertConfig(**READS, pad_token_id=2, cls_token_id=0, sep_token_id=1)
HEADS: list[tuple[str, tf.PretrainedConfig, list[str]]] = [
    ("TokenClassification", tf.BertConfig(**READS), ["classifier"]),
    ("QuestionAnswering", tf.BertConfig(**READS), ["qa_outputs"]),
    ("TokenClassification", MODERN, ["head", "classifier"]),
    ("QuestionAnswering", tf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4), ["qa_outputs"]),
    ("ImageClassification", tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8]), ["classifier"]),
    ("ImageClassification", tf.HGNetV2Config(), ["fc"]),
    ("ImageClassification", tf.Siglip2Config(), ["classifier"]),
    ("ImageClassification", tf.MetaClip2Config(), ["classifier"]),
]


@pytest.mark.parametrize(("task", "config", "heads"), HEADS, ids=lambda value: str(getattr(value, "model_type", "")))
def test_heads_of_other_families(task: str, config: tf.PretrainedConfig, heads: list[str]) -> None:
    with torch.device("meta"):
        model = getattr(tf, f"AutoModelFor{task}").from_config(config)
    assert find_heads(model) == heads
