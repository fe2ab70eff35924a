"""Training on Alpaca's real lengths: what padding and unneeded logits cost, and what a whole run would take.

    python benchmarks/alpaca.py                # a small base on a CPU: ours, TRL's defaults, the official way
    python benchmarks/alpaca.py --quick
    python benchmarks/alpaca.py --shape llama-7b --only ours lora bound --rounds 3   # one GPU: the headline
    python benchmarks/alpaca.py --shape llama-7b --only ours lora bound --rounds 3 --bits 8  # Hopper: fp8
    python benchmarks/alpaca.py --write-lengths lengths.json   # for a machine without the data: --lengths FILE

Sequences are random tokens with the lengths of Alpaca's prompts and answers (official template, LLaMA's tokenizer;
`--data` and `--tokenizer` name their files), as speed does not depend on which tokens they are. A turn is one optimiser
step over `--sequences` of them. Throughput counts real tokens, never padding. Ways:

    official    every sequence padded to 512, logits and loss at every position (the authors' script)
    TRL         batches in random order padded to their longest, logits at every position (SFTTrainer's defaults)
    ours        batches of like length, logits at the learned positions only
    packed      ours, with whole sequences side by side in rows of 512, which do not see each other
    lora, full  ours, with PEFT's LoRA (rank 8, q and v) or all weights in place of zero-init
    bound       ours, with nothing trained: gradients flow back through the adapted layers to nothing

On a GPU they run one after the other, each alone in memory; on a CPU they take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bound import _let_flow, randomised
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from zerogate import ZeroInitConfig
from zerogate.bases.fp8 import to_fp8
from zerogate.bases.loss import output_head, summed_loss
from zerogate.data.batching import epoch_order
from zerogate.data.templates import alpaca_prompt

SHAPES = {  # width, MLP, layers, heads, vocabulary, layers without an adapter
    "small": (512, 1376, 12, 8, 32000, 2),
    "llama-7b": (4096, 11008, 32, 32, 32000, 2),
}
LONGEST, EPOCHS = 512, 5
Lengths = list[tuple[int, int]]


def read_lengths(data: Path, tokenizer: Path) -> Lengths:
    """Tokens of each record's prompt (BOS included) and answer (EOS included), cut at 512 as the authors do."""
    import sentencepiece

    from zerogate.data.read import read_rows

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    rows = [row for _, row in read_rows(str(data))]
    prompts = pieces.encode([alpaca_prompt(row["instruction"], row.get("input", "")) for row in rows])
    answers = pieces.encode([row["output"] for row in rows])
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked = min(len(prompt) + 1, LONGEST - 1)
        found.append((asked, min(len(answer) + 1, LONGEST - asked)))
    return found


def some_of(lengths: Lengths, count: int, size: int) -> Lengths:
    """Sequences of some of the batches that a whole epoch has, so that those of like length are as like as there.

    From the shortest batch to the longest, at equal distances: a few then have the whole's mean length.
    """
    order = epoch_order([a + b for a, b in lengths], size, seed=0, epoch=0, group_by_length=True)
    batches = [[lengths[index] for index in order[at : at + size]] for at in range(0, len(order), size)]
    batches.sort(key=lambda batch: sum(a + b for a, b in batch))
    wanted = -(-count // size)
    picked = [batches[int((place + 0.5) / wanted * len(batches))] for place in range(wanted)]
    return [pair for batch in picked for pair in batch][:count]


def base(shape: str, device: str, dtype: torch.dtype, attention: str) -> LlamaForCausalLM:
    """A random base of a shape, made on the device in its dtype."""
    width, mlp, layers, heads, vocabulary, _ = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, attn_implementation=attention, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config)
    return model.to(dtype).requires_grad_(False)


def quantise(model: Any, bits: int) -> None:
    """The frozen layers in other forms, the head as it is."""
    if bits == 8:
        to_fp8(model, keep=model.lm_head)
    elif bits == 4:
        from bitsandbytes.nn import Linear4bit, Params4bit

        for layer in model.model.layers:
            for module in (layer.self_attn, layer.mlp):
                for name, old in list(module.named_children()):
                    if isinstance(old, nn.Linear):
                        new = Linear4bit(
                            old.in_features, old.out_features, False, old.weight.dtype, True, "nf4", device="meta"
                        )
                        new.weight = Params4bit(old.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                        setattr(module, name, new.to(old.weight.device))


def batches_of(lengths: Lengths, size: int, grouped: bool, vocabulary: int, device: str) -> list[dict[str, Tensor]]:
    """Random sequences of these lengths in padded batches."""
    order = epoch_order([a + b for a, b in lengths], size, seed=0, epoch=0, group_by_length=grouped)
    made = []
    for at in range(0, len(order), size):
        rows = [lengths[index] for index in order[at : at + size]]
        longest = max(a + b for a, b in rows)
        ids_BT = torch.randint(3, vocabulary, (len(rows), longest))
        mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -100)
        for row, (asked, answered) in enumerate(rows):
            mask_BT[row, : asked + answered] = 1
            labels_BT[row, asked : asked + answered] = ids_BT[row, asked : asked + answered]
        made.append(
            {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device), "labels": labels_BT.to(device)}
        )
    return made


def packed(batches: list[dict[str, Tensor]], rows: int) -> list[dict[str, Tensor]]:
    """The same sequences side by side in rows of 512, so many rows to a batch; each begins at position 0 again.

    transformers finds the borders in the positions and masks what lies across. One sequence more fills a row up.
    """
    found = []
    for batch in batches:
        for ids_T, mask_T, labels_T in zip(*(batch[n] for n in ("input_ids", "attention_mask", "labels")), strict=True):
            found.append((ids_T[mask_T.bool()], labels_T[mask_T.bool()]))
    bins: list[list[tuple[Tensor, Tensor]]] = []
    for one in sorted(found, key=lambda pair: -len(pair[0])):
        place = next((b for b in bins if sum(len(ids) for ids, _ in b) + len(one[0]) <= LONGEST), None)
        bins.append([one]) if place is None else place.append(one)
    made = []
    for at in range(0, len(bins), rows):
        columns: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "position_ids": []}
        for row in bins[at : at + rows]:
            rest = LONGEST - sum(len(ids) for ids, _ in row)
            filler = [(row[0][0].new_zeros(rest), row[0][1].new_full((rest,), -100))] if rest else []
            whole = row + filler
            columns["input_ids"].append(torch.cat([ids for ids, _ in whole]))
            columns["labels"].append(torch.cat([labels for _, labels in whole]))
            columns["position_ids"].append(torch.cat([torch.arange(len(ids), device=ids.device) for ids, _ in whole]))
        made.append({name: torch.stack(column) for name, column in columns.items()})
    return made


def padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch at the full length."""
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    room = LONGEST - batch["input_ids"].shape[1]
    return {name: F.pad(tensor, (0, room), value=fills[name]) for name, tensor in batch.items()}


def everywhere(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, int]:
    """The loss with logits at every position, as transformers computes it."""
    count = int((batch["labels"][:, 1:] != -100).sum())
    return model(**batch, use_cache=False).loss * count, count


def step(model: nn.Module, batches: list[dict[str, Tensor]], loss_of: Callable[..., tuple[Tensor, int]]) -> Turn:
    """One optimiser step over all batches."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4) if trained else None
    model.train()

    def turn() -> None:
        for batch in batches:
            loss, count = loss_of(model, batch)
            (loss / count).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return turn


def make(way: str, arguments: argparse.Namespace, lengths: Lengths) -> Turn:
    """A way of training, ready to take turns."""
    below = SHAPES[arguments.shape][5]
    dtype = torch.float32 if way == "full" and arguments.device == "cpu" else getattr(torch, arguments.dtype)
    model: Any = base(arguments.shape, arguments.device, dtype, arguments.attention)
    if way in ("bound", "ours", "packed", "lora"):
        quantise(model, arguments.bits)
    if way == "full":
        model.requires_grad_(True)
    elif way == "bound":
        model.model.layers[below].register_forward_pre_hook(_let_flow, with_kwargs=True)
    elif way == "lora":
        model = randomised(get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])))
    else:
        model = randomised(
            get_peft_model(model, ZeroInitConfig(prompt_length=10, num_layers=SHAPES[arguments.shape][2] - below))
        )
    if arguments.checkpointing:
        model.gradient_checkpointing_enable()
    vocabulary = SHAPES[arguments.shape][4]
    ours = way not in ("official", "TRL")
    batches = batches_of(lengths, arguments.micro_batch, ours, vocabulary, arguments.device)
    if way == "official":
        batches = [padded(batch) for batch in batches]
    head = output_head(model)
    if way == "packed":
        separate, batches = batches, packed(batches, max(1, arguments.micro_batch // 4))
        with torch.no_grad():  # they do not see each other: the loss is that of each by itself
            losses = [sum(summed_loss(model, head, b)[0].item() for b in those) for those in (separate, batches)]
        assert abs(losses[0] / losses[1] - 1) < 2e-3, losses
    return step(model, batches, (lambda m, b: summed_loss(m, head, b)) if ours else everywhere)


def flops_of_real_tokens(arguments: argparse.Namespace, lengths: Lengths) -> float:
    """What a step has to compute: forward through all layers, backward through the adapted ones, logits where learned.

    Matrix products only, 2 operations per weight and token; attention over real tokens; nothing for padding.
    """
    width, mlp, layers, _, vocabulary, below = SHAPES[arguments.shape]
    weights = 4 * width * width + 3 * width * mlp
    total = 0.0
    for asked, answered in lengths:
        tokens = asked + answered
        layer = 2 * weights * tokens + 2 * width * tokens * tokens  # the second: causal scores and values
        total += layers * layer + (layers - below) * (2 * weights * tokens + 4 * width * tokens * tokens)
        total += 2 * 2 * width * vocabulary * answered
    return total


def main() -> None:
    """Measure and print one table."""
    parser = arguments_of(__doc__, rounds=5, quick_rounds=2)
    add = parser.add_argument
    shared = Path(__file__).resolve().parents[2] / "shared/data"
    add("--shape", choices=SHAPES, default="small", help="of the base (default: %(default)s)")
    add("--only", nargs="+", choices=["official", "TRL", "ours", "packed", "lora", "full", "bound"],
        default=["official", "TRL", "ours", "lora", "bound"])  # fmt: skip
    add("--sequences", type=int, help="in an optimiser step (default: 64, quick: 8)")
    add("--micro-batch", type=int, help="sequences per forward pass (default: 8, quick: 4)")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the frozen base")
    add("--bits", type=int, choices=[4, 8, 16], default=16, help="of the frozen base in bound, ours, packed and lora: "
        "nf4 (bitsandbytes), products in fp8, or as --dtype says (default)")  # fmt: skip
    add("--attention", default="sdpa", help="attn_implementation (default: %(default)s)")
    add("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--peak", type=float, default=989e12, help="the device's operations per second, for its utilisation")
    add("--data", type=Path, default=shared / "alpaca/alpaca_data.json.xz", help="Alpaca's records")
    add("--tokenizer", type=Path, default=shared / "tokenizers/llama_tokenizer.model", help="LLaMA's tokenizer")
    add("--lengths", type=Path, metavar="FILE", help="take the lengths from here instead")
    add("--write-lengths", type=Path, metavar="FILE", help="write the lengths, and do nothing else")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    given = json.loads(arguments.lengths.read_text()) if arguments.lengths else None
    lengths: Lengths = given or read_lengths(arguments.data, arguments.tokenizer)
    if arguments.write_lengths:
        write(arguments.write_lengths, lengths)
        return
    arguments.sequences = arguments.sequences or (8 if arguments.quick else 64)
    arguments.micro_batch = arguments.micro_batch or (4 if arguments.quick else 8)
    chosen = some_of(lengths, arguments.sequences, arguments.micro_batch)
    real = sum(a + b for a, b in chosen)
    turns, peaks = {}, {}
    for way in arguments.only:
        turn = make(way, arguments, chosen)
        if arguments.device.startswith("cuda"):
            # Each alone, and its peak memory: two bases of 7B and their activations leave no room for a third.
            torch.cuda.reset_peak_memory_stats()
            turn()
            peaks[way] = torch.cuda.max_memory_allocated() / 1e9
            turns.update({way: take_turns({way: turn}, rounds, warm_up=1)[way]})
            del turn
            torch.cuda.empty_cache()
        else:
            turns[way] = turn  # type: ignore[assignment]
    times = turns if peaks else take_turns(turns, rounds, warm_up=1)  # type: ignore[arg-type]
    whole = EPOCHS * sum(a + b for a, b in lengths)
    rows = []
    for way, timing in times.items():
        speed = real / timing.median
        row = [way, f"{timing.median:.2f}", f"{speed:,.0f}"]
        row.append(f"{timing.median and times[arguments.only[0]].median / timing.median:.2f}")
        row.append(f"{whole / speed / 60:,.0f}")
        if peaks:
            used = flops_of_real_tokens(arguments, chosen) / timing.median / arguments.peak
            row += [f"{used:.1%}", f"{peaks[way]:.1f}"]
        rows.append(row)
    header = ["", "s/step", "real tokens/s", f"times as fast as {arguments.only[0]}", "minutes for 52K x 5 epochs"]
    print(table(header + (["of the device's peak", "peak memory, GB"] if peaks else []), rows))
    mean = sum(a + b for a, b in lengths) / len(lengths)
    form = {4: ", base in nf4", 8: ", products in fp8", 16: ""}[arguments.bits]
    print(
        f"\n{arguments.shape}, {arguments.dtype}{form}, {arguments.sequences} sequences per step in batches of "
        f"{arguments.micro_batch}, {real:,} real tokens; Alpaca: {len(lengths):,} records of {mean:.0f} tokens on "
        f"average, {sum(b for _, b in lengths) / len(lengths):.0f} of them learned\n{rounds} turns; {machine()}"
    )
    write(
        arguments.json,
        {"machine": machine(), "seconds": {way: t.seconds for way, t in times.items()}, "peak_gb": peaks},
    )


if __name__ == "__main__":
    main()
