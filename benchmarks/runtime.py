"""Loading and activating an adapter while a base is in use, what a resident adapter costs, and what the import costs.

    python benchmarks/runtime.py

Loading is PEFT's `load_adapter` and then `set_adapter`, from a saved folder: a new adapter each turn, deleted after it.
Imports are timed in fresh interpreters, taking turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from bound import K, base, randomised
from measure import Turn, arguments_of, machine, settle, table, take_turns, write
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from zerogate import ZeroInitConfig


def saved(arguments: argparse.Namespace, config: PeftConfig, folder: Path) -> PeftModel:
    """A model with an adapter that has been saved to `folder`."""
    model = get_peft_model(base(arguments, torch.bfloat16), config)
    randomised(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model


def loading(model: PeftModel, folder: Path) -> Turn:
    """Load one more adapter, activate it, take it away."""

    def turn() -> None:
        model.load_adapter(str(folder), adapter_name="more")
        model.set_adapter("more")
        model.set_adapter("default")
        model.delete_adapter("more")

    return turn


def importing(what: str) -> Turn:
    """A fresh interpreter that imports this."""

    def turn() -> None:
        subprocess.run([sys.executable, "-W", "ignore", "-c", what], check=True, capture_output=True)

    return turn


def resident(layers: int, width: int) -> dict[str, int]:
    """Bytes of an adapter's parameters, as kept in memory, and of the keys and values that the layers remember."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=width, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=width // 64
    )
    with torch.device("meta"):
        model = get_peft_model(LlamaForCausalLM(config), ZeroInitConfig(prompt_length=K))
    own = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if ".zero_init." in n)
    return {"parameters, fp32": own, "remembered keys and values, bf16": 2 * layers * K * width * 2}


def main() -> None:
    """Measure and print three tables."""
    parser = arguments_of(__doc__, rounds=15, quick_rounds=3)
    add = parser.add_argument
    add("--layers", type=int, default=12, help="of the base (default: %(default)s)")
    add("--width", type=int, default=512, help="hidden size (default: %(default)s)")
    add("--vocabulary", type=int, default=4096, help="tokens the base knows (default: %(default)s)")
    add("--attention", default="sdpa", help="attn_implementation (default: %(default)s)")
    add("--device", default="cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    rounds = settle(arguments)
    kept: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as place:
        turns = {}
        for name, config in (
            ("zero-init (ours)", ZeroInitConfig(prompt_length=K)),
            ("PEFT LoRA, rank 8", LoraConfig(r=8, target_modules=["q_proj", "v_proj"])),
        ):
            folder = Path(place) / name.split()[0]
            turns[name] = loading(saved(arguments, config, folder), folder)
        times = take_turns(turns, rounds)
    print(f"Load, activate and delete an adapter: {arguments.layers} layers, {arguments.width} wide, {rounds} turns\n")
    print(table(["", "milliseconds"], [[name, f"{t.median * 1e3:.1f}"] for name, t in times.items()]) + "\n")
    kept["loading"] = {name: timing.seconds for name, timing in times.items()}
    shapes = {"this base": resident(arguments.layers, arguments.width), "LLaMA-7B": resident(32, 4096)}
    rows = [[part, *(f"{sizes[part] / 1e6:.2f}" for sizes in shapes.values())] for part in shapes["this base"]]
    print(table(["MB of a resident adapter, every layer", *shapes], rows) + "\n")
    kept["resident bytes"] = shapes
    lines = {"transformers and peft": "import transformers, peft", "zerogate": "import zerogate"}
    # Both end with the same model classes at hand; transformers alone would import next to nothing.
    uses = "; from peft import PeftModel, get_peft_model; from transformers import AutoModelForCausalLM"
    times = take_turns({name: importing(line + uses) for name, line in lines.items()}, rounds, warm_up=1)
    middle, low, high = times["zerogate"].over(times["transformers and peft"])
    print(table(["import", "seconds", "ratio"], [
        ["transformers and peft", f"{times['transformers and peft'].median:.2f}", "1"],
        ["zerogate", f"{times['zerogate'].median:.2f}", f"{middle:.3f} ({low:.3f} to {high:.3f})"],
    ]))  # fmt: skip
    kept["imports"] = {name: timing.seconds for name, timing in times.items()}
    print(f"\n{machine()}")
    write(arguments.json, kept)


if __name__ == "__main__":
    main()
