"""Train the pocket base from nothing: a 7-million-parameter LLaMA on novels, encyclopaedia paragraphs and the pocket
world.

    python -m zerogate.bases.pocket.pretrain --data ../shared/data --out runs/pocket --minutes 60

does everything in order and can be stopped and started again at any time (same command): the tokenizer, the token
file, the training with a checkpoint every few minutes, and `runs/pocket/export/`, a folder that transformers loads
and that becomes `src/zerogate/bases/pocket/`. Two CPU cores reach about 3,500 tokens a second (12 million in an
hour); a GPU is used if there is one. The learning rate follows the clock, not a step count: it rises for 2 % of the
time, stays, and falls to zero over the last 45 %, so the run ends well on any machine. Muon (orthogonalised
momentum) updates the layers' matrices, AdamW the embedding and norms; matrix products run in bf16, the weights are
kept in fp32 until they are exported as bf16.

Watch `runs/pocket/metrics.jsonl`, and ask a checkpoint what it knows with `python -m zerogate.bases.pocket.probe`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    GenerationConfig,
    GPTJConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from zerogate.bases.pocket import corpus
from zerogate.bases.pocket.tokenizer import BOS_ID, EOS_ID, MAX_LENGTH, PAD_ID, tokenizer_texts, train_tokenizer
from zerogate.errors import UserError

HEAD = 32  # size of a head
WARMUP_SHARE, DECAY_SHARE = 0.02, 0.45
EMBEDDING_LR_RATIO = 0.5  # AdamW's rate for embedding and norms, as a share of Muon's


@dataclass
class Progress:
    """What a resumed run must know besides weights and optimiser state."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


def model_config(architecture: str = "llama", width: int = 256, layers: int = 8) -> PretrainedConfig:
    """The shape of a base: heads of 32, embeddings tied. The pocket base is a llama of 8 layers of width 256.

    Args:
        architecture: llama (half as many key/value as query heads), bloom, opt or gptj.
        width: hidden size, a multiple of 64.
        layers: decoder layers.

    Raises:
        UserError: the width is no multiple of 64.
    """
    if width % 64:
        raise UserError(f"--width must be a multiple of 64, not {width}: two heads of 32, sharing keys and values")
    heads, inner = width // HEAD, 2 * width
    common: dict[str, Any] = {
        "vocab_size": 4096,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    common["tie_word_embeddings"] = True
    if architecture == "bloom":
        return BloomConfig(hidden_size=width, n_layer=layers, n_head=heads, **common)
    if architecture == "opt":
        return OPTConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, ffn_dim=2 * inner,
            max_position_embeddings=MAX_LENGTH, word_embed_proj_dim=width, dropout=0.0, **common,
        )  # fmt: skip
    if architecture == "gptj":
        return GPTJConfig(
            n_embd=width, n_layer=layers, n_head=heads, rotary_dim=HEAD // 2, n_positions=MAX_LENGTH,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common,
        )  # fmt: skip
    return LlamaConfig(
        hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, max_position_embeddings=MAX_LENGTH, **common,
    )  # fmt: skip


def prepare_tokenizer(folder: Path, data: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`, trained first if it is not there."""
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer(tokenizer_texts(data)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def pack(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """`<s> document </s>` one after the other, as one row of uint16 token ids."""
    encoded = tokenizer(documents, return_attention_mask=False, verbose=False)["input_ids"]
    return np.concatenate([np.array([*ids, EOS_ID], dtype=np.uint16) for ids in encoded])


def prepare_tokens(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    data: Path,
    million_tokens: float,
    world_share: float,
    drill: int,
    seed: int,
) -> np.ndarray:
    """The whole training text as token ids, in the order it is read; made once and kept in `path`."""
    if path.is_file():
        return np.load(path, mmap_mode="r")
    wanted = int(million_tokens * 1e6)
    pieces: list[np.ndarray] = []
    free = iter(corpus.free_text(data, seed))
    size, round_number = 0, seed * 100_000
    while size < wanted:  # one world round at a time, with its share of free text shuffled in
        world = corpus.world_round(round_number, drill)
        free_characters = sum(map(len, world)) * (1 - world_share) / world_share
        mixed = list(world)
        while free_characters > 0:
            passage = next(free)
            mixed.append(passage)
            free_characters -= len(passage)
        random.Random(round_number).shuffle(mixed)
        pieces.append(pack(mixed, tokenizer))
        size += len(pieces[-1])
        round_number += 1
    partial = path.with_suffix(".partial.npy")
    np.save(partial, np.concatenate(pieces)[:wanted])
    partial.rename(path)
    return np.load(path, mmap_mode="r")


def learning_rate_factor(done: float) -> float:
    """Warm-up, plateau and linear fall to zero, as a factor of the peak; `done` is the share of time that passed."""
    return max(0.0, min(done / WARMUP_SHARE, 1.0, (1.0 - done) / DECAY_SHARE))


def optimisers(model: PreTrainedModel, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embeddings and all that is no matrix."""
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    tables += [model.get_output_embeddings()]
    kept = {id(table.weight) for table in tables}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in kept]
    others = [p for p in model.parameters() if p.ndim != 2 or id(p) in kept]
    built: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr * EMBEDDING_LR_RATIO, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimiser in built:
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return built


def save_checkpoint(path: Path, model: PreTrainedModel, opts: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write weights, optimiser state and progress; an interrupted write leaves the previous checkpoint whole."""
    state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in opts], "progress": asdict(progress)}
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def load_checkpoint(path: Path, model: PreTrainedModel, opts: list[torch.optim.Optimizer]) -> Progress:
    """Put back what `save_checkpoint` wrote, if it is there."""
    if not path.is_file():
        return Progress()
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(opts, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return Progress(**state["progress"])


def export(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the base in bf16 as transformers loads it, with tokenizer and generation settings."""
    clone = AutoModelForCausalLM.from_config(model.config)
    clone.load_state_dict(model.state_dict())
    clone.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=128
    )
    for parameter in clone.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    clone.config.dtype = torch.bfloat16
    clone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(arguments: argparse.Namespace) -> None:
    """The whole route from text to exported base."""
    data, out = corpus.data_folder(arguments.data), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = prepare_tokenizer(arguments.start or out / "tokenizer", data)
    tokens = prepare_tokens(
        out / "tokens.npy",
        tokenizer,
        data,
        arguments.million_tokens,
        arguments.world_share,
        arguments.drill,
        arguments.seed,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    model = AutoModelForCausalLM.from_config(model_config(arguments.architecture, arguments.width, arguments.layers))
    if arguments.start is not None:  # only the weights: rate, clock and optimiser state begin anew
        model.load_state_dict(AutoModelForCausalLM.from_pretrained(arguments.start, dtype=torch.float32).state_dict())
    torch.nn.Module.to(model, device)
    opts = optimisers(model, arguments.lr)
    progress = load_checkpoint(out / "checkpoint.pt", model, opts)
    print(
        f"{model.num_parameters():,} parameters, {len(tokens):,} tokens, {device}, from step {progress.step}",
        flush=True,
    )

    def loss_of(ids_BT: torch.Tensor) -> torch.Tensor:
        logits_BTV = model(ids_BT[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), ids_BT[:, 1:].flatten())

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(loss_of) if arguments.compile else loss_of
    windows = (len(tokens) - 1) // arguments.length
    # A long passage would fill batch after batch with one book, and the world would be forgotten meanwhile.
    order = np.random.default_rng(arguments.seed).permutation(windows)
    budget, last_saved = arguments.minutes * 60, time.monotonic()
    while progress.seconds < budget:
        started = time.monotonic()
        first = progress.tokens // arguments.length
        rows = [order[(first + i) % windows] * arguments.length for i in range(arguments.batch)]
        ids = np.stack([tokens[row : row + arguments.length + 1] for row in rows]).astype(np.int64)
        ids_BT = torch.from_numpy(ids).to(device)
        factor = learning_rate_factor(max(progress.seconds, 1.0) / budget)
        for optimiser in opts:
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * factor
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(ids_BT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in opts:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss is {value} at step {progress.step}; {out}/checkpoint.pt is the last good one"
            )
        elapsed = time.monotonic() - started
        progress.step += 1
        progress.seconds += min(elapsed, 30.0)  # compiling is not training
        progress.tokens += arguments.batch * arguments.length
        if progress.step % 10 == 0:
            speed = round(arguments.batch * arguments.length / elapsed)
            row = {**asdict(progress), "loss": round(value, 4), "lr": arguments.lr * factor, "tokens_per_second": speed}
            print(json.dumps(row), flush=True)
            with (out / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if time.monotonic() - last_saved > arguments.save_every * 60:
            save_checkpoint(out / "checkpoint.pt", model, opts, progress)
            export(out / "preview", model, tokenizer)
            last_saved = time.monotonic()
    save_checkpoint(out / "checkpoint.pt", model, opts, progress)
    export(out / "export", model, tokenizer)
    print(f"done: {progress.tokens:,} tokens in {progress.seconds / 60:.1f} min; the base is in {out}/export")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder that holds text/ and squad/ (default: $ZEROGATE_DATA)")
    add("--out", type=Path, default=Path("runs/pocket"), help="folder of the run (default: %(default)s)")
    add("--minutes", type=float, default=60, help="training time, saved and resumed too (default: %(default)s)")
    add("--lr", type=float, default=0.003, help="peak learning rate of Muon (default: %(default)s)")
    add("--architecture", choices=("llama", "bloom", "opt", "gptj"), default="llama", help="(default: %(default)s)")
    add("--width", type=int, default=256, help="hidden size (default: %(default)s)")
    add("--layers", type=int, default=8, help="decoder layers (default: %(default)s)")
    add("--batch", type=int, default=16, help="windows in a step (default: %(default)s)")
    add("--length", type=int, default=512, help="tokens in a window (default: %(default)s)")
    add("--million-tokens", type=float, default=18, help="size of the text (default: %(default)s)")
    add("--world-share", type=float, default=0.6, help="the pocket world's share of it (default: %(default)s)")
    add("--drill", type=int, default=0, help="times to tell the hard facts besides, per round (default: %(default)s)")
    add("--start", type=Path, help="a finished base (a run's export/) whose weights and tokenizer to start from")
    add("--seed", type=int, default=0, help="seed of the text and the weights (default: %(default)s)")
    add("--save-every", type=float, default=4, help="minutes between checkpoints (default: %(default)s)")
    add("--no-compile", dest="compile", action="store_false", help="do without torch.compile")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
