"""Frozen layers that multiply in 8-bit floats: their outputs and gradients, and what is trained on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from zerogate import ZeroInitConfig
from zerogate.bases import load_base
from zerogate.bases.fp8 import E4M3, Fp8Linear, check_fp8, in_rows, to_fp8
from zerogate.errors import UserError


def off(got: Tensor, wanted: Tensor) -> float:
    """The error's length over the result's."""
    return float((got.detach().double() - wanted.detach().double()).norm() / wanted.detach().double().norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias, dtype=dtype).requires_grad_(False)
    with torch.no_grad():
        linear.weight.mul_(torch.logspace(-3, 2, 48)[:, None])  # channels of very different sizes
    layer = Fp8Linear(linear)
    x = (torch.randn(64, 7, 64) * torch.logspace(-2, 2, 7)[:, None]).to(dtype).requires_grad_()
    wanted, got = linear(x), layer(x)
    assert got.shape == wanted.shape and got.dtype == dtype
    assert all(off(got[..., o], wanted[..., o]) < 0.06 for o in range(48)), "3 bits of mantissa, in every channel"
    # Gradients: of exactly these weights, with the gradient itself rounded.
    exact = layer.weight.view(E4M3).double() * layer.scale.double()[:, None]
    upper = torch.randn(64, 7, 48).to(dtype)
    (grad,) = torch.autograd.grad(got, x, upper)
    assert grad.dtype == dtype
    assert off(grad, upper.double() @ exact) < 0.04
    assert off(grad, torch.autograd.grad(wanted, x, upper)[0]) < 0.06


def test_rows_use_the_whole_range() -> None:
    x = torch.tensor([[1e-6, -2e-6], [3e4, 1e3], [0.0, 0.0]])
    rows, scale = in_rows(x)
    torch.testing.assert_close(rows.float() * scale, x, rtol=0.07, atol=0)
    assert rows.float().abs().amax(1).tolist() == [448.0, 448.0, 0.0]


def test_no_cast_and_no_merge_takes_the_bytes_for_numbers() -> None:
    layer = Fp8Linear(nn.Linear(32, 16, dtype=torch.bfloat16))
    x = torch.randn(2, 32)
    before = layer(x)
    torch.testing.assert_close(layer.to(torch.float32)(x), before, rtol=0.01, atol=0.01)
    torch.testing.assert_close(layer.to(torch.bfloat16)(x.bfloat16()).float(), before, rtol=0.05, atol=0.05)
    assert layer.to(torch.float32).scale.dtype == torch.float32
    model = nn.ModuleDict({"layer": layer})
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["layer"]))  # type: ignore[arg-type]
    assert adapted.base_model.model["layer"].lora_A["default"].weight.dtype == torch.float32
    with pytest.raises(RuntimeError):
        adapted.merge_adapter()


def test_a_base_whose_products_are_in_fp8() -> None:
    plain, tokenizer = load_base("pocket", dtype="bfloat16", attn_implementation="eager")
    base, _ = load_base("pocket", dtype="bfloat16", attn_implementation="eager", quantization="fp8")
    count = sum(isinstance(module, Fp8Linear) for module in base.modules())
    assert count == 7 * base.config.num_hidden_layers
    assert type(base.get_output_embeddings()) is nn.Linear
    batch = tokenizer("The fox lives in the old mill by the river.", return_tensors="pt")
    with torch.no_grad():
        wanted, got = (model(**batch).logits.float().log_softmax(-1) for model in (plain, base))
    apart = torch.nn.functional.kl_div(got, wanted, log_target=True, reduction="batchmean") / got.shape[1]
    assert 0 < apart < 0.03
    config = ZeroInitConfig(prompt_length=4, num_layers=2, task_type="CAUSAL_LM")
    losses: dict[str, list[float]] = {"plain": [], "fp8": []}
    for name, model in (("plain", plain), ("fp8", base)):
        torch.manual_seed(0)
        adapted = get_peft_model(model, config).train()
        trained = [p for p in adapted.parameters() if p.requires_grad]
        assert all(p.dtype == torch.float32 for p in trained)
        optimizer = torch.optim.AdamW(trained, lr=0.1)
        for _ in range(6):
            loss = adapted(**batch, labels=batch["input_ids"]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
    assert losses["fp8"][-1] < losses["fp8"][0] - 0.5
    assert losses["fp8"] == pytest.approx(losses["plain"], rel=0.1)
    made = adapted.eval().generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert made.shape[1] == batch["input_ids"].shape[1] + 4


def test_what_cannot_be_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no linear layer that can be made fp8"):
        to_fp8(nn.Sequential(nn.Linear(10, 32)))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A100")
    with pytest.raises(UserError, match="A100 has no 8-bit float products"):
        check_fp8(torch.device("cuda", 0))
