"""Texts of classes: each reads the same beside any others, also where the encoder looks at the last position."""

from __future__ import annotations

import json
import string
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)

from zerogate.errors import UserError
from zerogate.inference.predict import Predictor
from zerogate.training.context import fit_context, load_text_tokenizer, tokenise
from zerogate.training.problems.base import load_image_processor
from zerogate.training.problems.base_to_novel import BaseToNovel
from zerogate.training.problems.trained import Trained

SHORT, LONG = "a photo of a red circle.", "a photo of a blue square with a very long name indeed."
LENGTH = 64
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
}


@pytest.fixture(scope="module", params=list(KINDS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of pictures and texts with a tokenizer of words that gives a mask."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "siglip2":  # transformers makes a tokenizer of this class whatever was saved: here, of letters
        letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", ".", *string.ascii_lowercase]
        Siglip2Tokenizer({letter: number for number, letter in enumerate(letters)}, []).save_pretrained(folder)
    else:
        words = sorted({word for text in (SHORT, LONG) for word in text.replace(".", " .").split()})
        pieces = {piece: number for number, piece in enumerate(["<pad>", "</s>", "<unk>", *words])}
        made = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    text = {**SIZES, "vocab_size": 40, "max_position_embeddings": LENGTH, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**SIZES, "image_size": 8, "patch_size": 4, "num_patches": 4}
    config, model = KINDS[request.param]
    torch.manual_seed(0)
    more = {"projection_dim": 8} if request.param == "clip" else {}
    model(config(text_config=text, vision_config=vision, **more)).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    return folder


def features(base: Path, texts: list[str]) -> Tensor:
    model = AutoModel.from_pretrained(base).eval()
    with torch.no_grad():
        found: Tensor = model.get_text_features(**tokenise(load_text_tokenizer(str(base)), texts)).pooler_output
    return found


def test_a_text_reads_the_same_alone_and_beside_a_longer_one(base: Path) -> None:
    alone, beside = features(base, [SHORT])[0], features(base, [SHORT, LONG])[0]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-6)
    assert not torch.allclose(features(base, [LONG])[0], alone, atol=1e-3)


def test_how_texts_are_padded(base: Path) -> None:
    read = tokenise(load_text_tokenizer(str(base)), [SHORT, LONG])
    if base.name.startswith("clip"):
        assert set(read) == {"input_ids", "attention_mask"} and read["input_ids"].shape == (2, 13 + 1)
        assert read["input_ids"][1, -1] == 1 and read["attention_mask"].sum(1).tolist() == [8, 14]
    else:
        assert set(read) == {"input_ids"} and read["input_ids"].shape == (2, LENGTH)
        tokenizer = AutoTokenizer.from_pretrained(base)
        for row, text in zip(read["input_ids"].tolist(), (SHORT, LONG), strict=True):
            ids = tokenizer(text)["input_ids"]
            assert row == [*ids, *[tokenizer.pad_token_id] * (LENGTH - len(ids))]


def test_a_text_that_is_too_long_is_named(base: Path) -> None:
    if base.name.startswith("clip"):
        pytest.skip("its texts are not padded to what it reads")
    with pytest.raises(UserError, match=r"the text 'a a a .* a' has \d+ tokens and the base reads 64; shorten it"):
        tokenise(load_text_tokenizer(str(base)), [SHORT, "a " * 64 + "a"])


def test_a_context_finds_its_words(base: Path) -> None:
    config = SimpleNamespace(context="a photo of a", context_ids=None, context_start=None)
    fit_context(config, str(base))
    tokenizer = load_text_tokenizer(str(base)).tokenizer
    assert config.context_ids == tokenizer("a photo of a")["input_ids"] and config.context_start == 0


def test_a_class_scores_the_same_whatever_the_others_are_called(base: Path, tmp_path: Path) -> None:
    if base.name.startswith("siglip2"):
        pytest.skip("its vision encoder takes patches, not pictures")
    (tmp_path / "classes.json").write_text(json.dumps({"base": [], "novel": [], "template": "a photo of a {}."}))
    Image.new("RGB", (8, 8), (200, 20, 20)).save(tmp_path / "red.png")
    model = AutoModel.from_pretrained(base).eval()
    trained = Trained(model, load_image_processor(str(base)), BaseToNovel, tmp_path, str(base))
    ratios = []
    for third in ("name", "blue square with a very long name"):
        predictor = Predictor(trained, top=3, classes=["red circle", "blue circle", third])
        (row,) = predictor([{"image": str(tmp_path / "red.png")}])
        scores = dict(row["top"])
        ratios.append(scores["red circle"] / scores["blue circle"])
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-4)
