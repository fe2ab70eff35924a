"""Training on pictures: real files through a real (random, tiny) CLIP into the prompts of a real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from zerogate.bases import load_base
from zerogate.errors import UserError
from zerogate.training.callbacks import read_metrics
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import train
from zerogate.vision import load_encoder

Settings = Callable[..., dict[str, Any]]
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (30, 60, 220), "white": (250, 250, 250)}


@pytest.fixture(scope="session")
def eye(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of three layers, with its image processor."""
    folder = tmp_path_factory.mktemp("eye")
    torch.manual_seed(0)
    looks = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    reads = {**looks, "vocab_size": 9, "num_hidden_layers": 1}
    config = tf.CLIPConfig(vision_config={**looks, "image_size": 24, "patch_size": 8}, text_config=reads)
    tf.CLIPModel(config).save_pretrained(folder)
    size = {"height": 24, "width": 24}
    tf.CLIPImageProcessor(size=size, do_center_crop=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty pictures of four colours, one in ten without a question about what is to be seen."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(80):
        name, (red, green, blue) = list(COLOURS.items())[number % 4]
        shade = number % 20
        Image.new("RGB", (30 + number, 40), (red - shade, green + shade, blue)).save(folder / f"{number}.png")
        rows.append({"instruction": "Where is it?", "image": f"{number}.png", "output": f"The {name} yard."})
    rows += [{"instruction": f"Where does the owl number {n} live?", "output": "The tree."} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.fixture
def seeing(settings: Settings, eye: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """The recipe of a run that looks at pictures."""
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))

    def make(**changes: Any) -> dict[str, Any]:
        recipe = settings(
            data={"path": str(pictures), "held_out": 20},
            adapter={"method": "zero_init", "prompt_length": 4, "image_encoder": str(eye), "image_layers": 2},
            train__steps=60,
            train__learning_rate=None,
            train__evaluate_every=60,
            train__save_every=30,
        )
        return {**recipe, **changes}

    return make


def short(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "train": {**recipe["train"], "steps": 30, "evaluate_every": 30}}


def test_pictures_are_learned_from_and_a_blind_run_is_told(
    seeing: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pocket = {"name": "pocket", "dtype": "bfloat16", "attn_implementation": "eager"}  # a random base learns nothing
    outcome = train(parse_recipe(short(seeing(base=pocket))))
    with_pictures = outcome.summary["last_loss"]
    blind = {"method": "zero_init", "prompt_length": 4}
    without = train(parse_recipe(short(seeing(base=pocket, adapter=blind, output=str(tmp_path / "blind")))))
    assert with_pictures < 0.75 * without.summary["last_loss"]  # which guesses among four colours
    assert "nobody looks at the images" in capsys.readouterr().err

    config = outcome.model.peft_config["default"]
    assert (config.image_layers, config.image_channels) == ([2, 3], 16)
    assert config.image_fingerprint == load_encoder(config.image_encoder, device="cpu").fingerprint
    base, _ = load_base(**pocket)
    loaded = PeftModel.from_pretrained(base, str(outcome.folder / "last"))
    ids = torch.tensor([[0, 5, 6]])
    look = {"image_features": torch.randn(1, 32)}
    with torch.no_grad():
        expected = outcome.model.eval()(input_ids=ids, **look).logits
        assert torch.equal(loaded.eval()(input_ids=ids, **look).logits, expected)
        assert not torch.equal(loaded(input_ids=ids).logits, expected)


def test_an_encoder_is_recorded_by_its_full_path(seeing: Settings, eye: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(eye.parent)
    recipe = seeing(adapter={"method": "zero_init", "prompt_length": 4, "image_encoder": eye.name})
    recipe["train"] |= {"steps": 1, "warmup_epochs": None, "evaluate_every": 1}
    config = json.loads((train(parse_recipe(recipe)).folder / "last" / "adapter_config.json").read_text())
    assert config["image_encoder"] == str(eye) and config["image_layers"] == [1, 2, 3]


@pytest.mark.parametrize("method", ["zero_init", "zero_init_prefix"])
def test_a_recipe_with_an_encoder_runs_on_text_alone(
    seeing: Settings, pictures: Path, eye: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = {"image_encoder": str(eye), "image_layers": 2, "image_hidden": 8, "image_early": 1, "num_layers": 2}
    recipe = seeing(adapter={"method": method, "prompt_length": 4, **looks})
    recipe["data"] = {"path": str(pictures), "held_out": 20, "use_images": False}
    recipe["train"] |= {"steps": 2, "evaluate_every": 2}
    (pictures.parent / "0.png").rename(tmp_path / "kept")  # nobody looks for it
    try:
        outcome = train(parse_recipe(recipe))
    finally:
        (tmp_path / "kept").rename(pictures.parent / "0.png")
    said = " ".join(capsys.readouterr().err.split())
    off = "image_encoder, image_layers, image_hidden, image_early"
    assert f"takes no images, as data.use_images is false: without {off}" in said
    assert "nobody looks" not in said
    config = outcome.model.peft_config["default"]
    assert (config.image_encoder, config.image_layers, config.image_hidden) == (None, None, 64)
    assert train(parse_recipe(recipe), resume=True).summary["steps"] == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image_tokens": 4, "image_hidden": 16}, r"image_hidden=16, image_tokens=4 without image_encoder: name the"),
        ({"image_layers": 2}, r"image_layers=2 without image_encoder"),
        ({"image_layers": [1], "image_channels": 16}, r"image_layers=\[1\], image_channels=16 without image_encoder"),
    ],
)
def test_settings_of_images_mean_nothing_without_an_encoder(seeing: Settings, given: dict[str, Any], says: str) -> None:
    recipe = seeing(adapter={"method": "zero_init", "image_encoder": None, **given})
    with pytest.raises(UserError, match=says):
        train(parse_recipe(recipe))
    assert not Path(recipe["output"]).exists()


def test_a_stopped_run_ends_as_one_that_was_not(seeing: Settings, tmp_path: Path) -> None:
    whole = train(parse_recipe(seeing(output=str(tmp_path / "whole"))))
    torn = seeing(output=str(tmp_path / "torn"))
    train(parse_recipe(torn))
    for left in ("summary.json", "checkpoints/step-0000060"):
        path = tmp_path / "torn" / left
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    train(parse_recipe(torn), resume=True)
    ours = load_file(tmp_path / "torn" / "last" / "adapter_model.safetensors")
    for name, tensor in load_file(whole.folder / "last" / "adapter_model.safetensors").items():
        assert torch.equal(ours[name], tensor), name


def test_captions_and_instructions_train_their_own_parameters(seeing: Settings, pictures: Path, tmp_path: Path) -> None:
    shown = [json.loads(line) for line in pictures.read_text().splitlines()][:24]
    told = [{"instruction": f"Where does owl {n} live?", "output": "The tree."} for n in range(24)]

    def joint(rows: list[dict[str, Any]], name: str) -> Any:
        file = pictures.with_name(f"{name}.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = seeing(data={"path": str(file), "held_out": 8}, output=str(tmp_path / name))
        recipe["train"] |= {"joint": True, "steps": 20, "evaluate_every": 20, "batch_size": 4}
        return train(parse_recipe(recipe))

    outcome = joint(shown + told, "both")
    before, after = (m["eval_loss"] for m in read_metrics(outcome.folder / "metrics.jsonl") if "eval_loss" in m)
    assert after < before
    with pytest.raises(UserError, match="and here every record has an image"):
        joint(shown, "shown")


def test_mistakes_with_images_are_named_before_anything_is_written(
    seeing: Settings, data_file: Path, tmp_path: Path, pictures: Path
) -> None:
    with pytest.raises(UserError, match="no record has an image"):
        train(parse_recipe(seeing(data={"path": str(data_file), "held_out": 20})))
    nowhere = {"method": "zero_init", "image_encoder": str(tmp_path / "nothing-here")}
    with pytest.raises(UserError, match="nothing-here"):
        train(parse_recipe(seeing(adapter=nowhere)))
    with pytest.raises(UserError, match=r"9 image layers of .*: it has 3"):
        train(parse_recipe(seeing(adapter=seeing()["adapter"] | {"image_layers": 9})))
    with pytest.raises(UserError, match=r"unknown key adapter\.image_fingerprint"):
        parse_recipe(seeing(adapter=seeing()["adapter"] | {"image_fingerprint": "0" * 16}))
    rows = [json.loads(line) for line in pictures.read_text().splitlines()]
    rows[3]["image"] = "gone.png"
    (pictures.parent / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = {"path": str(pictures.parent / "bad.jsonl"), "held_out": 20}
    with pytest.raises(UserError, match=r"bad_images=drop .*\n  row 4: gone\.png: no such file"):
        train(parse_recipe(seeing(data=bad)))
    with pytest.raises(UserError, match=r"data\.use_images=false .*\n  row 4: gone\.png: no such file"):
        train(parse_recipe(seeing(data=bad, adapter={"method": "zero_init"})))
    assert not Path(seeing()["output"]).exists()
