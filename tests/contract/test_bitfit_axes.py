"""BitFit where a bias is not added to the last axis: norms with the channels before the picture, or of many axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from zerogate import BitFitConfig

# A picture's sides and its channels are as many after the first layer, so a wrong axis would go unnoticed by its size.
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SMALL: dict[str, Any] = dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])


class Norms(nn.Module):
    """A norm over several axes, and one that says it is channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.many = nn.LayerNorm([4, 6])
        self.last = tf.models.convnext.modeling_convnext.ConvNextLayerNorm(6)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.last(self.many(x)),)


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "convnext": (
        lambda: tf.ConvNextForImageClassification(tf.ConvNextConfig(**SMALL, num_labels=4)),
        {"pixel_values": PIXELS},
    ),
    "convnextv2": (
        lambda: tf.ConvNextV2ForImageClassification(tf.ConvNextV2Config(**SMALL, num_labels=4)),
        {"pixel_values": PIXELS},
    ),
    "dinov3-convnext": (lambda: tf.DINOv3ConvNextModel(tf.DINOv3ConvNextConfig(**SMALL)), {"pixel_values": PIXELS}),
    "norms": (Norms, {"x": PIXELS[:, 0, :24, 0].reshape(3, 4, 6)}),
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def out(name: str, model: nn.Module, **extra: Any) -> Tensor:
    return model(**MODELS[name][1], **extra)[0]  # type: ignore[no-any-return]


def randomised(model: PeftModel, adapter: str = "default", seed: int = 2) -> PeftModel:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith(f".shift.{adapter}"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_the_base_with_other_biases(name: str, tmp_path: Path) -> None:
    plain = make(name)
    base = out(name, plain)
    model = get_peft_model(make(name), BitFitConfig())
    assert torch.equal(out(name, model), base)
    ours = out(name, randomised(model))
    for key, shift in model.named_parameters():
        if ".shift." in key:
            bias = plain.get_parameter(key.removeprefix("base_model.model.").replace("bitfit.shift.default", "bias"))
            bias += shift.view(bias.shape)
    torch.testing.assert_close(ours, out(name, plain), rtol=1e-5, atol=1e-5)
    assert (ours - base).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(make(name), tmp_path)
    assert torch.equal(out(name, back), ours)
    merged = back.merge_and_unload()
    torch.testing.assert_close(out(name, merged), ours, rtol=1e-5, atol=1e-5)
    for key, parameter in merged.named_parameters():
        assert parameter.shape == plain.get_parameter(key).shape


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_rows_with_adapters_of_their_own(name: str) -> None:
    model = randomised(get_peft_model(make(name), BitFitConfig(), adapter_name="one"), "one", 3)
    model.add_adapter("two", BitFitConfig())
    randomised(model, "two", 4)
    rows = []
    for adapter in ("one", "two"):
        model.set_adapter(adapter)
        rows.append(out(name, model))
    mixed = out(name, model, adapter_names=["two", "one", "two"])
    for row, one in enumerate((1, 0, 1)):
        torch.testing.assert_close(mixed[row], rows[one][row], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_norm_that_does_not_say_where_its_channels_are_is_refused() -> None:
    config = tf.SqueezeBertConfig(
        vocab_size=50, hidden_size=32, embedding_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"layernorm \(SqueezeBertLayerNorm\) turns its axes.*exclude_modules=\['lay"):
        get_peft_model(tf.SqueezeBertModel(config), BitFitConfig())
    left_out = get_peft_model(tf.SqueezeBertModel(config), BitFitConfig(exclude_modules=["layernorm"])).eval()
    randomised(left_out)(input_ids=torch.arange(5)[None])
    strange = Norms()
    strange.last.data_format = "channels_anywhere"
    with pytest.raises(ValueError, match=r"last .* has data_format='channels_anywhere'"):
        get_peft_model(strange, BitFitConfig())
