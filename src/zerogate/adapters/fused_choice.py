"""When the seam adds prompts by the fused operator (`fused.py`): by device, dtype and shape, and if it works there.

No GPU has run its kernels yet, and they are compiled on the user's machine. So each kind of input is tried once, on a
small example against the reference in fp64. Where that fails it is said, and the seam keeps to torch's own operations.
"""

from __future__ import annotations

import subprocess
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import fused

DEVICES = frozenset({"cuda"})
"""Where the seam adds prompts by this operator: elsewhere torch's own operations are as fast."""


def serves(out_BTHD: Tensor, q_BHTD: Tensor, k: Tensor, v: Tensor, softcap: float | None) -> bool:
    """Whether the seam adds these prompts by the operator: by device, dtype and shape, and whether it works there."""
    B, H, T, D = q_BHTD.shape
    device, K = q_BHTD.device, k.shape[-2]
    if device.type not in DEVICES or type(q_BHTD) is not Tensor or not fused.fits(q_BHTD, k):
        return False
    if out_BTHD.shape != (B, T, H, D) or v.shape[-1] != D or out_BTHD.dtype not in fused.ALLOWED:
        return False
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else k.dtype
    return _works(device, q_BHTD.dtype, dtype, H // k.shape[-3], K, D, k.dim() == 4, softcap is not None)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _works(*kind: Any) -> bool:
    """`_tried`, asked while a graph is traced and not traced itself."""
    return _tried(*kind)


@cache
def _tried(
    device: torch.device,
    q_dtype: torch.dtype,
    dtype: torch.dtype,
    group: int,
    K: int,
    D: int,
    per_row: bool,
    capped: bool,
) -> bool:
    """Runs the operator on a small example, forward and backward, and compares it with the reference in fp64.

    What fails is said once for each kind of input, and the seam then does without.
    """
    kernels = fused.kernels_for(device.type)
    if kernels is None and device.type == "cuda":
        return False
    random = torch.Generator().manual_seed(0)  # its own: a run must not draw other numbers for having been here

    def draw(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=random).to(device, dtype)

    B, T, G = 2, 150, 2  # some blocks of tokens, the last one not full
    H, rows = G * group, [B] if per_row else []
    with torch.inference_mode(False), torch.no_grad():
        out_BTHD, grad_BTHD, q_BTHD = draw(B, T, H, D), draw(B, T, H, D), draw(B, T, H, D, dtype=q_dtype)
        k, v = draw(*rows, G, K, D), draw(*rows, H, K, D)
        mask_BK = torch.zeros(B, K, device=device).masked_fill(torch.arange(K, device=device) > K // 2, -torch.inf)
        how = (mask_BK if per_row else None, D**-0.5, 20.0 if capped else None)
        given: tuple[Any, ...] = (q_BTHD.transpose(1, 2), k, v, *how)
        exactly: tuple[Any, ...] = (q_BTHD.to(dtype).double().transpose(1, 2), k.double(), v.double(), *how)
        needs: tuple[Any, ...] = ([True, True, True],)
        exact = [fused.reference(out_BTHD.double(), *exactly)]
        exact += fused.reference_backward(grad_BTHD.double(), *exactly, *needs)
        try:
            ours = [fused.forward(out_BTHD, *given), *fused.backward(grad_BTHD, *given, *needs)]
        except _failures(kernels) as error:
            reason = f"{type(error).__name__}: {error}"[:500]
        else:
            far = [float((x - y).abs().max() / y.abs().max()) for x, y in zip(ours, exact, strict=True)]
            if all(x <= fused.ALLOWED[dtype] for x in far):  # which a NaN is not
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
