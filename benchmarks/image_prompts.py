"""What images cost: one projected vector per image and layer, against K prompts per row written out.

    python benchmarks/image_prompts.py                    # one attention layer of LLaMA-7B's shape
    python benchmarks/image_prompts.py --width 1024 --rows 4 --tokens 64

Both sides compute the same (the script checks that), on the same layer, prompts, gates and images, taking turns. The
time is of what the adapter adds to one layer's attention: forward and backward, and forward alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from zerogate import ZeroInitConfig
from zerogate.adapters.zero_init import ZeroInitLayer
from zerogate.adapters.zero_init.given import images_of


def build(width: int, prompt_length: int) -> tuple[torch.nn.Module, ZeroInitLayer]:
    """The attention of a one-layer LLaMA with heads of 128, and its zero-init layer, everything random."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=width // 128
    )
    adapter = ZeroInitConfig(
        prompt_length=prompt_length, image_layers=list(range(6)), image_channels=768, task_type="FEATURE_EXTRACTION"
    )
    model = get_peft_model(LlamaModel(config), adapter)
    attention = model.base_model.model.layers[0].self_attn
    layer = attention.zero_init
    with torch.no_grad():
        layer.gate["default"].normal_()
    return attention, layer


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width", type=int, default=4096, help="hidden size, a multiple of 128 (default: %(default)s)")
    add("--rows", type=int, default=8, help="rows, each with an image (default: %(default)s)")
    add("--tokens", type=int, default=128, help="tokens of a row (default: %(default)s)")
    add("--prompt-length", type=int, default=10, help="K (default: %(default)s)")
    add("--repeats", type=int, default=5, help="turns of each side (default: %(default)s)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    attention, layer = build(arguments.width, arguments.prompt_length)
    heads = arguments.width // 128
    q_BHTD = torch.randn(arguments.rows, heads, arguments.tokens, 128)
    features = torch.randn(arguments.rows, 6 * 768)
    projectors = {"default": layer.projector["default"]}

    def added(factored: bool) -> Tensor:
        layer.images = images_of(features, None, None, projectors)  # type: ignore[arg-type]
        layer._factors = lambda module, softcap: factored  # type: ignore[method-assign]
        out = layer.contribution(attention, q_BHTD, None)
        assert out is not None
        return out

    def training(factored: bool) -> None:
        added(factored).square().mean().backward()

    def inference(factored: bool) -> None:
        with torch.no_grad():
            added(factored)

    with torch.no_grad():
        torch.testing.assert_close(added(True).expand_as(added(False)), added(False), rtol=1e-3, atol=1e-4)
    print(
        f"width {arguments.width}, K={arguments.prompt_length}, {arguments.rows} rows with an image each, "
        f"{arguments.tokens} tokens, {torch.get_num_threads()} threads\n"
    )
    print("| | K prompts per row | one vector per image | ratio |\n|---|---|---|---|")
    for name, run in (("forward and backward", training), ("forward", inference)):
        sides = timed(run, arguments.repeats)
        print(
            f"| {name} | {sides[False] * 1e3:.0f} ms | {sides[True] * 1e3:.0f} ms | {sides[False] / sides[True]:.1f} |"
        )
    vectors = arguments.rows * arguments.prompt_length, arguments.rows + 1 + arguments.prompt_length
    print(f"| vectors through the projections | {vectors[0]} | {vectors[1]} | {vectors[0] / vectors[1]:.1f} |")


def timed(run: Callable[[bool], None], repeats: int) -> dict[bool, float]:
    """Median seconds of both sides, taking turns."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(repeats + 1):
        for factored in (False, True):
            start = time.perf_counter()
            run(factored)
            if turn:  # the first warms up
                seconds[factored].append(time.perf_counter() - start)
    return {side: statistics.median(values) for side, values in seconds.items()}


if __name__ == "__main__":
    main()
