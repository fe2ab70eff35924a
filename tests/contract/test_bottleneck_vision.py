"""Where bottlenecks go by default in encoders of pictures, without the towers and heads that have no part in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from bottleneck_by_hand import layers
from peft import get_peft_model

from zerogate import BottleneckConfig

SMALL: dict[str, Any] = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
SEES: dict[str, Any] = dict(**SMALL, image_size=16, patch_size=8)
READS: dict[str, Any] = dict(**SMALL, vocab_size=50, max_position_embeddings=16, bos_token_id=0, eos_token_id=1)
SEES_AND_READS: dict[str, Any] = dict(vision_config=dict(SEES), text_config=dict(READS))

ENCODERS: dict[str, tuple[type[tf.PreTrainedModel], tf.PretrainedConfig, str]] = {
    "vit": (tf.ViTForImageClassification, tf.ViTConfig(**SEES), "vit.layers.*"),
    "deit": (tf.DeiTForImageClassification, tf.DeiTConfig(**SEES), "deit.layers.*"),
    "beit": (tf.BeitForImageClassification, tf.BeitConfig(**SEES), "beit.layers.*"),
    "vit_msn": (tf.ViTMSNForImageClassification, tf.ViTMSNConfig(**SEES), "vit.layers.*"),
    "dinov2": (tf.Dinov2ForImageClassification, tf.Dinov2Config(**SEES), "dinov2.encoder.layer.*"),
    "dinov2-registers": (
        tf.Dinov2WithRegistersForImageClassification,
        tf.Dinov2WithRegistersConfig(**SEES),
        "dinov2_with_registers.encoder.layer.*",
    ),
    "clip": (tf.CLIPForImageClassification, tf.CLIPConfig(**SEES_AND_READS), "vision_model.encoder.layers.*"),
    "clip whole": (tf.CLIPModel, tf.CLIPConfig(**SEES_AND_READS), "vision_model.encoder.layers.*"),
    "siglip": (tf.SiglipForImageClassification, tf.SiglipConfig(**SEES_AND_READS), "vision_model.encoder.layers.*"),
    "siglip whole": (tf.SiglipModel, tf.SiglipConfig(**SEES_AND_READS), "vision_model.encoder.layers.*"),
    "siglip2": (
        tf.Siglip2ForImageClassification,
        tf.Siglip2Config(
            vision_config=dict(**SMALL, patch_size=8, num_patches=4, hidden_act="gelu"), text_config=dict(READS)
        ),
        "vision_model.encoder.layers.*",
    ),
    "metaclip_2": (
        tf.MetaClip2ForImageClassification,
        tf.MetaClip2Config(**SEES_AND_READS),
        "vision_model.encoder.layers.*",
    ),
}
PLACES: dict[str, tuple[str, ...]] = {
    "seq_bn": ("mlp.fc2",),
    "series_h": ("mlp.fc1", "mlp.fc2"),
    "double_seq_bn": ("attention", "mlp.fc2"),
    "par_bn": ("mlp.fc2",),
    "parallel": ("q_proj", "k_proj", "v_proj"),
}


@pytest.mark.parametrize("preset", PLACES)
@pytest.mark.parametrize("name", ENCODERS)
def test_default_places(name: str, preset: str) -> None:
    kind, config, stack = ENCODERS[name]
    with torch.device("meta"):
        model = kind(config)
    towers = "vision_model" in stack
    attention, out = ("self_attn", "out_proj") if towers else ("attention", "o_proj")
    found = layers(get_peft_model(model, BottleneckConfig(preset=preset)))
    expected = set()
    for place in PLACES[preset]:
        place = f"{attention}.{out}" if place == "attention" else place
        place = f"{attention}.{place}" if place.endswith("_proj") and "." not in place else place
        expected |= {f"{stack.replace('*', str(index))}.{place}" for index in range(2)}
    assert {where for where, _ in found} == expected
    if preset == "par_bn":
        assert {(where, layer.sources["default"]) for where, layer in found} == {
            (where, where.replace("fc2", "fc1")) for where in expected
        }
