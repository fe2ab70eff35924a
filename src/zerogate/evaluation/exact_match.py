"""Ask questions with known answers, greedily, and count the right ones.

    from zerogate.evaluation.exact_match import exact_match
    score = exact_match(model, tokenizer, records)      # records: {"instruction", "input", "output"}
    print(f"{score.exact:.1%} exact, {score.contains:.1%} contain the answer, of {score.n}")

An answer is exact when it is the expected text, white space at its ends aside: same words, case and punctuation. It
contains the answer when the expected text, its final full stop aside, stands in it as whole words, in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zerogate.bases.decode import decode_batch
from zerogate.errors import UserError
from zerogate.vision.adapter_encoders import AdapterEncoders, active_adapter, arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from zerogate.data.templates import TemplateName


@dataclass(frozen=True)
class Answered:
    """One question, what was expected and what came."""

    instruction: str
    input: str
    expected: str
    answer: str
    exact: bool
    contains: bool


@dataclass(frozen=True)
class ExactMatch:
    """The score of a set: `exact` and `contains` are shares between 0 and 1 of `n` questions."""

    exact: float
    contains: float
    n: int
    rows: list[Answered]


def exact_match(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Mapping[str, Any]],
    *,
    template: TemplateName = "alpaca",
    max_new_tokens: int = 32,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> ExactMatch:
    """Answer every record greedily with the adapter that is active, and score the answers.

    Args:
        model: base or adapted model, in eval mode.
        tokenizer: its tokenizer.
        records: Alpaca-style; `output` is the expected answer, `input` may be absent. `answer` may give the words that
            matter (`a den`), which is what an answer must then contain. `images` (of `zerogate.vision`) are shown to an
            adapter that takes them.
        template: how the question is worded.
        max_new_tokens: longest answer, which is to be longer than any expected one.
        batch_size: rows at a time.
        progress: called with the number of rows done since the last call.

    Raises:
        UserError: no records, one without an expected answer, or an image that cannot be read.
    """
    from zerogate.data import Turn, prompt_ids

    if not records:
        raise UserError("there are no questions to ask: the list of records is empty")
    for row, record in enumerate(records, start=1):
        if not str(record.get("output", "")).strip():
            raise UserError(f"record {row} has no output to compare an answer with")
    prompts = [
        prompt_ids([Turn("user", record["instruction"], record.get("input", ""))], template, tokenizer)
        for record in records
    ]
    # Neighbours of like length need little padding. The order of the result is the records'.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers: dict[int, str] = {}
    encoders, adapter = AdapterEncoders(model), active_adapter(model)
    shown = [record.get("images", ()) if adapter in encoders.seeing else () for record in records]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        features = encoders.features([adapter] * len(batch), [shown[row] for row in batch])
        new_ids = decode_batch(
            model, tokenizer, [prompts[row] for row in batch], max_new_tokens=max_new_tokens, **arguments(features)
        )
        texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        answers.update(zip(batch, texts, strict=True))
        if progress is not None:
            progress(len(batch))
    rows = [
        Answered(
            instruction=record["instruction"],
            input=record.get("input", ""),
            expected=record["output"],
            answer=answers[row].strip(),
            exact=is_exact(answers[row], record["output"]),
            contains=contains(answers[row], record.get("answer") or record["output"]),
        )
        for row, record in enumerate(records)
    ]
    n = len(rows)
    return ExactMatch(sum(row.exact for row in rows) / n, sum(row.contains for row in rows) / n, n, rows)


def is_exact(answer: str, expected: str) -> bool:
    """The same text, white space at the ends aside."""
    return answer.strip() == expected.strip()


def contains(answer: str, expected: str) -> bool:
    """The expected text stands in the answer as whole words, in any case, its final full stop aside."""
    wanted = expected.strip().rstrip(".").strip()
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", answer, flags=re.IGNORECASE) is not None
