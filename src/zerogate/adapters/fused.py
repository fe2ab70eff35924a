"""Prompt attention added to the text's attention in one pass over memory: a registered operator and its reference.

`out + softmax(q k_prompt^T) (gate * v_prompt)` takes several passes over tensors of the size of the activations when
torch does it operation by operation. Here it reads the queries and the text's output once and writes the sum; its
backward computes the probabilities again, so nothing of [B, H, T, K] is ever kept. `zerogate::add_prompt_attention` is
registered with torch, with a fake implementation, so torch.compile sees one operation and no graph break. On a GPU it
is the Triton kernels of `fused_kernels.py`; everywhere else, and in tests, the plain reference beside it.

The kernels have been tested in Triton's interpreter alone: **no GPU has run them yet, and how fast they are there is
not known** (`python benchmarks/prompt_attention.py --device cuda` measures it). Hence they are tried where they are
first used (`fused_choice.py`).
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""What the kernels are for, with the error allowed to them, relative to the largest number of a result."""

LARGEST = {torch.float32: 32 * 128, torch.bfloat16: 128 * 128, torch.float16: 128 * 128}
"""Numbers in the keys of a head, padded to powers of two, up to which all that a program needs stays on the chip."""


def add_prompt_attention(
    out_BTHD: Tensor,
    q_BHTD: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BK: Tensor | None,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """`out_BTHD + prompt_attention(...)` in one pass, rounded once.

    Args:
        out_BTHD: The text's attention output.
        q_BHTD: Queries, with whatever strides.
        k: Prompt keys [G, K, D], or one set per row, [B, G, K, D]. H is a multiple of G.
        v: Gated prompt values [H, K, D], or [B, H, K, D].
        mask_BK: Additive mask for rows whose adapter has fewer than K prompts.
        scaling: What the attention multiplies its scores by.
        softcap: Gemma 2's bound on scores, where the model has one.

    Returns:
        [B, T, H, D], contiguous, in the dtype that the sum of the two would have.
    """
    if torch.is_autocast_enabled(q_BHTD.device.type) and k.dtype != torch.float64:
        # As autocast does it for matrix products. Queries are cast where they are read: that takes no pass.
        lower = torch.get_autocast_dtype(q_BHTD.device.type)
        k, v = k.to(lower), v.to(lower)
    if out_BTHD.dtype != k.dtype:
        out_BTHD = out_BTHD.to(torch.promote_types(out_BTHD.dtype, k.dtype))
    given = (out_BTHD, q_BHTD, k, v, mask_BK, scaling, softcap)
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in given[:4])  # type: ignore[union-attr]
    if graph or torch.compiler.is_compiling() or type(q_BHTD) is not Tensor:
        return torch.ops.zerogate.add_prompt_attention(*given)  # type: ignore[no-any-return]
    return forward(*given)  # torch's way to an operator takes longer than the operator, for one token


def fits(q_BHTD: Tensor, k: Tensor) -> bool:
    """Whether the kernels are for this."""
    K, D = k.shape[-2:]
    padded = max(16, 1 << (K - 1).bit_length()) * max(16, 1 << (D - 1).bit_length())
    return q_BHTD.dtype in ALLOWED and k.dtype in ALLOWED and K <= 128 and D <= 256 and padded <= LARGEST[k.dtype]


@cache
def kernels_for(device: str) -> ModuleType | None:
    """The Triton kernels, where there is a GPU and Triton (which comes with torch for GPUs)."""
    if device != "cuda":
        return None
    try:
        return importlib.import_module(".fused_kernels", __package__)
    except ImportError:
        return None


# --- the plain reference ------------------------------------------------------------------------------------


def _probabilities(
    q_BHTD: Tensor, k: Tensor, v: Tensor, mask_BK: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, ...]:
    """Queries, keys of every query head, values, probabilities [B, H, T, K] and the softcap's slope; fp32 at least."""
    wide = torch.promote_types(k.dtype, torch.float32)
    q_BHTD, k, v = q_BHTD.to(k.dtype).to(wide), k.to(wide), v.to(wide)
    k = k.repeat_interleave(q_BHTD.shape[1] // k.shape[-3], dim=-3)
    scores_BHTK = q_BHTD @ k.transpose(-1, -2) * scaling
    slope = torch.ones((), dtype=wide, device=q_BHTD.device)
    if softcap is not None:
        tanh_BHTK = torch.tanh(scores_BHTK / softcap)
        scores_BHTK, slope = softcap * tanh_BHTK, 1 - tanh_BHTK.square()
    if mask_BK is not None:
        scores_BHTK = scores_BHTK + mask_BK[:, None, None, :].to(wide)
    return q_BHTD, k, v, scores_BHTK.softmax(-1), slope


def reference(
    out_BTHD: Tensor,
    q_BHTD: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BK: Tensor | None,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """The operator in plain torch: in fp32, or fp64 if that is what it is given."""
    with torch.autocast(q_BHTD.device.type, enabled=False):
        _, _, v, probs_BHTK, _ = _probabilities(q_BHTD, k, v, mask_BK, scaling, softcap)
        return (out_BTHD + (probs_BHTK @ v).transpose(1, 2)).to(out_BTHD.dtype).contiguous()


def reference_backward(
    grad_BTHD: Tensor,
    q_BHTD: Tensor,
    k: Tensor,
    v: Tensor,
    mask_BK: Tensor | None,
    scaling: float,
    softcap: float | None,
    needs: list[bool],
) -> list[Tensor]:
    """Its gradients for queries, keys and gated values: those of the three that are needed."""
    with torch.autocast(q_BHTD.device.type, enabled=False):
        q, keys, values, probs_BHTK, slope = _probabilities(q_BHTD, k, v, mask_BK, scaling, softcap)
        grad_BHTD = grad_BTHD.transpose(1, 2).to(q.dtype)
        grad_probs = grad_BHTD @ values.transpose(-1, -2)
        grad_scores = probs_BHTK * (grad_probs - (probs_BHTK * grad_probs).sum(-1, keepdim=True)) * slope * scaling
        grads = []
        if needs[0]:
            grads.append(torch.empty_like(q_BHTD).copy_(grad_scores @ keys))
        if needs[1]:  # of a group's heads together
            grad_k = (grad_scores.transpose(-1, -2) @ q).unflatten(1, (k.shape[-3], -1)).sum(2)
            grads.append((grad_k if k.dim() == 4 else grad_k.sum(0)).to(k.dtype))
        if needs[2]:
            grad_v = probs_BHTK.transpose(-1, -2) @ grad_BHTD
            grads.append((grad_v if v.dim() == 4 else grad_v.sum(0)).to(v.dtype))
        return grads


# --- the operator -------------------------------------------------------------------------------------------


def forward(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *how: Any) -> Tensor:
    """The operator itself: the kernel where there is one for this, else the reference."""
    kernels = kernels_for(q.device.type) if fits(q, k) else None
    made: Tensor = (reference if kernels is None else kernels.forward)(out, q, k, v, *how)
    return made


def backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *how: Any) -> list[Tensor]:
    """Its gradients, likewise."""
    kernels = kernels_for(q.device.type) if fits(q, k) else None
    made: list[Tensor] = (reference_backward if kernels is None else kernels.backward)(grad, q, k, v, *how)
    return made


_forward_op = torch.library.custom_op(
    "zerogate::add_prompt_attention",
    forward,
    mutates_args=(),
    schema="(Tensor out, Tensor q, Tensor k, Tensor v, Tensor? mask, float scaling, float? softcap) -> Tensor",
)
_backward_op = torch.library.custom_op(
    "zerogate::add_prompt_attention_backward",
    backward,
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mask, float scaling, float? softcap, bool[] needs) "
    "-> Tensor[]",
)


@_forward_op.register_fake
def _(out: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(out, memory_format=torch.contiguous_format)


@_backward_op.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, softcap: Any, needs: list[bool]) -> Any:
    made = [torch.empty_like(q), *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))]
    return [x for x, need in zip(made, needs, strict=True) if need]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:5])
    ctx.how = inputs[5:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The text's output was added to: its gradient is the one that comes in, and is not copied."""
    needs = list(ctx.needs_input_grad[1:4])
    made = iter(_backward_op(grad, *ctx.saved_tensors, *ctx.how, needs) if any(needs) else [])
    return grad, *(next(made) if need else None for need in needs), None, None, None


_forward_op.register_autograd(_gradients, setup_context=_keep)
