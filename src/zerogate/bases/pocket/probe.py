"""Ask a pocket base what it knows: does it finish each fact's sentence rightly, and how does it go on with a story?

    python -m zerogate.bases.pocket.probe                        the base in the package
    python -m zerogate.bases.pocket.probe runs/pocket/preview    a checkpoint of a running pretraining

A fact counts as known if greedy decoding continues the stem of its first wording (`A fox lives in`) with the answer
and a full stop. Whether it answers instructions about the same facts is another matter: see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from zerogate.bases.decode import decode_batch
from zerogate.bases.pocket.world import Fact, facts

OPENINGS = (
    "The old man walked slowly down the hill, and when he",
    "She looked at him for a moment and then said,",
    "The city was founded in the",
    "It was a cold morning in December, and the children",
    '"I have never seen such a thing," said the',
)
MARGIN = 14  # tokens: longer than any answer


def continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], new_tokens: int, batch: int = 128
) -> list[str]:
    """The greedy continuation of each prompt, at most `new_tokens` long."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        encoded = [tokenizer(prompts[i])["input_ids"] for i in rows]
        made = decode_batch(model, tokenizer, encoded, max_new_tokens=new_tokens)
        for row, ids in zip(rows, made, strict=True):
            texts[row] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def knows(fact: Fact, continuation: str) -> bool:
    """Whether the continuation of the fact's stem begins with the answer and the end of the sentence."""
    return continuation.strip().startswith(fact.telling[len(fact.stem) :].strip())


def fact_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """`(known, asked)` per relation and per split, and a line about each fact that came out wrong."""
    asked = list(facts())
    made = continuations(model, tokenizer, [fact.stem for fact in asked], MARGIN)
    counts: dict[str, tuple[int, int]] = {}
    wrong = []
    for fact, text in zip(asked, made, strict=True):
        right = knows(fact, text)
        for name in (fact.relation.name, f"[{fact.split}]", "[all]"):
            known, total = counts.get(name, (0, 0))
            counts[name] = (known + right, total + 1)
        if not right:
            wrong.append(f"{fact.telling}  <- {text.strip()[:50]!r}")
    return counts, wrong


def main() -> None:
    """Print what the base knows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "base", type=Path, nargs="?", default=Path(__file__).parent, help="folder (default: the package's)"
    )
    parser.add_argument("--wrong", type=int, default=10, help="how many wrong facts to print (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    counts, wrong = fact_accuracy(model, tokenizer)
    if arguments.json:
        print(json.dumps(counts))
        return
    for name, (known, total) in sorted(counts.items(), key=lambda item: item[1][0] / item[1][1]):
        print(f"{name:18} {known:5} of {total:5}  {known / total:6.1%}")
    print("\n".join(wrong[:: max(1, len(wrong) // max(1, arguments.wrong))][: arguments.wrong]))
    for opening, text in zip(OPENINGS, continuations(model, tokenizer, list(OPENINGS), 40), strict=True):
        print(f"* {opening} |{text}")


if __name__ == "__main__":
    main()
