"""Calls that the model itself proposes for a text (Toolformer, section 2, "Sampling API calls"): where it would open
one, several are sampled, and those that never close or are no call of the tool are dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import LogitsProcessorList

from zerogate.bases.decode import decode_batch
from zerogate.bases.sampling import RowSampler, Sampling
from zerogate.toolform.positions import Text, likely_positions
from zerogate.toolform.prefixes import shared_cache
from zerogate.tools.inline import CLOSE, OPEN, find_calls, without_calls, write_call
from zerogate.tools.tool import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_TOKENS = 40
"""Of a call; longer ones are taken for calls that never close."""


@dataclass(frozen=True)
class Proposed:
    """What came of a text.

    Attributes:
        positions: i and p_i, by falling probability.
        sampled: how many calls were begun.
        calls: position and input of those that are well formed, each once, in order.
    """

    positions: list[tuple[int, float]]
    sampled: int
    calls: list[tuple[int, str]]


def few_shot(tool: Tool, text: str) -> str:
    """The prompt that shows a model how: the tool's examples without and with their calls, then the text.

    The examples' results are left out: what a call gives is not for the model to say.
    """
    lines = [
        f"Put calls of {tool.name} into a text where what they give helps with the words that follow. "
        f"{tool.description} A call is written [{tool.name}(input)].",
        "",
    ]
    for example in tool.examples:
        plain, shown, at = without_calls(example, [tool.name]), "", 0
        for call in find_calls(example, [tool.name]):
            shown += example[at : call.start] + write_call(call.name, call.input)
            at = call.end
        lines += [f"Text: {plain}", f"With calls: {shown}{example[at:]}", ""]
    return "\n".join([*lines, f"Text: {text}", "With calls:"])


def propose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tool: Tool,
    texts: Sequence[Text],
    *,
    opening: str = OPEN,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 64,
) -> list[Proposed]:
    """Find positions and sample calls in several texts.

    Args:
        model: in eval mode; a large one with `few_shot` before the text, or a small one with an adapter that proposes.
        tokenizer: its tokenizer.
        tool: says how many positions, and calls at each.
        texts: what to look at.
        opening: how a call begins: the bracket alone where the prompt is about one tool, the tool's name with it where
            the model has to choose among several.
        seed: the same one gives the same calls for the same text.
        temperature: of the sampling.
        batch_size: calls at a time.
    """
    settings = tool.sampling
    opened = tokenizer(opening, add_special_tokens=False)["input_ids"]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    positions = likely_positions(
        model, texts, opened, threshold=settings.threshold, most=settings.positions, pad_token_id=pad
    )
    asked = []
    for row, (text, found) in enumerate(zip(texts, positions, strict=True)):
        places = [index for index, _ in sorted(found) for _ in range(settings.calls)]
        seeds = [_seed(seed, tool.name, text.ids, number) for number in range(len(places))]
        asked += [(row, index, one) for index, one in zip(places, seeds, strict=True)]
    # Prompts of like length together; in what order they are answered does not matter.
    asked.sort(key=lambda one: len(texts[one[0]].before) + one[1])
    calls: list[set[tuple[int, str]]] = [set() for _ in texts]
    sampling = Sampling(temperature=temperature, top_p=1.0)
    for at in range(0, len(asked), batch_size):
        batch = asked[at : at + batch_size]
        prefixes = [[*texts[row].before, *texts[row].ids[:index]] for row, index, _ in batch]
        new = decode_batch(
            model,
            tokenizer,
            [[*prefix, *opened] for prefix in prefixes],
            max_new_tokens=MOST_TOKENS,
            stop=[CLOSE],
            logits_processor=LogitsProcessorList([RowSampler(sampling, [one for _, _, one in batch])]),
            **shared_cache(model, prefixes, [row for row, _, _ in batch], pad),
        )
        for (row, index, _), ids in zip(batch, new, strict=True):
            said, closed, _ = str(tokenizer.decode([*opened, *ids], skip_special_tokens=True)).partition(CLOSE)
            made = find_calls(f"{said}{CLOSE}", [tool.name]) if closed else []
            if len(made) == 1 and made[0].result is None and made[0].start == 0:
                calls[row].add((index, made[0].input))
    return [
        Proposed(found, settings.calls * len(found), sorted(made)) for found, made in zip(positions, calls, strict=True)
    ]


def _seed(seed: int, name: str, text: Sequence[int], number: int) -> int:
    """Of one call: it depends on the text and the call's number alone, so a run that was stopped goes on as it was."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name} {number} {list(text)}".encode()).digest()[:7], "big")
