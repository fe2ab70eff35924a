"""Vision encoders: real transformers models with random weights, their layers by hand, features remembered on disk."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image

from zerogate.errors import UserError
from zerogate.vision import ImageSource, features, image_features, load_encoder, open_image
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
    elif kind == "siglip2":
        settings = {key: value for key, value in SMALL.items() if key != "image_size"}
        model = tf.Siglip2VisionModel(tf.Siglip2VisionConfig(**settings, num_patches=16))
        processor = tf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
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


def test_siglip2_looks_at_the_patches_there_are(tmp_path: Path) -> None:
    """A picture has as many patches as its shape allows; the rest of its places are padding, and part of no mean."""
    encoder = load_encoder(str(save(tmp_path, "siglip2")), layers=[1, 4], device="cpu")
    pictures = [picture("red"), picture("blue", (90, 10)), picture("green", (24, 24))]
    together = encoder.features(pictures, batch_size=2)
    padded = 0
    for one, found in zip(pictures, together, strict=True):
        pixels = encoder.processor(images=[one], return_tensors="pt")
        there = int(pixels["pixel_attention_mask"].sum())
        padded += there < 16
        with torch.no_grad():
            states = encoder.model(**pixels, output_hidden_states=True).hidden_states
        by_hand = torch.cat([states[layer][0, :there].mean(0) for layer in (1, 4)])
        torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)
    assert padded, "pictures without padding show nothing here"


def test_layers_are_spread_up_to_the_last() -> None:
    assert evenly(6, 24) == [4, 8, 12, 16, 20, 24]
    assert evenly(6, 4) == [1, 2, 3, 4]
    assert evenly(1, 12) == [12]


def test_more_layers_than_there_are_have_to_be_asked_for_otherwise(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "clip"))
    with pytest.raises(UserError, match=r"9 image layers of .*: it has 4; ask for at most so many"):
        load_encoder(folder, layers=9)
    assert load_encoder(folder, device="cpu").layers == [1, 2, 3, 4], "the paper's six, where nothing is asked for"


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_a_fingerprint_is_of_the_weights_alone(tmp_path: Path, kind: str) -> None:
    """A ViT's checkpoint lacks the pooler, which is then random in each load."""
    folder = save(tmp_path / "one", kind)
    encoder = load_encoder(str(folder), layers=2, device="cpu")
    other_layers = load_encoder(str(folder), layers=[1], device="cpu")
    assert encoder.fingerprint == other_layers.fingerprint and encoder.identity != other_layers.identity
    assert load_encoder(str(folder), layers=2, device="cpu").identity == encoder.identity
    assert load_encoder(str(save(tmp_path / "two", kind, seed=1)), device="cpu").fingerprint != encoder.fingerprint

    halves = load_encoder(str(folder), layers=2, device="cpu")
    halves.model.to(torch.bfloat16)
    halves.model.save_pretrained(tmp_path / "half")
    encoder.processor.save_pretrained(tmp_path / "half")
    saved = load_encoder(str(tmp_path / "half"), layers=2, device="cpu")  # loads it as fp32
    assert next(saved.model.parameters()).dtype == torch.float32
    assert saved.fingerprint == halves.fingerprint != encoder.fingerprint

    almost = load_encoder(str(folder), layers=2, device="cpu")
    with torch.no_grad():
        next(p for p in almost.model.parameters() if p.dim() == 2)[-1, -1] += 1e-3
    assert almost.fingerprint != encoder.fingerprint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_fingerprint_is_the_same_on_a_gpu(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "clip"))
    there, here = (load_encoder(folder, device=device) for device in ("cuda", "cpu"))
    assert there.fingerprint == here.fingerprint and there.identity == here.identity


def test_large_pictures_are_not_all_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is of 1,200 pixels and there is room for three; what is seen is the same as of all at once."""
    encoder = load_encoder(str(save(tmp_path / "clip", "clip")), layers=2, device="cpu")
    sources = []
    for number in range(8):
        Image.new("RGB", (40, 30), (number * 30, 9, 9)).save(tmp_path / f"{number}.png")
        sources.append(ImageSource(f"{number}.png", tmp_path / f"{number}.png"))
    expected = encoder.features([open_image(source) for source in sources])
    opened: list[weakref.ref[Image.Image]] = []
    most = 0

    def counted(source: ImageSource) -> Image.Image:
        nonlocal most
        image = open_image(source)
        opened.append(weakref.ref(image))
        most = max(most, sum(one() is not None for one in opened))
        return image

    monkeypatch.setattr(features, "open_image", counted)
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 3 * 1200)
    found = image_features(sources, encoder, tmp_path / "cache")
    assert all(torch.equal(found[source.digest], row) for source, row in zip(sources, expected, strict=True))
    assert most <= 4, "three of a group, and the last of the one before"


def test_a_picture_larger_than_the_room_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []
    for number, width in enumerate([10, 90, 10, 10, 10]):
        picture("red", (width, 10)).save(tmp_path / f"{number}.png")
        sources.append(ImageSource(f"{number}.png", tmp_path / f"{number}.png"))
    monkeypatch.setattr(features, "_PIXELS_AT_ONCE", 200)
    grouped = [[int(source.name[0]) for source in group] for group in features._groups(sources)]
    assert grouped == [[0], [1], [2, 3], [4]]


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
    assert load_encoder(str(clip), device="cpu").name == str(clip)
    (clip / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load the vision encoder"):
        load_encoder(str(clip))


@pytest.mark.parametrize("name", ["eye", "here/eye", "./eye", "../eye", "~/no-eye", "/no/eye", "here/there/eye"])
def test_a_folder_that_is_not_here_is_said_to_be_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot load the vision encoder .*no such folder here") as caught:
        load_encoder(name)
    assert "huggingface.co" not in str(caught.value) and "base" not in str(caught.value)


def test_a_hub_id_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such folder here \(.*/nobody/no-eye\), and from the Hub it cannot "):
        load_encoder("nobody/no-eye")
    with pytest.raises(UserError, match="no such user's folder"):
        load_encoder("~nobody-of-that-name/eye")


def test_an_encoder_knows_its_full_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "eye", "clip")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("eye", device="cpu").name == str(tmp_path / "eye")
    assert load_encoder("pocket-eye", device="cpu").name == "pocket-eye"
