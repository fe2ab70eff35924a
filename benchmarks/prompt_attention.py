"""The gated half of zero-init attention in two forms: torch's fused attention, and written out. Which one serves?

    python benchmarks/prompt_attention.py            # heads of 64, K=10, some shapes, fp32 and bf16
    python benchmarks/prompt_attention.py --heads 32 --head-dim 128
    python benchmarks/prompt_attention.py --device cuda --heads 32 --head-dim 128

`adapters/attention.py` chooses by what this prints. Forward and backward as in training, and forward alone.

On a GPU both forms stand beside the operator of `adapters/fused.py`, which the seam uses there: all of them with the
addition to the text's attention output, over the bound, which is reading two tensors and writing one (twice in
training). **No GPU has run this yet**: whoever runs it first sees in the last line whether the operator is worth
choosing. Where it is not, take "cuda" out of `fused_choice.DEVICES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from torch import Tensor

from zerogate.adapters import attention, fused, fused_choice


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


def one_pass(text_BTHD: Tensor, q_BHTD: Tensor, k_HKD: Tensor, v_HKD: Tensor) -> Tensor:
    """The operator: text and prompts together."""
    return fused.add_prompt_attention(text_BTHD, q_BHTD, k_HKD, v_HKD, None, q_BHTD.shape[-1] ** -0.5)


def bound(text_BTHD: Tensor, q_BHTD: Tensor, *_: Tensor) -> Tensor:
    """What reads and writes no more than must be. A backward (two read, one written) takes as long once more."""
    return torch.add(text_BTHD, q_BHTD.transpose(1, 2))


def turn_on_gpu(form: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor, trained: bool, repeats: int) -> Turn:
    """Some calls in a row, in training with their gradients."""

    def run() -> None:
        for _ in range(repeats):
            torch.autograd.grad(form(*tensors), tensors, grad)

    @torch.inference_mode()
    def forward(times: int = repeats) -> None:
        for _ in range(times):
            form(*tensors)

    if form is bound:
        return lambda: forward(2 * repeats if trained else repeats)
    return run if trained else forward


def on_gpu(arguments: argparse.Namespace, rounds: int) -> None:
    """Every form, with the addition to the text's output, over the bound; and how many GB/s the operator moves."""
    H, D, K = arguments.heads, arguments.head_dim, arguments.prompt_length
    forms: dict[str, Callable[..., Tensor]] = {
        "bound": bound,
        "torch's fused": lambda text_BTHD, *rest: text_BTHD + contribution(True, *rest),
        "written out": lambda text_BTHD, *rest: text_BTHD + contribution(False, *rest),
        "one pass": one_pass,
    }
    shapes = [(True, 2, 128), (False, 1, 1), (False, 16, 1), (False, 1, 128)]
    if not arguments.quick:
        shapes += [(True, 8, 512), (False, 128, 1), (False, 8, 512)]
    rows: list[list[str]] = []
    kept: dict[str, object] = {"machine": machine()}
    won = 0
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for trained, B, T in shapes:
            how = {"dtype": dtype, "device": arguments.device}
            q_BHTD = torch.randn(B, T, H, D, **how).transpose(1, 2)
            prompts = [torch.randn(H, K, D, **how) for _ in range(2)]
            tensors = [torch.randn(B, T, H, D, **how), q_BHTD, *prompts]
            tensors = [tensor.detach().requires_grad_(trained) for tensor in tensors]
            grad = torch.randn(B, T, H, D, **how)
            exact = fused.reference(*(x.detach().double() for x in tensors), None, D**-0.5, None)
            errors = [f"{float((forms[name](*tensors).detach() - exact).abs().max()):.0e}" for name in list(forms)[1:]]
            works = fused_choice.serves(tensors[0], *tensors[1:], None)
            repeats = 200 if T == 1 else 10
            turns = {name: turn_on_gpu(form, tensors, grad, trained, repeats) for name, form in forms.items()}
            times = take_turns(turns, rounds)
            what = f"{str(dtype).removeprefix('torch.')}, {'training' if trained else 'inference'}, {B} x {T}"
            kept[what] = {name: [second / repeats for second in t.seconds] for name, t in times.items()}
            ratios = [f"{times[name].over(times['bound'])[0]:.2f}" for name in list(forms)[1:]]
            moved = (6 if trained else 3) * grad.numel() * grad.element_size()
            speed = moved * repeats / times["one pass"].median / 1e9
            micro = times["bound"].median / repeats * 1e6
            best = min((t.median, name) for name, t in times.items() if name != "bound")[1]
            won += best == "one pass"
            rows.append([what, f"{micro:.1f}", *ratios, f"{speed:.0f}", "yes" if works else "NO", ", ".join(errors)])
    header = ["", "bound, µs", *(f"{name} / bound" for name in list(forms)[1:]), "one pass, GB/s", "works", "errors"]
    print(table(header, rows))
    print(f"\n{H} heads of {D}, K={K}; {rounds} turns; {machine()}")
    print(f"The operator of adapters/fused.py is the fastest of the three in {won} of {len(rows)} rows.")
    write(arguments.json, kept)


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
    if arguments.device != "cpu":
        return on_gpu(arguments, rounds)
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
