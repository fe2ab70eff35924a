"""The gated half of equation 7 in all its forms, against the formula in fp64; and the sum with the text's own half."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from zerogate.adapters.attention import add, for_one_token, for_tokens, prompt_attention

ERRORS = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
SHAPES = list(
    itertools.product([(1, 1), (3, 1), (2, 7)], [(4, 4), (4, 2)], ["shared", "by row", "masked"], [None, 5.0])
)


def formula(q: Tensor, k: Tensor, v: Tensor, scaling: float, softcap: float | None, mask: Tensor | None) -> Tensor:
    """Written with one loop per row and head, in fp64: [B, T, H, D]."""
    B, H, T, D = q.shape
    out = torch.zeros(B, T, H, D, dtype=torch.float64)
    for b, h in itertools.product(range(B), range(H)):
        keys, values = (k[b], v[b]) if k.dim() == 4 else (k, v)
        scores = q[b, h].double() @ keys[h * keys.shape[0] // H].double().T * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores + mask[b].double()
        out[b, :, h] = scores.softmax(-1) @ values[h].double()
    return out


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_every_form_equals_the_formula(dtype: torch.dtype, grad: bool) -> None:
    torch.manual_seed(0)
    for (B, T), (H, G), keys, softcap in SHAPES:
        K, D = 5, 16
        rows = () if keys == "shared" else (B,)
        q = torch.randn(B, T, H, D).transpose(1, 2).to(dtype).requires_grad_(grad)
        k, v = torch.randn(*rows, G, K, D).to(dtype), torch.randn(*rows, H, K, D).to(dtype).requires_grad_(grad)
        mask = torch.zeros(B, K).masked_fill(torch.arange(K) > 2, -torch.inf) if keys == "masked" else None
        wanted = formula(q, k, v, 0.3, softcap, mask)
        with torch.set_grad_enabled(grad):
            for own in ((k, v), for_tokens(q, k, v)):
                got = prompt_attention(q, *own, 0.3, softcap, mask)
                assert got.dtype in (dtype, own[1].dtype)
                torch.testing.assert_close(got.double(), wanted, rtol=0, atol=ERRORS[dtype] * wanted.abs().max().item())


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
@pytest.mark.parametrize("B", [1, 3, 8, 17])
@torch.no_grad()
def test_what_is_settled_for_one_token_equals_the_formula_for_the_next(dtype: torch.dtype, B: int) -> None:
    torch.manual_seed(0)
    K, D = 5, 16
    for (H, G), keys in itertools.product([(4, 4), (4, 2)], ["shared", "by row", "masked"]):
        rows = () if keys == "shared" else (B,)
        k, v = torch.randn(*rows, G, K, D).to(dtype), torch.randn(*rows, H, K, D).to(dtype)
        mask = torch.zeros(B, K).masked_fill(torch.arange(K) > 2, -torch.inf) if keys == "masked" else None
        first, *more = torch.randn(3, B, 1, H, D).transpose(2, 3).to(dtype)
        add_to = for_one_token(first, k, v, mask, 0.3)
        for q in more:
            text = torch.randn(B, 1, H, D, dtype=dtype)
            wanted = text.double() + formula(q, k, v, 0.3, None, mask)
            got = add_to(text, q)
            assert got is text
            torch.testing.assert_close(got.double(), wanted, rtol=0, atol=ERRORS[dtype] * wanted.abs().max().item())


@pytest.mark.parametrize("dtype", ERRORS, ids=str)
def test_the_sum_keeps_the_texts_dtype_and_never_touches_what_a_graph_needs(dtype: torch.dtype) -> None:
    text, extra = torch.randn(2, 1, 4, 8, dtype=dtype), torch.randn(2, 1, 4, 8)
    wanted = (text.double() + extra.double()).to(dtype)
    before = text.clone()
    with torch.enable_grad():
        torch.testing.assert_close(add(text, extra), (text + extra.to(dtype)))
    assert torch.equal(text, before)
    with torch.no_grad():
        total = add(text, extra)
    assert total is text and total.dtype == dtype
    torch.testing.assert_close(total, wanted)
