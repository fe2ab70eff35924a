"""One batch of rows with an adapter each, over the same batch on the plain base; ours, PEFT's LoRA, and one at a time.

    python benchmarks/many_adapters.py                       # 32 rows, 32 adapters, some minutes on two cores
    python benchmarks/many_adapters.py --adapters 1 8 32 128 # how it grows
    python benchmarks/many_adapters.py --quick

Everyone generates the same number of tokens, greedily, through `generate`; adapters are random, as if trained. "One at
a time" sets each adapter in turn and generates its rows alone, as without mixed batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from bound import K, base, randomised
from measure import Timing, Turn, arguments_of, machine, settle, table, take_turns, write
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

from zerogate import ZeroInitConfig


def with_adapters(arguments: argparse.Namespace, config: Callable[[], PeftConfig], count: int) -> nn.Module:
    """A base with `count` random adapters, a0, a1, ..."""
    model = get_peft_model(base(arguments, getattr(torch, arguments.dtype)), config(), adapter_name="a0")
    for number in range(1, count):
        model.add_adapter(f"a{number}", config())
    model.set_adapter("a0")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".a" in name:
                parameter.normal_(std=0.02)
    return model.eval()


def generation(arguments: argparse.Namespace, model: nn.Module, names: list[str] | None, one_by_one: bool) -> Turn:
    """Generate for all rows; each with its adapter, where there are names."""
    ids_BT = torch.randint(3, arguments.vocabulary, (arguments.batch, arguments.tokens), device=arguments.device)
    how = {"max_new_tokens": arguments.decoded, "min_new_tokens": arguments.decoded, "do_sample": False}
    how["pad_token_id"] = 0

    @torch.inference_mode()
    def turn() -> None:
        if one_by_one:
            assert names is not None
            for name in dict.fromkeys(names):
                model.set_adapter(name)
                rows_BT = ids_BT[[index for index, own in enumerate(names) if own == name]]
                model.generate(input_ids=rows_BT, attention_mask=torch.ones_like(rows_BT), **how)
            return
        mixed = {} if names is None else {"adapter_names": names}
        model.generate(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), **how, **mixed)

    return turn


def main() -> None:
    """Measure and print one table, a row per number of adapters."""
    parser = arguments_of(__doc__, rounds=9, quick_rounds=3)
    add = parser.add_argument
    add("--adapters", type=int, nargs="+", default=[32], help="how many there are (default: 32)")
    add("--batch", type=int, default=32, help="rows (default: %(default)s)")
    add("--tokens", type=int, default=64, help="tokens of a prompt (default: %(default)s)")
    add("--decoded", type=int, default=32, help="tokens that are generated (default: %(default)s)")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    add("--layers", type=int, default=12, help="of the base (default: %(default)s)")
    add("--width", type=int, default=512, help="hidden size (default: %(default)s)")
    add("--vocabulary", type=int, default=4096, help="tokens the base knows (default: %(default)s)")
    add("--attention", default="sdpa", help="attn_implementation (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    if arguments.quick:
        arguments.adapters, arguments.batch, arguments.tokens, arguments.decoded = [8], 8, 32, 8
    zero_init = lambda: ZeroInitConfig(prompt_length=K, num_layers=arguments.layers - 2, task_type="CAUSAL_LM")  # noqa: E731
    lora = lambda: LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")  # noqa: E731
    rows, kept = [], {"machine": machine(), "arguments": {k: str(v) for k, v in vars(arguments).items()}}
    for count in arguments.adapters:
        names = [f"a{index % count}" for index in range(arguments.batch)]
        ours, theirs = with_adapters(arguments, zero_init, count), with_adapters(arguments, lora, count)
        plain = randomised(base(arguments, getattr(torch, arguments.dtype))).eval()
        times: dict[str, Timing] = take_turns(
            {
                "plain base": generation(arguments, plain, None, False),
                "zero-init (ours), mixed": generation(arguments, ours, names, False),
                "PEFT LoRA r8, mixed": generation(arguments, theirs, names, False),
                "zero-init, one at a time": generation(arguments, ours, names, True),
            },
            rounds,
            warm_up=1,
        )
        kept[f"{count} adapters"] = {name: timing.seconds for name, timing in times.items()}
        bound = times["plain base"]
        ratios = [timing.over(bound) for name, timing in times.items() if name != "plain base"]
        told = [f"{middle:.3f} ({low:.3f} to {high:.3f})" for middle, low, high in ratios]
        rows.append([f"{count}", f"{bound.median * 1e3:.0f} ms", *told])
    print(
        f"{arguments.batch} rows, {arguments.tokens} + {arguments.decoded} tokens, {arguments.dtype}; {rounds} turns\n"
    )
    header = ["adapters", "plain base", "zero-init (ours), mixed", "PEFT LoRA r8, mixed", "zero-init, one at a time"]
    print(table(header, rows) + f"\n\n{machine()}")
    write(arguments.json, kept)


if __name__ == "__main__":
    main()
