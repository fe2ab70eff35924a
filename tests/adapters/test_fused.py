"""The fused prompt attention as an operator of torch, on the CPU by its plain reference.

Its Triton kernels are the matter of `test_fused_kernels.py`; whole models run through it in `contract`.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from zerogate.adapters import fused, fused_choice
from zerogate.adapters.attention import prompt_attention


def example(
    dtype: torch.dtype, *, G: int = 2, per_row: bool = False, masked: bool = False, softcap: float | None = None
) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Text's output, queries, keys and values; mask, scaling and softcap."""
    B, T, H, K, D = 2, 5, 4, 3, 6
    rows = [B] if per_row else []
    q_BHTD = torch.randn(B, T, H, D, dtype=dtype).transpose(1, 2)
    mask_BK = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]])
    tensors = [torch.randn(B, T, H, D, dtype=dtype), q_BHTD]
    tensors += [torch.randn(*rows, n, K, D, dtype=dtype) for n in (G, H)]
    return tensors, (mask_BK if masked else None, 0.4, softcap)


KINDS = [{}, {"G": 1}, {"G": 4, "softcap": 2.0}, {"per_row": True, "masked": True}, {"masked": True, "softcap": 2.0}]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_the_sum_that_torch_computes_in_passes(kind: dict[str, Any], dtype: torch.dtype) -> None:
    (out, q, k, v), (mask, scaling, softcap) = example(dtype, **kind)
    apart = out + prompt_attention(q, k, v, scaling, softcap, mask)
    for together in (fused.add_prompt_attention, torch.ops.zerogate.add_prompt_attention):
        ours = together(out, q, k, v, mask, scaling, softcap)
        assert ours.dtype == apart.dtype and ours.is_contiguous()
        near = {
            torch.float64: 1e-12 if softcap is None else 1e-6,
            torch.float32: 1e-5,
            torch.bfloat16: 3e-2,
            torch.float16: 4e-3,
        }[dtype]
        torch.testing.assert_close(ours, apart, rtol=near, atol=near)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_equal_finite_differences_in_float64(kind: dict[str, Any]) -> None:
    tensors, how = example(torch.float64, **kind)
    leaves = [x.detach().requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(lambda *x: fused.add_prompt_attention(*x, *how), leaves)


@pytest.mark.parametrize("needed", [[0], [1], [2], [3], [0, 3], [1, 2]], ids=str)
def test_only_gradients_that_are_needed_are_computed(needed: list[int]) -> None:
    tensors, how = example(torch.float64)
    leaves = [x.detach().requires_grad_(i in needed) for i, x in enumerate(tensors)]
    grad = torch.randn(leaves[0].shape, dtype=torch.float64)
    asked = [leaves[i] for i in needed]
    made = torch.autograd.grad(fused.add_prompt_attention(*leaves, *how), asked, grad)
    apart = leaves[0] + prompt_attention(*leaves[1:], how[1])
    for ours, expected in zip(made, torch.autograd.grad(apart, asked, grad), strict=True):
        torch.testing.assert_close(ours, expected)
    if 0 in needed:
        assert made[0].data_ptr() == grad.data_ptr()  # not a copy


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]], ids=str)
def test_torch_finds_nothing_amiss(kind: dict[str, Any]) -> None:
    """`opcheck`: schema, fake implementation, autograd, and both under tracing with dynamic shapes."""
    tensors, how = example(torch.float32, **kind)
    torch.library.opcheck(torch.ops.zerogate.add_prompt_attention, (*tensors, *how))
    leaves = [x.detach().requires_grad_() for x in tensors]
    torch.library.opcheck(torch.ops.zerogate.add_prompt_attention, (*leaves, *how))
    for needs in ([True, True, True], [False, False, True]):
        torch.library.opcheck(torch.ops.zerogate.add_prompt_attention_backward, (*tensors, *how, needs))


def test_fakes_have_the_dtypes_and_strides_of_the_real_ones() -> None:
    tensors, how = example(torch.bfloat16)
    tensors[0], tensors[1] = tensors[0].transpose(0, 2).contiguous().transpose(0, 2), tensors[1].float()
    ours = fused.add_prompt_attention(*tensors, *how)
    grads = torch.ops.zerogate.add_prompt_attention_backward(*tensors, *how, [True] * 3)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in tensors]
        fake = fused.add_prompt_attention(*fakes, *how)
        fake_grads = torch.ops.zerogate.add_prompt_attention_backward(*fakes, *how, [True] * 3)
    for x, y in zip([ours, *grads], [fake, *fake_grads], strict=True):
        assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride())


@pytest.mark.parametrize("q_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_are_those_of_torchs_own_operations(
    autocast: bool, q_dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    (out, q, k, v), (_, scaling, _) = example(q_dtype)
    out = out.to(out_dtype)
    leaves = [x.detach().requires_grad_() for x in (out, q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        apart = leaves[0] + prompt_attention(*leaves[1:], scaling)
        ours = fused.add_prompt_attention(*leaves, None, scaling)
    assert ours.dtype == apart.dtype
    grad = torch.randn_like(ours)
    near = 1e-5 if torch.bfloat16 not in (out_dtype, q_dtype) and not autocast else 5e-2
    torch.testing.assert_close(ours, apart, rtol=near, atol=near)
    for x, y in zip(torch.autograd.grad(ours, leaves, grad), torch.autograd.grad(apart, leaves, grad), strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=near, atol=near)


def test_compiled_under_autocast_it_is_one_operation() -> None:
    tensors, how = example(torch.float32)
    leaves = [x.detach().requires_grad_() for x in tensors]

    def run(f: Any) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = f(*leaves, *how)
        return [out.detach(), *torch.autograd.grad(out.float().pow(2).sum(), leaves)]

    torch._dynamo.reset()
    compiled = torch.compile(fused.add_prompt_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for x, y in zip(run(compiled), run(fused.add_prompt_attention), strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y)
    torch._dynamo.reset()


# --- where it is chosen, and where it does not work ---------------------------------------------------------


def test_it_is_chosen_by_device_dtype_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(dtype: torch.dtype = torch.float32, K: int = 10, D: int = 64, wide: int = 64, heads: int = 4) -> bool:
        q = torch.empty(2, 4, 3, D, dtype=dtype)
        out, k, v = q.new_empty(2, 3, heads, wide), q.new_empty(2, K, D), q.new_empty(4, K, wide)
        return fused_choice.serves(out, q, k, v, None)

    assert not chosen()  # a CPU
    monkeypatch.setattr(fused_choice, "DEVICES", {"cpu"})
    monkeypatch.setattr(fused_choice, "_works", lambda *kind: True)
    assert chosen() and chosen(K=30, D=128, wide=128) and chosen(K=16, D=256, wide=256)
    assert chosen(torch.bfloat16, K=128, D=128, wide=128) and chosen(torch.float16, K=64, D=256, wide=256)
    assert not chosen(torch.float64) and not chosen(K=129) and not chosen(K=128, D=128, wide=128)
    assert not chosen(torch.bfloat16, K=128, D=256, wide=256)
    assert not chosen(wide=32) and not chosen(heads=2)


def test_without_triton_nothing_is_tried_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "zerogate.adapters.fused_kernels", raising=False)
    fused.kernels_for.cache_clear()
    assert fused.kernels_for("cuda") is None
    assert not fused_choice._tried.__wrapped__(
        torch.device("cuda:0"), torch.float32, torch.float32, 1, 10, 64, False, False
    )
    fused.kernels_for.cache_clear()


def test_a_trial_draws_no_random_numbers() -> None:
    state = torch.get_rng_state()
    assert fused_choice._tried.__wrapped__(torch.device("cpu"), torch.float32, torch.float32, 2, 10, 16, True, True)
    assert torch.equal(torch.get_rng_state(), state)
