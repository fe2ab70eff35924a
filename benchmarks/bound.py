"""What an adapter costs over the bound: a training step, a prefill, a decoded token; ours and the peers', in one run.

    python benchmarks/bound.py                      # fp32 and bf16; 12 layers, 512 wide; about ten minutes on two cores
    python benchmarks/bound.py --quick --what train --dtype float32
    python benchmarks/bound.py --profile            # where a step's time goes, bound and zero-init side by side

The bound of training is the frozen base run forward, with gradients flowing back through its topmost L layers to
nothing; of inference, the plain base. No adapter can be faster. A turn is one step (or one prefill, or some decoded
tokens); contenders take turns in one process, and the table has the median of the turns' ratios and their middle half.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from peft import AdaptionPromptConfig, LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from zerogate import BottleneckConfig, ZeroInitConfig
from zerogate.bases.loss import output_head, summed_loss

K = 10


def base(arguments: argparse.Namespace, dtype: torch.dtype) -> LlamaForCausalLM:
    """A random LLaMA, frozen."""
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
        attn_implementation=arguments.attention,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(arguments.device, dtype).requires_grad_(False)


def contenders(arguments: argparse.Namespace, dtype: torch.dtype) -> dict[str, Callable[[], nn.Module]]:
    """Every model of the table, by name."""
    adapted = arguments.layers - arguments.below

    def ours() -> nn.Module:
        model = get_peft_model(base(arguments, dtype), ZeroInitConfig(prompt_length=K, num_layers=adapted))
        return randomised(model)

    def adaption_prompt() -> nn.Module:
        config = AdaptionPromptConfig(adapter_len=K, adapter_layers=adapted, task_type="CAUSAL_LM")
        return randomised(get_peft_model(base(arguments, dtype), config))

    def lora() -> nn.Module:
        config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return randomised(get_peft_model(base(arguments, dtype), config))

    def bottleneck() -> nn.Module:
        config = BottleneckConfig(preset="seq_bn", reduction_factor=16, task_type="CAUSAL_LM")
        return randomised(get_peft_model(base(arguments, dtype), config))

    return {
        "bound": lambda: base(arguments, dtype),
        "zero-init (ours)": ours,
        "PEFT AdaptionPrompt": adaption_prompt,
        "PEFT LoRA, rank 8, q and v": lora,
        "bottleneck, seq_bn / 16 (ours)": bottleneck,
    }


def randomised(model: nn.Module) -> nn.Module:
    """Trained values are random, as after training: a zero gate might be skipped."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.02)
    return model


def training(model: nn.Module, arguments: argparse.Namespace) -> Turn:
    """One step: forward, loss at every second position, backward, gradients dropped."""
    ids_BT = torch.randint(3, arguments.vocabulary, (arguments.batch, arguments.tokens), device=arguments.device)
    labels_BT = ids_BT.clone()
    labels_BT[:, : arguments.tokens // 2] = -100
    batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": labels_BT}
    head = output_head(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:  # the bound: gradients begin to flow at the topmost L layers' input, and end there
        model.model.layers[arguments.below].register_forward_pre_hook(_let_flow, with_kwargs=True)
    model.train()

    def turn() -> None:
        loss, count = summed_loss(model, head, batch)
        (loss / count).backward()
        for parameter in trained:
            parameter.grad = None

    return turn


def _let_flow(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple[object, object]:
    return ((args[0].detach().requires_grad_(), *args[1:]), kwargs)


def prefill(model: nn.Module, arguments: argparse.Namespace, rows: int) -> Turn:
    """The first pass over prompts, with a cache."""
    ids_BT = torch.randint(3, arguments.vocabulary, (rows, arguments.tokens), device=arguments.device)
    model.eval()

    @torch.inference_mode()
    def turn() -> None:
        model(input_ids=ids_BT, use_cache=True, logits_to_keep=1)

    return turn


def decoding(model: nn.Module, arguments: argparse.Namespace, rows: int) -> Turn:
    """Some tokens, one after the other, after a prefilled prompt; the cache is put back after each turn."""
    ids_BT = torch.randint(3, arguments.vocabulary, (rows, arguments.tokens), device=arguments.device)
    model.eval()
    with torch.inference_mode():
        cache: DynamicCache = model(input_ids=ids_BT, use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def turn() -> None:
        ids_B1 = ids_BT[:, -1:]
        for _ in range(arguments.decoded):
            logits_B1V = model(input_ids=ids_B1, past_key_values=cache, use_cache=True).logits
            ids_B1 = logits_B1V[:, -1].argmax(-1, keepdim=True)
        cache.crop(-arguments.decoded)

    return turn


def what_is_timed(arguments: argparse.Namespace) -> dict[str, Callable[[nn.Module], Turn]]:
    """By the name of a column."""
    columns: dict[str, Callable[[nn.Module], Turn]] = {}
    if "train" in arguments.what:
        columns["training step"] = lambda model: training(model, arguments)
    for rows in arguments.rows:
        if "prefill" in arguments.what:
            columns[f"prefill, batch {rows}"] = lambda model, rows=rows: prefill(model, arguments, rows)
        if "decode" in arguments.what:
            columns[f"decode, batch {rows}"] = lambda model, rows=rows: decoding(model, arguments, rows)
    return columns


def show_profile(arguments: argparse.Namespace) -> None:
    """The operations of a training step that take longest, of the bound and of zero-init."""
    dtype = getattr(torch, arguments.dtype[0])
    made = contenders(arguments, dtype)
    for name in ("bound", "zero-init (ours)"):
        turn = training(made[name](), arguments)
        turn()
        with torch.profiler.profile() as profile:
            for _ in range(3):
                turn()
        longest = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18)
        print(f"{name}, {arguments.dtype[0]}\n{longest}")


def main() -> None:
    """Measure and print one table per dtype."""
    parser = arguments_of(__doc__, rounds=21, quick_rounds=5)
    add = parser.add_argument
    add("--what", nargs="+", choices=["train", "prefill", "decode"], default=["train", "prefill", "decode"])
    add("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    add("--layers", type=int, default=12, help="of the base (default: %(default)s)")
    add("--below", type=int, default=2, help="layers without an adapter, at the bottom (default: %(default)s)")
    add("--width", type=int, default=512, help="hidden size (default: %(default)s)")
    add("--vocabulary", type=int, default=4096, help="tokens the base knows (default: %(default)s)")
    add("--batch", type=int, default=8, help="rows of a training step (default: %(default)s)")
    add("--tokens", type=int, default=128, help="tokens of a row (default: %(default)s)")
    add("--rows", type=int, nargs="+", default=[1, 16], help="batches of prefill and decode (default: 1 16)")
    add("--decoded", type=int, default=16, help="tokens that a turn decodes (default: %(default)s)")
    add("--attention", default="sdpa", help="attn_implementation (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--only", nargs="+", metavar="WORD", help="only contenders with such a word in their name, and the bound")
    add("--profile", action="store_true", help="show where a training step's time goes instead")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    if arguments.quick:
        arguments.batch, arguments.tokens, arguments.rows, arguments.decoded = 2, 64, [1], 4
    if arguments.profile:
        show_profile(arguments)
        return
    kept: dict[str, object] = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(arguments).items()}}
    for name in arguments.dtype:
        made = contenders(arguments, getattr(torch, name))
        chosen = [n for n in made if n == "bound" or not arguments.only or any(w in n for w in arguments.only)]
        cells: dict[str, list[str]] = {n: [n] for n in chosen}
        columns = what_is_timed(arguments)
        for column, begin in columns.items():
            times = take_turns({n: begin(made[n]()) for n in chosen}, rounds)
            kept[f"{name}, {column}"] = {n: t.seconds for n, t in times.items()}
            for n in chosen:
                middle, low, high = times[n].over(times["bound"])
                told = f"{times[n].median * 1e3:.1f} ms" if n == "bound" else f"{middle:.3f} ({low:.3f} to {high:.3f})"
                cells[n].append(told)
        print(f"{name}: over the bound, {rounds} turns each\n")
        print(table(["", *columns], list(cells.values())) + "\n", flush=True)
    print(
        f"{arguments.layers} layers, {arguments.width} wide, K={K}, L={arguments.layers - arguments.below}; "
        f"training {arguments.batch} x {arguments.tokens} tokens; {arguments.attention} attention\n{machine()}"
    )
    write(arguments.json, kept)


if __name__ == "__main__":
    main()
