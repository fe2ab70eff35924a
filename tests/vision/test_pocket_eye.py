"""The vision encoder that ships: it loads as any CLIP, and knows shapes and colours it never saw together before."""

from __future__ import annotations

import random
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from zerogate.vision.encoder import load_encoder
from zerogate.vision.pictures import COLOURS, SHAPES, draw_scene

FOLDER = Path(str(resources.files("zerogate.vision"))) / "pocket_eye"


def test_it_names_shapes_and_colours() -> None:
    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(FOLDER), AutoImageProcessor.from_pretrained(FOLDER)
    rng = random.Random("a test's pictures")
    shown = [draw_scene(rng, most=1) for _ in range(60)]
    captions = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    inputs = processor(images=[one.picture() for one in shown], return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs, **tokenizer(captions, padding=True, return_tensors="pt")).logits_per_image.argmax(-1)
    right = [f"a {one.shapes[0].colour} {one.shapes[0].kind}" for one in shown]
    assert sum(captions[n] == one for n, one in zip(said, right, strict=True)) >= 57


def test_it_is_what_its_card_says() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    model = CLIPModel.from_pretrained(FOLDER)
    eye = sum(parameter.numel() for parameter in model.vision_model.parameters())
    assert f"{model.num_parameters():,}" in card and f"{eye:,}" in card
    assert (FOLDER / "model.safetensors").stat().st_size < 10e6
    encoder = load_encoder("pocket-eye", layers=6)
    assert encoder.channels == 128 and len(encoder.layers) == 6
