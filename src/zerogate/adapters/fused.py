"""Prompt attention added to the text's attention in one pass over memory: a registered operator and its reference.

`out + softmax(q k_prompt^T) (gate * v_prompt)` takes several passes over tensors of the size of the activations when
torch does it operation by operation. Here it reads the queries and the text's output once and writes the sum; its
backward computes the probabilities again, so nothing of [B, H, T, K] is ever kept. `zerogate::add_prompt_attention` is
registered with torch, with a fake implementation, so torch.compile sees one operation and no graph break. On a GPU it
is the Triton kernels of `fused_kernels.py`; everywhere else, and in tests, the plain reference beside it.

The kernels have been tested in Triton's interpreter alone: **no GPU has run them yet, and how fast they are there is
not known** (`python benchmarks/prompt_attention.py --device cuda` measures it). Hence `serves` tries them, once for
each kind of input, on a small example against the reference, and the seam keeps to torch's own operations where they
fail.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DEVICES = frozenset({"cuda"})
"""Where the seam adds prompts by this operator: elsewhere torch's own operations are as fast."""

ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""What the kernels are for, with the error allowed to them, relative to the largest number of a result."""


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
    out_BTHD = out_BTHD.to(torch.promote_types(out_BTHD.dtype, k.dtype))
    given = (out_BTHD, q_BHTD, k, v, mask_BK, scaling, softcap)
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in given[:4])  # type: ignore[union-attr]
    if graph or torch.compiler.is_compiling() or type(q_BHTD) is not Tensor:
        return torch.ops.zerogate.add_prompt_attention(*given)  # type: ignore[no-any-return]
    return _forward(*given)  # torch's way to an operator takes longer than the operator, for one token


def serves(out_BTHD: Tensor, q_BHTD: Tensor, k: Tensor, v: Tensor, softcap: float | None) -> bool:
    """Whether the seam adds these prompts by the operator: by device, dtype and shape, and whether it works there."""
    B, H, T, D = q_BHTD.shape
    device, K = q_BHTD.device, k.shape[-2]
    if not (device.type in DEVICES and out_BTHD.shape == (B, T, H, D) and v.shape[-1] == D and _fits(q_BHTD, k)):
        return False
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else k.dtype
    return _works(str(device), q_BHTD.dtype, dtype, H // k.shape[-3], K, D, k.dim() == 4, softcap is not None)


def _fits(q_BHTD: Tensor, k: Tensor) -> bool:
    """Whether the kernels are for this: keys, values and their gradients of a head stay on the chip."""
    K, D = k.shape[-2:]
    padded = max(16, 1 << (K - 1).bit_length()) * max(16, 1 << (D - 1).bit_length())
    return q_BHTD.dtype in ALLOWED and k.dtype in ALLOWED and K <= 128 and D <= 256 and padded <= 128 * 128


@cache
def _kernels(device: str) -> ModuleType | None:
    """The Triton kernels, where there is a GPU and Triton (which comes with torch for GPUs)."""
    if device != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module(".fused_kernels", __package__)


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


def _forward(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *how: Any) -> Tensor:
    kernels = _kernels(q.device.type) if _fits(q, k) else None
    made: Tensor = (reference if kernels is None else kernels.forward)(out, q, k, v, *how)
    return made


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *how: Any) -> list[Tensor]:
    kernels = _kernels(q.device.type) if _fits(q, k) else None
    made: list[Tensor] = (reference_backward if kernels is None else kernels.backward)(grad, q, k, v, *how)
    return made


_forward_op = torch.library.custom_op(
    "zerogate::add_prompt_attention",
    _forward,
    mutates_args=(),
    schema="(Tensor out, Tensor q, Tensor k, Tensor v, Tensor? mask, float scaling, float? softcap) -> Tensor",
)
_backward_op = torch.library.custom_op(
    "zerogate::add_prompt_attention_backward",
    _backward,
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


# --- does it work here? -------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _works(*kind: Any) -> bool:
    """`_tried`, asked while a graph is traced and not traced itself."""
    return _tried(*kind)


@cache
def _tried(
    device: str, q_dtype: torch.dtype, dtype: torch.dtype, group: int, K: int, D: int, per_row: bool, capped: bool
) -> bool:
    """Runs the operator on a small example, forward and backward, and compares it with the reference in fp64.

    What fails is said once for each kind of input, and the seam then does without.
    """
    at = torch.device(device)
    kernels = _kernels(at.type)
    if kernels is None and at.type == "cuda":
        return False
    random = torch.Generator().manual_seed(0)  # its own: a run must not draw other numbers for having been here

    def draw(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=random).to(at, dtype)

    B, T, G = 2, 150, 2  # some blocks of tokens, the last one not full
    H, rows = G * group, [B] if per_row else []
    with torch.inference_mode(False), torch.no_grad():
        out_BTHD, grad_BTHD, q_BHTD = (
            draw(B, T, H, D),
            draw(B, T, H, D),
            draw(B, T, H, D, dtype=q_dtype).transpose(1, 2),
        )
        k, v = draw(*rows, G, K, D), draw(*rows, H, K, D)
        mask_BK = torch.zeros(B, K, device=at).masked_fill(torch.arange(K, device=at) > K // 2, -torch.inf)
        how = (mask_BK if per_row else None, D**-0.5, 20.0 if capped else None)
        wide = [x.double() for x in (q_BHTD.to(dtype), k, v)]
        exact = [reference(out_BTHD.double(), *wide, *how)]
        exact += reference_backward(grad_BTHD.double(), *wide, *how, [True] * 3)
        try:
            ours = [_forward(out_BTHD, q_BHTD, k, v, *how), *_backward(grad_BTHD, q_BHTD, k, v, *how, [True] * 3)]
        except _failures(kernels) as error:
            reason = f"{type(error).__name__}: {error}"[:500]
        else:
            far = [float((x - y).abs().max() / y.abs().max()) for x, y in zip(ours, exact, strict=True)]
            if all(x <= ALLOWED[dtype] for x in far):  # which a NaN is not
                return True
            reason = "errors of the output and of gradients against fp64: " + ", ".join(f"{x:.1e}" for x in far)
    warnings.warn(
        f"The fused prompt attention does not work on {device} ({dtype}, K={K}, heads of {D}): {reason}. "
        "torch's own operations are used in its place: the same results, with more memory traffic.",
        stacklevel=2,
    )
    return False


def _failures(kernels: ModuleType | None) -> tuple[type[Exception], ...]:
    """What a kernel raises that cannot be compiled or launched."""
    of_triton = () if kernels is None else (kernels.TritonError,)
    return (*of_triton, RuntimeError, ImportError, OSError, subprocess.SubprocessError)
