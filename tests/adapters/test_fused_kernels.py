"""The Triton kernels of the fused prompt attention against the reference in fp64: every value of each dimension, with
every value of each other.

On a GPU they run there; without one in Triton's interpreter, which must be asked for before Triton is imported:

    TRITON_INTERPRET=1 pytest tests/adapters/test_fused_kernels.py

They need Triton, which comes with torch for GPUs; where it is absent they are skipped.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU: set TRITON_INTERPRET=1 for Triton's interpreter", allow_module_level=True)

from zerogate.adapters import fused, fused_choice, fused_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VALUES: dict[str, tuple[Any, ...]] = {
    "size": ((1, 1), (2, 7), (3, 33)),
    "heads": ((4, 4), (4, 2), (8, 1)),
    "prompts": (1, 10, 16, 30),
    "width": (16, 64, 80, 128),
    "dtype": (torch.float32, torch.bfloat16, torch.float16),
    "per_row": (False, True),
    "masked": (False, True),
    "softcap": (None, 5.0),
}
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3}  # of the largest number of a result


def every_pair() -> list[dict[str, Any]]:
    """A few of the 2304 combinations, in which each two values of two dimensions meet: greedily, always the same."""
    combinations = [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]

    def pairs(case: dict[str, Any]) -> set[Any]:
        return set(itertools.combinations(case.items(), 2))

    left, chosen = set().union(*map(pairs, combinations)), []
    while left:
        chosen.append(max(combinations, key=lambda case: len(pairs(case) & left)))
        left -= pairs(chosen[-1])
    return chosen


def name_of(case: dict[str, Any]) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values()).replace(" ", "")


def example(case: dict[str, Any]) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Gradient, text's output, queries, keys and values, and mask, scaling and softcap."""
    random = torch.Generator().manual_seed(1)
    (B, T), (H, G), K, D = (case[name] for name in ("size", "heads", "prompts", "width"))

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(DEVICE, case["dtype"])

    q_BHTD = draw(B, T, H, D + 8)[..., :D].transpose(1, 2)  # as out of a fused projection
    rows = [B] if case["per_row"] else []
    k, v = draw(*rows, G, K, D), draw(*rows, H, K, D)
    mask_BK = torch.zeros(B, K, device=DEVICE)
    for row in range(B):
        mask_BK[row, max(1, K - 2 * row) :] = -torch.inf
    how = (mask_BK if case["masked"] else None, D**-0.5, case["softcap"])
    return [draw(B, H, T, D).transpose(1, 2), draw(B, T, H, D), q_BHTD, k, v], how


def exactly(tensors: list[Tensor], how: tuple[Any, ...], needs: list[bool]) -> list[Tensor]:
    grad, out, *rest = (x.double() for x in tensors)
    return [fused.reference(out, *rest, *how), *fused.reference_backward(grad, *rest, *how, needs)]


def assert_close(ours: list[Tensor], exact: list[Tensor], dtype: torch.dtype) -> None:
    assert len(ours) == len(exact)
    for x, y in zip(ours, exact, strict=True):
        assert x.shape == y.shape and x.dtype == dtype
        assert float((x - y).abs().max()) <= ROUNDING[dtype] * float(y.abs().max()), (x.shape, y.abs().max())


CASES = every_pair()


def test_each_two_values_meet() -> None:
    met = {pair for case in CASES for pair in itertools.combinations(case.values(), 2)}
    for one, other in itertools.combinations(VALUES.values(), 2):
        assert all(pair in met for pair in itertools.product(one, other))
    assert len(CASES) < 40


@pytest.fixture(autouse=True)
def _dots_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies bfloat16 matrices as the 16-bit integers in which it keeps them: give it fp32."""
    if DEVICE == "cuda":
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot = InterpreterBuilder.create_dot

    def wide(x: Any) -> Any:
        bfloat16 = x.dtype.scalar == tl.bfloat16
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32) if bfloat16 else x

    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, wide(a), wide(b), *rest))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_shape_and_dtype(case: dict[str, Any]) -> None:
    tensors, how = example(case)
    grad, out, *rest = tensors
    ours = [fused_kernels.forward(out, *rest, *how), *fused_kernels.backward(grad, *rest, *how, [True] * 3)]
    assert_close(ours, exactly(tensors, how, [True] * 3), case["dtype"])
    assert ours[0].is_contiguous() and ours[1].stride() == torch.empty_like(rest[0]).stride()


CASE: dict[str, Any] = {
    **dict(size=(3, 33), heads=(4, 2), prompts=10, width=80, dtype=torch.float32),
    **dict(per_row=False, masked=True, softcap=5.0),
}


@pytest.mark.parametrize("per_row", [False, True])
def test_partial_sums_of_many_programs(per_row: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens of a head in one program, or each block of them in its own: the same gradients, every time."""
    tensors, how = example({**CASE, "per_row": per_row})
    grad, _, *rest = tensors
    results = []
    for programs in (1, 24, 1000, 1000):
        monkeypatch.setattr(fused_kernels, "programs_at_once", lambda device, programs=programs: programs)
        results.append(fused_kernels.backward(grad, *rest, *how, [True] * 3))
        assert_close(results[-1], exactly(tensors, how, [True] * 3)[1:], torch.float32)
    assert all(torch.equal(x[0], results[0][0]) for x in results)  # a query's gradient is the work of one program
    assert all(torch.equal(x, y) for x, y in zip(*results[2:], strict=True))


@pytest.mark.parametrize("needs", [[True, False, False], [False, True, False], [True, False, True]], ids=str)
def test_gradients_that_nobody_needs_are_left_out(needs: list[bool]) -> None:
    tensors, how = example({**CASE, "size": (2, 7)})
    grad, _, *rest = tensors
    assert_close(fused_kernels.backward(grad, *rest, *how, needs), exactly(tensors, how, needs)[1:], torch.float32)


def test_keys_that_all_rows_share_with_values_of_each_row() -> None:
    tensors, how = example({**CASE, "per_row": True, "size": (3, 7)})
    tensors[3] = tensors[3][1].clone()
    grad, out, *rest = tensors
    ours = [fused_kernels.forward(out, *rest, *how), *fused_kernels.backward(grad, *rest, *how, [True] * 3)]
    assert_close(ours, exactly(tensors, how, [True] * 3), torch.float32)


def test_queries_wider_than_keys_as_under_autocast() -> None:
    """Rotated queries are fp32 there: they are rounded where they are read, and their gradient is fp32."""
    tensors, how = example({**CASE, "size": (2, 7), "dtype": torch.bfloat16})
    tensors[2] = torch.randn(tensors[2].shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    exact = exactly([*tensors[:2], tensors[2].bfloat16(), *tensors[3:]], how, [True] * 3)
    grad, out, *rest = tensors
    ours = [fused_kernels.forward(out, *rest, *how), *fused_kernels.backward(grad, *rest, *how, [True] * 3)]
    assert ours[1].dtype == torch.float32
    ours[1] = ours[1].bfloat16()  # whose error is that of bf16 products
    assert_close(ours, exact, torch.bfloat16)


def test_nothing_to_do() -> None:
    tensors, how = example({**CASE, "size": (2, 7)})
    grad, out, q_BHTD, k, v = tensors
    empty = [grad[:, :0], out[:, :0], q_BHTD[:, :, :0], k, v]
    assert fused_kernels.forward(*empty[1:], None, *how[1:]).shape == (2, 0, 4, 80)
    grads = fused_kernels.backward(empty[0], *empty[2:], None, *how[1:], [True, False, True])
    assert [x.shape for x in grads] == [empty[2].shape, v.shape] and not any(x.any() for x in grads)


def test_the_trial_at_first_use_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "kernels_for", lambda device: fused_kernels)
    for dtype, per_row, capped in [(torch.float32, False, False), (torch.bfloat16, True, True)]:
        kind = (torch.float32, dtype, 2, 10, 32, per_row, capped)
        assert fused_choice._tried.__wrapped__(torch.device(DEVICE), *kind)
