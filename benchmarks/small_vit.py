"""Train a small vision transformer on CIFAR-10: the base of the VTAB-1k table, which needs a pretrained one.

    python benchmarks/small_vit.py ../shared/data/images/cifar10.tar runs/small-vit

transformers' ViTForImageClassification: 2.7M parameters, pictures of 32 x 32 in patches of 4 x 4. Cropped and mirrored
pictures, and in training half of the patches left out (which halves the time, and keeps 12,000 pictures from being
learned by heart). One CPU core, about 50 processor seconds per epoch. Stopped, the same command goes on. The last
epoch's folder, `runs/small-vit/base`, is a base for `zerogate train`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from zerogate.training.checkpoints import write_folder, write_text
from zerogate.training.problems.image_files import decode, read_pictures

SIZE, BATCH, RATE, DECAY, WARMUP, KEPT = 32, 128, 1e-3, 0.05, 3, 0.5


def read(path: str, split: str, labels: list[str]) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [N, 3, 32, 32] and classes [N]."""
    pictures = read_pictures(path, split)
    images = [
        torch.frombuffer(bytearray(decode(p).resize((SIZE, SIZE)).tobytes()), dtype=torch.uint8) for p in pictures
    ]
    labels.extend(sorted({p.label for p in pictures} - set(labels)))
    x_NHWC = torch.stack(images).view(-1, SIZE, SIZE, 3)
    return x_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor([labels.index(p.label) for p in pictures])


def scaled(x: Tensor) -> Tensor:
    """What the image processor does: to [-1, 1]."""
    return x.float() / 127.5 - 1


def augmented(x_BCHW: Tensor) -> Tensor:
    """Each picture moved by up to four pixels, and mirrored or not."""
    padded = torch.nn.functional.pad(x_BCHW, (4, 4, 4, 4))
    moves = torch.randint(0, 9, (len(x_BCHW), 2)).tolist()
    flips = torch.rand(len(x_BCHW)) < 0.5
    cut = [image[:, top : top + SIZE, left : left + SIZE] for image, (top, left) in zip(padded, moves, strict=True)]
    return torch.stack([c.flip(-1) if f else c for c, f in zip(cut, flips, strict=True)])


def drop_patches(module: torch.nn.Module, args: object, x_BTC: Tensor) -> Tensor | None:
    """In training, a random half of each picture's patches; the class token stays."""
    if not module.training:
        return None
    B, T, C = x_BTC.shape
    kept = torch.rand(B, T - 1).argsort(1)[:, : int((T - 1) * KEPT)] + 1
    index = torch.cat([torch.zeros(B, 1, dtype=torch.long), kept], 1)
    return x_BTC.gather(1, index[..., None].expand(-1, -1, C))


@torch.no_grad()
def accuracy(model: ViTForImageClassification, x: Tensor, y: Tensor) -> float:
    """Share of right first choices."""
    model.eval()
    parts = [model(pixel_values=scaled(part)).logits.argmax(-1) for part in x.split(256)]
    model.train()
    return (torch.cat(parts) == y).float().mean().item()


def main() -> None:
    """Train, or go on training."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", help="cifar10.tar")
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--epochs", type=int, default=40)
    asked = arguments.parse_args()

    labels: list[str] = []
    x, y = read(asked.data, "train", labels)
    x_test, y_test = read(asked.data, "test", labels)
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=6, intermediate_size=768, image_size=SIZE,
        patch_size=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = ViTForImageClassification(config).train()
    model.vit.embeddings.register_forward_hook(drop_patches)
    flat = [p for p in model.parameters() if p.dim() < 2]
    deep = [p for p in model.parameters() if p.dim() >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": deep, "weight_decay": DECAY}, {"params": flat, "weight_decay": 0.0}], RATE
    )
    per_epoch = len(x) // BATCH
    total = asked.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (WARMUP * per_epoch), (1 + math.cos(math.pi * s / total)) / 2)
    )
    state_file, log = asked.output / "checkpoint" / "state.pt", asked.output / "log.jsonl"
    first, lines = 0, ""
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, lines = state["epoch"], state["log"]
    print(
        f"{model.num_parameters():,} parameters, {len(x):,} pictures, epochs {first + 1} to {asked.epochs}", flush=True
    )

    for epoch in range(first, asked.epochs):
        torch.manual_seed(epoch)
        start, losses = time.perf_counter(), []
        for rows in torch.randperm(len(x))[: per_epoch * BATCH].split(BATCH):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(pixel_values=augmented(scaled(x[rows])))
            loss = torch.nn.functional.cross_entropy(out.logits.float(), y[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        entry = {
            "epoch": epoch + 1,
            "loss": round(sum(losses) / len(losses), 4),
            "test_accuracy": round(accuracy(model, x_test, y_test), 4),
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(json.dumps(entry), flush=True)
        lines += json.dumps(entry) + "\n"
        write_text(log, lines)
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
            "epoch": epoch + 1, "log": lines,
        }  # fmt: skip
        write_folder(state_file.parent, lambda folder, state=state: torch.save(state, folder / "state.pt"))
        write_folder(asked.output / "base", lambda folder: _export(model, folder))


def _export(model: ViTForImageClassification, folder: Path) -> None:
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


if __name__ == "__main__":
    main()
