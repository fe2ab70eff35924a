"""Frozen linear layers whose products run in 8-bit floats, on GPUs that have them (Ada, Hopper, Blackwell).

Weights are e4m3 with one scale per output channel, made once. Inputs, and in the backward pass gradients, become e4m3
with one scale per row when they come. Sums are in fp32, outputs in the input's dtype. There is no gradient for the
weights: nothing of the input is kept.

Row by row scales are those of torch's own `_scaled_mm`; how it compares with one scale per tensor is in "FP8 Formats
for Deep Learning" (arXiv 2209.05433), section 4. It computes on a CPU too, for tests, and slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zerogate.errors import UserError

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
MULTIPLE = 16
"""The products want both sides of a weight to be multiples of this."""


class Fp8Linear(nn.Linear):
    """`y = x W^T + b` with frozen W in e4m3.

    Attributes:
        weight: [O, I], e4m3 as bytes: nothing takes bytes for numbers, to cast them or to add to them (`.to(dtype)`,
            PEFT's casts and merges).
        scale: what each output channel was divided by, [O], fp32 whatever the model is cast to.
    """

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI, scale_O1 = in_rows(linear.weight.detach())
        self.weight = nn.Parameter(weight_OI.view(torch.uint8), requires_grad=False)
        self.register_buffer("scale", scale_O1[:, 0], persistent=False)
        self.bias = linear.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fp8Linear:
        """`.to`, `.cuda`, `.half` and their like: the scale moves with the model and stays fp32."""
        scale = self.scale
        super()._apply(fn, recurse)
        if not self.scale.is_meta:
            self.scale = scale.to(self.scale.device)
        return self

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        x_TI = input.reshape(-1, self.in_features)
        out_TO = cast(Tensor, _Product.apply(x_TI, self.weight.view(E4M3), self.scale))
        out = out_TO.unflatten(0, input.shape[:-1]) if input.dim() != 2 else out_TO
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"{super().extra_repr()}, e4m3"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, scale_O: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI, scale_O)
        return _multiplied(x_TI, weight_OI.t(), scale_O[None], fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, None, None]:
        weight_OI, scale_O = ctx.saved_tensors
        # The weights' scales lie on the axis that is summed over here, so the gradient takes them.
        columns_OI = weight_OI.t().contiguous().t()
        ones_1I = scale_O.new_ones(1, weight_OI.shape[1])
        return _multiplied(grad_TO * scale_O, columns_OI, ones_1I, fast=False).to(grad_TO.dtype), None, None


def _multiplied(x_TI: Tensor, right_IO: Tensor, scale_1O: Tensor, fast: bool) -> Tensor:
    """x @ (right * scale), with x made e4m3; `right` lies column by column."""
    x8_TI, scale_T1 = (_compiled_rows() if x_TI.is_cuda else in_rows)(x_TI)
    out_TO = torch._scaled_mm(
        x8_TI, right_IO, scale_a=scale_T1, scale_b=scale_1O, out_dtype=torch.bfloat16, use_fast_accum=fast
    )
    return cast(Tensor, out_TO).to(x_TI.dtype)


def in_rows(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in e4m3, its largest number at the end of the range, and what it was divided by, [T, 1] in fp32."""
    scale_T1 = x_TI.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x_TI.float() / scale_T1).clamp(-LARGEST, LARGEST).to(E4M3), scale_T1


@cache
def _compiled_rows() -> Any:
    """In one pass over memory."""
    return torch.compile(in_rows, dynamic=True)


def check_fp8(device: torch.device) -> None:
    """Whether a device multiplies in e4m3.

    Raises:
        UserError: a GPU that does not.
    """
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 9):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no 8-bit float products (Ada, Hopper and later have); use "
            "quantization 'torchao-fp8', which only stores the weights so, or 'int8'"
        )


def to_fp8(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Put `Fp8Linear` in the place of every frozen linear layer whose sides allow it, one after the other.

    Args:
        model: changed in place.
        keep: left as it is: the output head, as in every 8-bit form.

    Returns:
        How many there are.

    Raises:
        UserError: there is none, or its device cannot.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child is not keep
        and child.in_features % MULTIPLE == 0
        and child.out_features % MULTIPLE == 0
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no linear layer that can be made fp8 (both sides a multiple of {MULTIPLE})"
        )
    for parent, name, child in found:
        check_fp8(child.weight.device)
        setattr(parent, name, Fp8Linear(child))
    return len(found)
