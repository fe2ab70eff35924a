"""Train pocket-eye from nothing: a CLIP of two million parameters on pictures with captions.

    python -m zerogate.vision.pocket_eye.train --data ../shared/data --out runs/pocket-eye --minutes 40

can be stopped and started again at any time (same command) and ends with `runs/pocket-eye/export/`, a folder that
transformers loads. Three pictures in five are drawn on the spot (`zerogate.vision.pictures`), so no two batches show
the same; the rest are real files: easy-VQA, NLVR, MNIST and MedNIST. Pictures whose number is in `HELD_OUT` are never
looked at. A third of the captions open with "a picture of". Captions that several pictures of a batch share count as
right for all of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerBase

from zerogate.bases.load import base_path
from zerogate.vision.pictures import COLOURS, SHAPES, SIZE, draw_scene

HELD_OUT = range(3200, 4000)
"""Numbers of easy-VQA's training pictures that are left for measuring."""

MEAN, STD = (0.85, 0.85, 0.85), (0.25, 0.25, 0.25)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SCANS = {
    "AbdomenCT": "a CT scan of an abdomen", "BreastMRI": "an MRI scan of a breast", "CXR": "an X-ray of a chest",
    "ChestCT": "a CT scan of a chest", "Hand": "an X-ray of a hand", "HeadCT": "a CT scan of a head",
}  # fmt: skip
Picture = tuple[Image.Image, str]


@dataclass(frozen=True)
class Source:
    """Pictures with captions: how to draw one, and its share of a batch."""

    share: float
    draw: Callable[[random.Random], Picture]


def configuration() -> CLIPConfig:
    """The shape: 64 x 64 pixels in patches of 8; 6 layers of width 128 that look, 3 that read."""
    vision = {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": SIZE, "patch_size": 8,
    }  # fmt: skip
    text = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": 4096, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=128)


def processor() -> CLIPImageProcessor:
    """Any picture, squeezed into the square: nothing is cut off."""
    size = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessor(
        size=size, do_center_crop=False, image_mean=list(MEAN), image_std=list(STD), do_convert_rgb=True
    )


def text_tokenizer() -> PreTrainedTokenizerBase:
    """Pocket's tokenizer, which here closes every text with the token at which a CLIP looks."""
    tokenizer = AutoTokenizer.from_pretrained(base_path("pocket"))
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer  # type: ignore[no-any-return]


def drawn(rng: random.Random) -> Picture:
    """A scene made up on the spot; half of them show a single shape, and some captions leave the place out."""
    scene = draw_scene(rng, most=1 if rng.random() < 0.5 else 3)
    if len(scene.shapes) == 1 and rng.random() < 0.5:
        shape = scene.shapes[0]
        return scene.picture(), f"a {shape.colour} {shape.kind}"
    return scene.picture(), scene.caption()


def sources(data: Path) -> list[Source]:
    """All there is to look at."""
    images = data / "images"
    return [
        Source(0.60, drawn),
        Source(0.20, _from(_easy_vqa(images / "easy_vqa_train.tar"))),
        Source(0.08, _from(_nlvr(images / "nlvr_dev.tar.xz"))),
        Source(0.06, _from(_classes(images / "mnist_1k.tar", lambda name: f"the digit {_DIGITS[int(name)]}"))),
        Source(0.06, _from(_classes(images / "mednist_1k.tar", _SCANS.__getitem__))),
    ]


def _from(pictures: list[tuple[Image.Image, str]]) -> Callable[[random.Random], Picture]:
    return lambda rng: rng.choice(pictures)


def _small(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        return {m.name: opened.extractfile(m).read() for m in opened if m.isfile()}  # type: ignore[union-attr]


def _easy_vqa(archive: Path) -> list[Picture]:
    files = _members(archive)
    known: dict[int, set[str]] = defaultdict(set)
    questions = next(data for name, data in files.items() if name.endswith("train/questions.json"))
    for question, answer, number in json.loads(questions):
        words = question.rstrip("?").split()
        said = {answer} if answer not in ("yes", "no") else set(words) if answer == "yes" else set()
        if not {"no", "not"} & set(words) or answer not in ("yes", "no"):
            known[number] |= said & {*SHAPES, *COLOURS}
    pictures = []
    for name, data in files.items():
        if name.endswith(".png") and int(Path(name).stem) not in HELD_OUT:
            words = known[int(Path(name).stem)]
            colour = next((w for w in words if w in COLOURS), None)
            shape = next((w for w in words if w in SHAPES), "shape")
            pictures.append((_small(data), f"a {colour} {shape}" if colour else f"a {shape}"))
    return pictures


def _nlvr(archive: Path) -> list[Picture]:
    files = _members(archive)
    said = [json.loads(line) for line in files["dev.json"].splitlines()]
    true = {row["identifier"]: row["sentence"].strip().rstrip(".").lower() for row in said if row["label"] == "true"}
    pictures = []
    for name, data in files.items():
        if name.endswith(".png"):
            identifier = Path(name).stem.removeprefix("dev-").rsplit("-", 1)[0]
            if identifier in true:
                pictures.append((_small(data), true[identifier]))
    return pictures


def _classes(archive: Path, caption: Callable[[str], str]) -> list[Picture]:
    files = {name: data for name, data in _members(archive).items() if "train/" in name}
    return [(_small(data), caption(Path(name).parent.name)) for name, data in files.items()]


def batch(found: list[Source], size: int, rng: random.Random) -> tuple[Tensor, list[str]]:
    """Pixels [B, 3, S, S] and captions."""
    chosen = rng.choices(found, [source.share for source in found], k=size)
    pictures = [source.draw(rng) for source in chosen]
    pixels = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture, _ in pictures])
    normed = (torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(STD)
    openings = rng.choices(("", "a picture of "), (2, 1), k=size)
    captions = [
        opening + said if said.startswith("a ") else said for opening, (_, said) in zip(openings, pictures, strict=True)
    ]
    return normed.permute(0, 3, 1, 2), captions


def contrastive_loss(model: CLIPModel, pixels: Tensor, tokens: dict[str, Tensor], same_BB: Tensor) -> Tensor:
    """CLIP's loss in both directions; pictures with one caption share its probability."""
    out = model(pixel_values=pixels, **tokens)
    right_BB = same_BB / same_BB.sum(-1, keepdim=True)
    by_image = F.cross_entropy(out.logits_per_image.float(), right_BB)
    return (by_image + F.cross_entropy(out.logits_per_text.float(), right_BB)) / 2


def train(arguments: argparse.Namespace) -> None:
    """The whole route from pictures to the exported encoder."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    tokenizer = text_tokenizer()
    # On CPUs the fused attention's backward pass takes four times as long as plain products of matrices this small.
    model = CLIPModel._from_config(configuration(), attn_implementation="eager")
    optimiser = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.05)
    step, seconds = 0, 0.0
    if (out / "checkpoint.pt").is_file():
        saved = torch.load(out / "checkpoint.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]
    found = sources(arguments.data)
    print(f"{model.num_parameters():,} parameters, from step {step}", flush=True)
    budget, last_saved = arguments.minutes * 60, time.monotonic()
    while seconds < budget:
        started = time.monotonic()
        done = max(seconds, 1.0) / budget
        for group in optimiser.param_groups:
            group["lr"] = arguments.lr * min(done / 0.03, 1.0, (1.0 - done) / 0.6)
        pixels, captions = batch(found, arguments.batch, random.Random(f"{arguments.seed} {step}"))
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        same = torch.tensor([[float(a == b) for b in captions] for a in captions])
        with torch.autocast("cpu", torch.bfloat16):
            loss = contrastive_loss(model, pixels, given, same)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        seconds += time.monotonic() - started
        if step % 20 == 0:
            row = {"step": step, "seconds": round(seconds), "loss": round(loss.item(), 4), "lr": group["lr"]}
            print(json.dumps(row), flush=True)
        if time.monotonic() - last_saved > 120 or seconds >= budget:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds}
            torch.save(state, out / "checkpoint.partial")
            os.replace(out / "checkpoint.partial", out / "checkpoint.pt")
            last_saved = time.monotonic()
    torch.nn.Module.to(model, torch.bfloat16).save_pretrained(out / "export")
    tokenizer.save_pretrained(out / "export")
    processor().save_pretrained(out / "export")
    print(f"done: {step} steps of {arguments.batch}; pocket-eye is in {out}/export")


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="folder that holds images/ (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/pocket-eye"), help="folder of the run (default: %(default)s)")
    add("--minutes", type=float, default=40, help="training time, saved and resumed too (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--batch", type=int, default=192, help="pictures in a step (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of weights and batches (default: %(default)s)")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
