"""Tiny real adapters that see: a random CLIP saved as a folder, and zero-init adapters of it with random projectors."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tiny_base import make_adapter
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from zerogate import ZeroInitConfig

CHANNELS = 16


def make_eye(folder: Path, seed: int = 0) -> Path:
    """Save a random CLIP of four layers with its image processor; returns the folder."""
    torch.manual_seed(seed)
    vision = {"hidden_size": CHANNELS, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
              "image_size": 24, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(folder)
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(folder)
    return folder


def make_seeing_adapter(
    folder: Path, base: Path, eye: Path, seed: int = 1, layers: tuple[int, ...] = (2, 4), hidden: int = 5
) -> Path:
    """Save an adapter of `base` that looks with `eye`, every trained number random; returns the folder."""
    config = ZeroInitConfig(
        prompt_length=4,
        num_layers=3,
        task_type="CAUSAL_LM",
        gate_scale=4.0,  # gates wide open, so that images visibly change what is said
        image_layers=list(layers),
        image_channels=CHANNELS,
        image_hidden=hidden,
        image_encoder=str(eye),
    )
    return make_adapter(folder, base, seed, config)


def make_picture(file: Path, colour: str) -> Path:
    """Save a picture with a shape in it; returns the file."""
    image = Image.new("RGB", (40, 30), "white")
    ImageDraw.Draw(image).rectangle((8, 4, 30, 24), fill=colour)
    image.save(file)
    return file
