"""Vision encoders: real transformers models with random weights, their layers by hand, features remembered on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image

from zerogate.errors import UserError
from zerogate.vision import ImageSource, image_features, load_encoder
from zerogate.vision.encoder import evenly

SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
    "image_size": 24, "patch_size": 8,
}  # fmt: skip
SIZE = {"height": 24, "width": 24}


def save(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny random model of a family with its image processor, as a folder."""
    torch.manual_seed(seed)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    processor: Any = tf.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=SIZE)
    model: Any
    if kind == "clip":
        config = tf.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=8)
        model = tf.CLIPModel(config)
    elif kind == "siglip":
        model, processor = tf.SiglipModel(tf.SiglipConfig(vision_config=SMALL, text_config=text)), None
        processor = tf.SiglipImageProcessor(size=SIZE)
    elif kind == "dinov2":
        settings = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
        model = tf.Dinov2Model(tf.Dinov2Config(**settings))
        processor = tf.BitImageProcessor(size={"shortest_edge": 24}, crop_size=SIZE)
    else:
        model, processor = tf.ViTForImageClassification(tf.ViTConfig(**SMALL)), tf.ViTImageProcessor(size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(colour: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def saved_picture(folder: Path, colour: str) -> ImageSource:
    picture(colour).save(folder / f"{colour}.png")
    return ImageSource(f"{colour}.png", folder / f"{colour}.png")


@pytest.mark.parametrize(("kind", "class_token"), [("clip", True), ("siglip", False), ("dinov2", True), ("vit", True)])
def test_features_are_those_of_the_layers(tmp_path: Path, kind: str, class_token: bool) -> None:
    encoder = load_encoder(str(save(tmp_path, kind)), layers=[1, 4], device="cpu")
    assert encoder.channels == 16 and encoder.size == 32
    pictures = [picture("red"), picture("blue", (24, 24)), picture("green", (10, 90))]
    together = encoder.features(pictures, batch_size=2)
    assert together.shape == (3, 32) and together.dtype == torch.float32
    pixels = encoder.processor(images=[pictures[2]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = encoder.model(pixel_values=pixels, output_hidden_states=True).hidden_states
    by_hand = [states[i][0, 0] if class_token else states[i][0].mean(0) for i in (1, 4)]
    torch.testing.assert_close(together[2], torch.cat(by_hand), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_layers_are_spread_up_to_the_last() -> None:
    assert evenly(6, 24) == [4, 8, 12, 16, 20, 24]
    assert evenly(6, 4) == [1, 2, 3, 4]
    assert evenly(1, 12) == [12]


def test_features_are_remembered_by_content_encoder_and_layers(tmp_path: Path) -> None:
    folder, cache = save(tmp_path / "clip", "clip"), tmp_path / "cache"
    encoder = load_encoder(str(folder), layers=2, device="cpu")
    red, blue = saved_picture(tmp_path, "red"), saved_picture(tmp_path, "blue")
    first = image_features([red, blue, red], encoder, cache)
    assert set(first) == {red.digest, blue.digest}

    looked = []
    encoder.features = lambda pictures, batch_size=32: looked.append(len(pictures))  # type: ignore[method-assign,assignment,return-value,misc]
    (tmp_path / "other name.png").write_bytes((tmp_path / "red.png").read_bytes())
    renamed = ImageSource("other name.png", tmp_path / "other name.png")
    again = image_features([renamed, blue], encoder, cache)
    assert not looked and all(torch.equal(again[digest], first[digest]) for digest in again)

    changed = load_encoder(str(save(tmp_path / "other", "clip", seed=1)), layers=2, device="cpu")
    assert changed.identity != encoder.identity
    assert not torch.equal(image_features([red], changed, cache)[red.digest], first[red.digest])
    other_layers = load_encoder(str(folder), layers=[1, 2], device="cpu")
    assert other_layers.identity != encoder.identity
    assert load_encoder(str(folder), layers=2, device="cpu").identity == encoder.identity


def test_what_cannot_be_an_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        load_encoder(str(tmp_path / "no-such"))
    tf.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="it is a gpt2; known are clip_vision_model, dinov2"):
        load_encoder(str(tmp_path / "gpt2"))
    clip = save(tmp_path / "clip", "clip")
    with pytest.raises(UserError, match="it has the hidden states 0 to 4"):
        load_encoder(str(clip), layers=[5])
    (clip / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the vision encoder"):
        load_encoder(str(clip))
