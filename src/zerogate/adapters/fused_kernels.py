"""Triton kernels of `fused.py`: prompt attention added to the text's output, and its gradients.

A program takes one query head and a block of tokens, with all K prompts of that head at once: scores, softmax and
product never leave the chip, and each activation is read or written once. Sums are in fp32.

Where one set of prompts serves every row, tokens of all rows are one long line ([B * T]), so that decoding 16 rows is
one block of 16 tokens. Where each row has a set of its own, a program stays within one row. The gradients of keys and
values are sums over tokens: each program writes what its own tokens give, and torch adds those few partial sums, in
the same order every time. Only this file imports Triton, and only `fused.py` imports this file, when it is needed.
"""

# Arguments of kernels are Triton's: addresses, numbers, and what it compiles for.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

__all__ = ["TritonError", "backward", "forward"]

PRECISION = tl.constexpr("tf32x3")
"""Of fp32: about that of fp32 itself, on tensor cores. Without them a backward would not fit into registers."""

BLOCK_BYTES = 16 * 1024  # of one block of queries: two blocks, loaded ahead, and the prompts fit in shared memory


@triton.jit
def _scores(q_ND, k_KD, mask_at, in_mask, scaling, softcap, MASKED: tl.constexpr, CAPPED: tl.constexpr):
    """Scores [N, K] with softcap and mask; and the tanh of the softcap, or the bare scores where there is none."""
    raw_NK = tl.dot(q_ND, tl.trans(k_KD), input_precision=PRECISION) * scaling
    tanh_NK = raw_NK
    scores_NK = raw_NK
    if CAPPED:
        tanh_NK = 2.0 * tl.sigmoid(2.0 * raw_NK / softcap) - 1.0
        scores_NK = softcap * tanh_NK
    if MASKED:
        scores_NK += tl.load(mask_at, mask=in_mask, other=0.0).to(tl.float32)
    return scores_NK, tanh_NK


@triton.jit
def _softmax(scores_NK, in_K):
    scores_NK = tl.where(in_K[None, :], scores_NK, -float("inf"))
    exp_NK = tl.exp(scores_NK - tl.max(scores_NK, 1)[:, None])
    return exp_NK / tl.sum(exp_NK, 1)[:, None]


@triton.jit
def _place(n_N, row, T, PER_ROW: tl.constexpr):
    """Row and position of each token of a block, in 64 bits: they are multiplied by strides."""
    if PER_ROW:
        b_N, t_N = tl.zeros_like(n_N) + row, n_N
    else:
        b_N, t_N = n_N // T, n_N % T
    return b_N.to(tl.int64), t_N.to(tl.int64)


@triton.jit
def forward_kernel(
    out_at, q_at, k_at, v_at, mask_at, sum_at, T, N, scaling, softcap,
    out_b, out_t, out_h, out_d, q_b, q_h, q_t, q_d, k_r, k_g, k_k, k_d, v_r, v_h, v_k, v_d, mask_b, mask_k,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
    PER_ROW: tl.constexpr, MASKED: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take the heads of the same tokens, which are neighbours in memory.
    head = tl.program_id(0) % H
    row = tl.program_id(1).to(tl.int64)
    n_N = tl.program_id(0) // H * BLOCK_N + tl.arange(0, BLOCK_N)
    b_N, t_N = _place(n_N, row, T, PER_ROW)
    k_K, d_D = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    in_N, in_K, in_D = n_N < N, k_K < K, d_D < D
    in_ND, in_KD = in_N[:, None] & in_D[None, :], in_K[:, None] & in_D[None, :]

    k_KD = tl.load(k_at + row * k_r + head // GROUP * k_g + k_K[:, None] * k_k + d_D[None, :] * k_d, in_KD, other=0.0)
    v_KD = tl.load(v_at + row * v_r + head * v_h + k_K[:, None] * v_k + d_D[None, :] * v_d, mask=in_KD, other=0.0)
    q_ND = tl.load(q_at + (b_N * q_b + head * q_h + t_N * q_t)[:, None] + d_D[None, :] * q_d, mask=in_ND, other=0.0)
    q_ND = q_ND.to(k_KD.dtype)
    mask_NK = mask_at + b_N[:, None] * mask_b + k_K[None, :] * mask_k
    scores_NK, _ = _scores(q_ND, k_KD, mask_NK, in_N[:, None] & in_K[None, :], scaling, softcap, MASKED, CAPPED)
    probs_NK = _softmax(scores_NK, in_K)
    extra_ND = tl.dot(probs_NK.to(v_KD.dtype), v_KD, input_precision=PRECISION)

    text_ND = tl.load(out_at + (b_N * out_b + t_N * out_t + head * out_h)[:, None] + d_D[None, :] * out_d, mask=in_ND)
    sum_ND = (text_ND.to(tl.float32) + extra_ND).to(sum_at.dtype.element_ty)
    tl.store(sum_at + ((b_N * T + t_N) * H + head)[:, None] * D + d_D[None, :], sum_ND, mask=in_ND)


@triton.jit
def backward_kernel(
    grad_at, q_at, k_at, v_at, mask_at, grad_q_at, grad_k_at, grad_v_at, T, N, scaling, softcap, tokens,
    grad_b, grad_t, grad_h, grad_d, q_b, q_h, q_t, q_d, k_r, k_g, k_k, k_d, v_r, v_h, v_k, v_d, mask_b, mask_k,
    grad_q_b, grad_q_h, grad_q_t, grad_q_d,
    H: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
    PER_ROW: tl.constexpr, MASKED: tl.constexpr, CAPPED: tl.constexpr,
    OF_Q: tl.constexpr, OF_K: tl.constexpr, OF_V: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % H
    part = tl.program_id(0) // H
    row = tl.program_id(1).to(tl.int64)
    k_K, d_D = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    in_K, in_D = k_K < K, d_D < D
    in_KD = in_K[:, None] & in_D[None, :]
    k_KD = tl.load(k_at + row * k_r + head // GROUP * k_g + k_K[:, None] * k_k + d_D[None, :] * k_d, in_KD, other=0.0)
    v_KD = tl.load(v_at + row * v_r + head * v_h + k_K[:, None] * v_k + d_D[None, :] * v_d, mask=in_KD, other=0.0)
    grad_k_KD = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    grad_v_KD = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)

    for start in range(0, tokens, BLOCK_N):
        n_N = part * tokens + start + tl.arange(0, BLOCK_N)
        b_N, t_N = _place(n_N, row, T, PER_ROW)
        in_N = n_N < N
        in_ND, in_NK = in_N[:, None] & in_D[None, :], in_N[:, None] & in_K[None, :]
        q_ND = tl.load(q_at + (b_N * q_b + head * q_h + t_N * q_t)[:, None] + d_D[None, :] * q_d, in_ND, other=0.0)
        q_ND = q_ND.to(k_KD.dtype)
        grad_at_ND = grad_at + (b_N * grad_b + t_N * grad_t + head * grad_h)[:, None] + d_D[None, :] * grad_d
        grad_ND = tl.load(grad_at_ND, mask=in_ND, other=0.0)  # zero beyond the end: such tokens add nothing
        grad_ND = grad_ND.to(v_KD.dtype)
        mask_NK = mask_at + b_N[:, None] * mask_b + k_K[None, :] * mask_k
        scores_NK, tanh_NK = _scores(q_ND, k_KD, mask_NK, in_NK, scaling, softcap, MASKED, CAPPED)
        probs_NK = _softmax(scores_NK, in_K)
        if OF_V:
            grad_v_KD += tl.dot(tl.trans(probs_NK.to(v_KD.dtype)), grad_ND, input_precision=PRECISION)
        if OF_Q or OF_K:
            grad_probs_NK = tl.dot(grad_ND, tl.trans(v_KD), input_precision=PRECISION)
            grad_scores_NK = probs_NK * (grad_probs_NK - tl.sum(probs_NK * grad_probs_NK, 1)[:, None])
            if CAPPED:
                grad_scores_NK *= 1.0 - tanh_NK * tanh_NK
            grad_scores_NK = (grad_scores_NK * scaling).to(q_ND.dtype)
            if OF_K:
                grad_k_KD += tl.dot(tl.trans(grad_scores_NK), q_ND, input_precision=PRECISION)
            if OF_Q:
                grad_q_ND = tl.dot(grad_scores_NK, k_KD, input_precision=PRECISION).to(grad_q_at.dtype.element_ty)
                at_ND = (b_N * grad_q_b + head * grad_q_h + t_N * grad_q_t)[:, None] + d_D[None, :] * grad_q_d
                tl.store(grad_q_at + at_ND, grad_q_ND, mask=in_ND)

    parts = tl.num_programs(0) // H
    own_KD = (((row * parts + part) * H + head) * K + k_K)[:, None] * D + d_D[None, :]
    if OF_K:
        tl.store(grad_k_at + own_KD, grad_k_KD, mask=in_KD)
    if OF_V:
        tl.store(grad_v_at + own_KD, grad_v_KD, mask=in_KD)


def forward(
    out_BTHD: Tensor,
    q_BHTD: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BK: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """`fused.reference` as one kernel."""
    assert out_BTHD.shape == q_BHTD.transpose(1, 2).shape
    sum_BTHD = torch.empty_like(out_BTHD, memory_format=torch.contiguous_format)
    if sum_BTHD.numel() == 0:
        return sum_BTHD
    rows, N, shared = _common(q_BHTD, k, v, mask_BK, softcap)
    mask = q_BHTD if mask_BK is None else mask_BK
    grid = (triton.cdiv(N, shared["BLOCK_N"]) * q_BHTD.shape[1], rows)
    with torch.cuda.device_of(q_BHTD):  # Triton launches where the process is, not where the tensors are
        forward_kernel[grid](
            out_BTHD, q_BHTD, k, v, mask, sum_BTHD, q_BHTD.shape[2], N, scaling, float(softcap or 1.0),
            *out_BTHD.stride(), *q_BHTD.stride(), *_strides(k), *_strides(v), *_mask_strides(mask_BK), **shared,
        )  # fmt: skip
    return sum_BTHD


def backward(
    grad_BTHD: Tensor,
    q_BHTD: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BK: Tensor | None,
    scaling: float,
    softcap: float | None,
    needs: list[bool],
) -> list[Tensor]:
    """`fused.reference_backward` as one kernel, and the sums of the parts it was done in."""
    grad_q = torch.empty_like(q_BHTD) if needs[0] else None
    if q_BHTD.numel() == 0:
        zeros = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (k, v)]
        return [x for x, need in zip([grad_q, *zeros], needs, strict=True) if need and x is not None]
    rows, N, shared = _common(q_BHTD, k, v, mask_BK, softcap)
    H, T = q_BHTD.shape[1:3]
    G, K, D = k.shape[-3:]
    blocks = triton.cdiv(N, shared["BLOCK_N"])
    each = triton.cdiv(blocks, max(1, programs_at_once(q_BHTD.device) // (H * rows)))  # blocks of one program
    parts = triton.cdiv(blocks, each)
    grad_k, grad_v = (q_BHTD.new_empty((rows, parts, H, K, D) if n else 0, dtype=torch.float32) for n in needs[1:])
    mask = q_BHTD if mask_BK is None else mask_BK
    into_q = q_BHTD if grad_q is None else grad_q
    with torch.cuda.device_of(q_BHTD):
        backward_kernel[(parts * H, rows)](
            grad_BTHD, q_BHTD, k, v, mask, into_q, grad_k, grad_v, T, N, scaling, float(softcap or 1.0),
            each * shared["BLOCK_N"],
            *grad_BTHD.stride(), *q_BHTD.stride(), *_strides(k), *_strides(v), *_mask_strides(mask_BK),
            *into_q.stride(), OF_Q=needs[0], OF_K=needs[1], OF_V=needs[2], num_stages=2, **shared,
        )  # fmt: skip
    grads = [] if grad_q is None else [grad_q]
    # Parts, then heads of a group, and rows where one set serves all of them.
    every = [] if k.dim() == 4 else [0]
    if needs[1]:
        grads.append(grad_k.unflatten(2, (G, H // G)).sum([*every, 1, 3]).to(k.dtype))
    if needs[2]:
        grads.append(grad_v.sum([*([] if v.dim() == 4 else [0]), 1]).to(v.dtype))
    return grads


def programs_at_once(device: torch.device) -> int:
    """How many programs keep a GPU busy: more would mean more partial sums to add."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _common(
    q_BHTD: Tensor, k: Tensor, v: Tensor, mask_BK: Tensor | None, softcap: float | None
) -> tuple[int, int, dict[str, Any]]:
    """How many sets of prompts there are, tokens for each, and what both kernels are compiled for."""
    B, H, T, D = q_BHTD.shape
    G, K = k.shape[-3:-1]
    # A kernel would read whatever lies there: shapes that do not fit must end here.
    assert H % G == 0 and k.shape[-1] == D and v.shape[-3:] == (H, K, D) and {*k.shape[:-3], *v.shape[:-3]} <= {B}
    assert mask_BK is None or mask_BK.shape == (B, K)
    per_row = k.dim() == 4 or v.dim() == 4
    rows, N = (B, T) if per_row else (1, B * T)
    block_D, block_K = (max(16, triton.next_power_of_2(x)) for x in (D, K))
    block_N = 16 if N <= 16 else max(16, min(64, BLOCK_BYTES // (block_D * k.element_size()), 4096 // block_K))
    return rows, N, {
        "H": H, "GROUP": H // G, "K": K, "D": D,
        "PER_ROW": per_row, "MASKED": mask_BK is not None, "CAPPED": softcap is not None,
        "BLOCK_N": block_N, "BLOCK_K": block_K, "BLOCK_D": block_D,
        "num_warps": 8 if block_K * block_D > 4096 else 4,
    }  # fmt: skip


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of a set of prompts, row first: 0 where one serves all rows."""
    return x.stride() if x.dim() == 4 else (0, *x.stride())


def _mask_strides(mask_BK: Tensor | None) -> tuple[int, ...]:
    return (0, 0) if mask_BK is None else mask_BK.stride()
