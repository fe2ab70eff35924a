"""Toolformer's two costs: calls sampled and calls weighed per second, against the plain ways, and how time grows.

    python benchmarks/toolform_speed.py

All on pocket. Sampling: behind the prompt that shows calls, as for a large base; `ours` computes prompt and text once
for all calls of a text, `each` once per call. Filter: texts of the pocket world joined to a length, with calls at
random places; `ours` scores a text once for all its calls, ends each call's two sequences where the weights do, and
puts sequences of like length in a batch; `whole` is the formula word by word: three whole texts per call, one at a
time. Both give the same gains. Measured in turn in one process on one thread; seconds are the processor's, so what else
the machine does matters little; medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zerogate.bases.load import load_base
from zerogate.toolform import pocket, sample
from zerogate.toolform.filter import WEIGHTS, Candidate, Losses, weigh
from zerogate.toolform.positions import Text
from zerogate.toolform.prefixes import shared_cache
from zerogate.toolform.sample import few_shot, propose
from zerogate.tools.calculator import calculator
from zerogate.tools.tool import Sampling
from zerogate.training.run_folder import versions


def make(tokenizer: Any, texts: int, tokens: int, calls: int) -> list[tuple[list[int], list[Candidate]]]:
    """Texts of so many tokens with so many calls each."""
    rng = random.Random(0)
    words = [token for one in pocket.documents(2000) for token in encode(tokenizer, " " + one.text)]
    made = []
    for _ in range(texts):
        at = rng.randrange(len(words) - tokens)
        text = words[at : at + tokens]
        made.append((text, [candidate(tokenizer, rng, tokens) for _ in range(calls)]))
    return made


def candidate(tokenizer: Any, rng: random.Random, tokens: int) -> Candidate:
    """A sum at a random place."""
    a, b = rng.randint(11, 99), rng.randint(11, 99)
    empty, full = (encode(tokenizer, f" [Calculator({a} + {b}) ->{result}]") for result in ("", f" {a + b}"))
    return Candidate(rng.randrange(tokens), empty, full)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


@torch.no_grad()
def whole(model: Any, start: list[int], text: list[int], call: Candidate) -> Losses:
    """The formula as it stands."""
    losses = []
    for prefix in ([], call.call, call.called):
        ids = [*start, *prefix, *text]
        logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        before = len(start) + len(prefix) + call.position
        losses.append(-sum(w * float(logits[before + t - 1, ids[before + t]])
                           for t, w in enumerate(WEIGHTS) if before + t < len(ids)))  # fmt: skip
    return Losses(*losses)


def sampled(model: Any, tokenizer: Any, positions: int, calls: int, rounds: int) -> tuple[int, list[float]]:
    """How many calls were begun in 8 texts, and the seconds with beginnings computed once, and for each call."""
    tool = replace(calculator(), sampling=Sampling(threshold=0.0, positions=positions, calls=calls))
    documents = [one.text for one in pocket.documents(100) if one.truth][:8]
    texts = [
        Text([tokenizer.bos_token_id, *encode(tokenizer, few_shot(tool, text))], encode(tokenizer, text))
        for text in documents
    ]
    took: list[list[float]] = [[], []]
    for _ in range(rounds):
        for place, share in enumerate((shared_cache, lambda *given: {})):
            sample.shared_cache = share  # type: ignore[assignment]
            began = time.process_time()
            found = propose(model, tokenizer, tool, texts)
            took[place].append(time.process_time() - began)
    sample.shared_cache = shared_cache
    return sum(one.sampled for one in found), [statistics.median(one) for one in took]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, fewer sizes: under a minute")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_base("pocket", dtype="float32")
    model.eval()
    start, pad = [tokenizer.bos_token_id], tokenizer.pad_token_id

    def ours(texts: list[tuple[list[int], list[Candidate]]]) -> float:
        began = time.process_time()
        weigh(model, start, texts, pad)
        return time.process_time() - began

    def one_by_one(texts: list[tuple[list[int], list[Candidate]]]) -> float:
        began = time.process_time()
        for text, calls in texts:
            for call in calls:
                whole(model, start, text, call)
        return time.process_time() - began

    small = make(tokenizer, 2, 128, 5)
    fast = [losses.gain for found in weigh(model, start, small, pad) for losses in found]
    slow = [whole(model, start, text, call).gain for text, calls in small for call in calls]
    worst = max(abs(a - b) for a, b in zip(fast, slow, strict=True))
    print(f"largest difference of a gain: {worst:.1e} nats")

    figures: dict[str, list[dict[str, float]]] = {"sampling": [], "filter": []}
    rounds = 1 if arguments.quick else arguments.rounds
    print("sampling: calls per text  ours calls/s  each calls/s  ratio")
    for positions, calls in [(2, 4)] if arguments.quick else [(2, 4), (4, 4), (4, 8)]:
        count, took = sampled(model, tokenizer, positions, calls, rounds)
        figures["sampling"].append({"calls": positions * calls, "ours": count / took[0], "each": count / took[1]})
        print(f"{positions * calls:24}  {count / took[0]:12.1f}  {count / took[1]:12.1f}  {took[1] / took[0]:5.2f}")

    sizes = [(8, 128, 10), (16, 128, 10), (32, 128, 10), (16, 128, 5), (16, 128, 20), (16, 256, 10), (16, 64, 10)]
    print("filter: texts  tokens  calls each  ours calls/s  whole calls/s  ratio  ours ms/call")
    for texts, tokens, calls in sizes[:3] if arguments.quick else sizes:
        data = make(tokenizer, texts, tokens, calls)
        mine, theirs = zip(*((ours(data), one_by_one(data[:4])) for _ in range(rounds)), strict=True)
        count, part = texts * calls, min(4, texts) * calls
        per_ours, per_whole = statistics.median(mine) / count, statistics.median(theirs) / part
        row = {"texts": texts, "tokens": tokens, "calls": calls, "ours": 1 / per_ours, "whole": 1 / per_whole}
        figures["filter"].append(row)
        print(f"{texts:13}  {tokens:6}  {calls:10}  {1 / per_ours:12.0f}  {1 / per_whole:13.1f}  "
              f"{per_whole / per_ours:5.1f}  {1000 * per_ours:12.2f}", flush=True)  # fmt: skip
    if arguments.out:
        arguments.out.write_text(json.dumps({**figures, "difference": worst, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
