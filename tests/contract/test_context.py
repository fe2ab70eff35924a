"""Learned context in a CLIP (CoOp, CoCoOp, MaPLe) against the same computed by hand, and its way through a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

from zerogate import ContextConfig

WORDS = [3, 4, 5]
COOP: dict[str, Any] = {}
COCOOP = {"conditional": True}
MAPLE = {"coupled": True, "depth": 2}


def base() -> CLIPModel:
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
            "vocab_size": 20, "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 0,
            "pad_token_id": 2}  # fmt: skip
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=32)).eval().requires_grad_(False)


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.tensor([[0, *WORDS, 9, 1, 2], [0, *WORDS, 10, 11, 1], [0, *WORDS, 12, 1, 2]])
    return {"pixel_values": torch.randn(2, 3, 16, 16), "input_ids": ids, "attention_mask": (ids != 2).long()}


def adapted(settings: dict[str, Any], shake: bool = True) -> PeftModel:
    model = get_peft_model(base(), ContextConfig(context_ids=WORDS, context_start=1, **settings))
    if shake:
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.5 * torch.randn_like(parameter)
    return model.eval()


def learned(model: PeftModel, ending: str) -> Tensor:
    return next(p for n, p in model.named_parameters() if n.endswith(ending))


def logits(model: Any, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**given).logits_per_image


def with_words(model: CLIPModel, given: dict[str, Tensor], context_MC: Tensor) -> Tensor:
    """The plain model's logits where the context's tokens mean something else."""
    table = model.text_model.embeddings.token_embedding.weight
    kept = table.data.clone()
    table.data[WORDS] = context_MC
    found = logits(model, given)
    table.data.copy_(kept)
    return found


def test_coop_stands_in_the_place_of_words() -> None:
    given = inputs()
    assert torch.equal(logits(adapted(COOP, shake=False), given), logits(base(), given))
    model = adapted(COOP)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "base_model.model.text_model.embeddings.token_embedding.learned_context.context.default"
    }
    expected = with_words(base(), given, learned(model, "context.default").detach())
    assert torch.allclose(logits(model, given), expected, atol=1e-5)
    assert not torch.allclose(expected, logits(base(), given), atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model, given), logits(base(), given))


def test_cocoop_reads_every_text_for_every_picture() -> None:
    given, model = inputs(), adapted(COCOOP)
    plain = base()
    with torch.no_grad():
        seen = plain.get_image_features(pixel_values=given["pixel_values"]).pooler_output
    down, up = (learned(model, f"meta.default.{n}.weight").detach() for n in (0, 2))
    down_bias, up_bias = (learned(model, f"meta.default.{n}.bias").detach() for n in (0, 2))
    assert down.shape == (2, 32) and up.shape == (8, 2)
    for row in range(2):
        one = given | {"pixel_values": given["pixel_values"][row : row + 1]}
        added = up @ torch.relu(down @ (seen[row] / seen[row].norm()) + down_bias) + up_bias
        expected = with_words(plain, one, learned(model, "context.default").detach() + added)
        assert torch.allclose(logits(model, given)[row : row + 1], expected, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(logits(model, given), logits(plain, given))
    with pytest.raises(ValueError, match="by name"):
        model(given["input_ids"], given["pixel_values"])


def test_maple_prompts_both_encoders() -> None:
    given, model, plain = inputs(), adapted(MAPLE), base()
    contexts = [
        learned(model, "token_embedding.learned_context.context.default"),
        learned(model, "text_model.encoder.layers.1.learned_context.context.default"),
    ]

    def text_layer_1(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0].clone()
        hidden[:, 1:4] = contexts[1]
        return (hidden, *args[1:]), kwargs

    def picture_layer(index: int) -> Any:
        place = f"vision_model.encoder.layers.{index}.learned_context.coupling.default"
        weight, bias = learned(model, f"{place}.weight"), learned(model, f"{place}.bias")

        def before(module: Any, args: Any, kwargs: Any) -> Any:
            prompts = (contexts[index] @ weight.T + bias).expand(2, -1, -1)
            return (torch.cat([args[0][:, :5], prompts], dim=1), *args[1:]), kwargs

        return before

    plain.text_model.encoder.layers[1].register_forward_pre_hook(text_layer_1, with_kwargs=True)
    for index in (0, 1):
        layer = plain.vision_model.encoder.layers[index]
        layer.register_forward_pre_hook(picture_layer(index), with_kwargs=True)
    expected = with_words(plain, given, contexts[0].detach())
    assert torch.allclose(logits(model, given), expected, atol=1e-5)
    with torch.no_grad():
        seen = model.base_model.model.vision_model(pixel_values=given["pixel_values"])
    assert seen.last_hidden_state.shape[1] == 5, "prompts are taken off after the last layer"


@pytest.mark.parametrize("settings", [COOP, COCOOP, MAPLE], ids=["coop", "cocoop", "maple"])
def test_what_is_learned_gets_gradients_and_comes_back_from_a_file(settings: dict[str, Any], tmp_path: Path) -> None:
    given, model = inputs(), adapted(settings)
    model(**given).logits_per_image.softmax(-1)[:, 0].sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad, name
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    assert torch.equal(logits(again, given), logits(model, given))
    assert not any("learned_context" in name for name, _ in again.unload().named_modules())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="context_ids and context_start are not known"):
        get_peft_model(base(), ContextConfig())
    with pytest.raises(ValueError, match="depth=4 is more than the 3 layers"):
        get_peft_model(base(), ContextConfig(context_ids=WORDS, context_start=1, depth=4))
    with pytest.raises(ValueError, match="conditional is for context in the first layer"):
        ContextConfig(conditional=True, coupled=True)
    vit = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match="does not have a text encoder and a vision encoder"):
        get_peft_model(vit, ContextConfig(context_ids=WORDS, context_start=1))
    model = adapted(COOP)
    with pytest.raises(ValueError, match="The text of 3 tokens is shorter"):
        model(**(inputs() | {"input_ids": torch.tensor([[0, 9, 1]]), "attention_mask": None}))
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()
