"""The gated half of zero-init attention in two forms: torch's fused attention, and written out. Which one serves?

    python benchmarks/prompt_attention.py            # heads of 64, K=10, some shapes, fp32 and bf16
    python benchmarks/prompt_attention.py --heads 32 --head-dim 128

`adapters/attention.py` chooses by what this prints. Forward and backward as in training, and forward alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from torch import Tensor

from zerogate.adapters import attention


def contribution(fused: bool, q_BHTD: Tensor, k_HKD: Tensor, v_HKD: Tensor) -> Tensor:
    """What the seam adds, in the form that is asked for."""
    with mock.patch.object(attention, "_fused_is_faster", lambda q, v: fused):
        return attention.prompt_attention(q_BHTD, k_HKD, v_HKD, q_BHTD.shape[-1] ** -0.5)


def turn_of(fused: bool, tensors: list[Tensor], grad: Tensor, trained: bool, repeats: int) -> Turn:
    """Some calls in a row, as one alone is too short to time."""

    def training() -> None:
        for _ in range(repeats):
            torch.autograd.grad(contribution(fused, *tensors), tensors, grad)

    @torch.inference_mode()
    def inference() -> None:
        for _ in range(repeats):
            contribution(fused, *tensors)

    return training if trained else inference


def main() -> None:
    """Measure and print one table."""
    parser = arguments_of(__doc__, rounds=15, quick_rounds=5)
    add: Callable[..., argparse.Action] = parser.add_argument
    add("--heads", type=int, default=8, help="default: %(default)s")
    add("--head-dim", type=int, default=64, help="default: %(default)s")
    add("--prompt-length", type=int, default=10, help="K (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    H, D, K = arguments.heads, arguments.head_dim, arguments.prompt_length
    rows: list[list[str]] = []
    kept: dict[str, object] = {"machine": machine()}
    for dtype in (torch.float32, torch.bfloat16):
        for trained, B, T in ((True, 8, 128), (True, 2, 64), (False, 1, 1), (False, 16, 1), (False, 1, 128)):
            how = {"dtype": dtype, "device": arguments.device}
            q_BHTD = torch.randn(B, T, H, D, **how).transpose(1, 2)  # as a model's projections lay it out
            tensors = [q_BHTD, torch.randn(H, K, D, **how), torch.randn(H, K, D, **how)]
            tensors = [tensor.detach().requires_grad_(trained) for tensor in tensors]
            both = [contribution(fused, *tensors).detach().float() for fused in (True, False)]
            torch.testing.assert_close(*both, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-5)
            repeats = 200 if T == 1 else 4
            grad = torch.randn(B, T, H, D, **how)
            turns = {
                "fused": turn_of(True, tensors, grad, trained, repeats),
                "written out": turn_of(False, tensors, grad, trained, repeats),
            }
            times = take_turns(turns, rounds)
            what = f"{str(dtype).removeprefix('torch.')}, {'training' if trained else 'inference'}, {B} x {T}"
            kept[what] = {name: [second / repeats for second in t.seconds] for name, t in times.items()}
            middle, low, high = times["fused"].over(times["written out"])
            micro = [f"{t.median / repeats * 1e6:.0f}" for t in times.values()]
            with torch.set_grad_enabled(trained):
                chosen = "fused" if attention._fused_is_faster(tensors[0], tensors[2]) else "written out"
            rows.append([what, *micro, f"{middle:.2f} ({low:.2f} to {high:.2f})", chosen])
    print(table(["", "fused, µs", "written out, µs", "ratio", "chosen"], rows))
    print(f"\n{H} heads of {D}, K={K}; {rounds} turns; {machine()}")
    write(arguments.json, kept)


if __name__ == "__main__":
    main()
