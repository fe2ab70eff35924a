"""The same questions for a model with its tools, with its tools switched off, and without what it learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.data.jsonl import append_lines
from zerogate.toolform.document import Clock
from zerogate.toolform.positions import Text, likely_positions
from zerogate.toolform.score import Row, log_probs
from zerogate.toolform.tasks import Question
from zerogate.tools.inline import without_calls
from zerogate.tools.registry import Toolbox
from zerogate.tools.runtime import answer_with_tools

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NEGLIGIBLE = 1e-4
"""Places where an opening is less likely are taken to have none."""


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    tools: Toolbox,
    clock: Clock,
    start: Sequence[int],
    target: Path,
    *,
    most_calls: int,
    open_top_k: int,
    max_new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let a model finish texts; every answer is kept in `target`.

    Args:
        model, tokenizer: in eval mode.
        questions: what to finish.
        tools: what may be called, `most_calls` times at most; 0 switches them off.
        clock: the calendar's.
        start: the tokens before every text.
        target: a JSONL file, replaced.
        most_calls, open_top_k, max_new_tokens: as `answer_with_tools`.
        progress: called with questions done and in all.

    Returns:
        `questions`, `right` and `called` (answers with a call).
    """
    right = called = 0
    partial = target.with_suffix(".partial")
    with partial.open("wb") as opened:
        for number, question in enumerate(questions, start=1):
            clock.set(question.day)
            prompt = [*start, *tokenizer(question.prompt, add_special_tokens=False)["input_ids"]]
            answer = answer_with_tools(
                model,
                tokenizer,
                prompt,
                tools,
                max_new_tokens=max_new_tokens,
                open_top_k=open_top_k,
                most_calls=most_calls,
            )
            good = question.right(without_calls(answer.text, tools))
            right += good
            called += bool(answer.calls)
            row = {
                "prompt": question.prompt,
                "said": answer.text,
                "answers": question.answers,
                "right": good,
                "calls": [{"name": call.name, "result": call.result, "error": call.error} for call in answer.calls],
            }
            append_lines(opened, [row])
            if progress is not None:
                progress(number, len(questions))
    partial.replace(target)
    return {"questions": len(questions), "right": right, "called": called}


def perplexity(
    model: PreTrainedModel, texts: Sequence[Text], pad_token_id: int, opening: Sequence[int] | None = None
) -> float:
    """exp of the mean loss per token of some texts.

    Args:
        model: in eval mode.
        texts: without calls.
        pad_token_id: what to pad with.
        opening: the tokens that open a call, for a model that has learned calls: they are ruled out, as in decoding
            with tools off. What they would have had, p_i at each place i, goes to all other continuations alike.
    """
    rows = [Row([*text.before, *text.ids], len(text.before), len(text.before) + len(text.ids)) for text in texts]
    found = log_probs(model, rows, pad_token_id)
    total = sum(float(one.sum()) for one in found)
    if opening is not None:
        everywhere = max(len(text.ids) for text in texts)
        places = likely_positions(
            model, texts, opening, threshold=_NEGLIGIBLE, most=everywhere, pad_token_id=pad_token_id
        )
        total -= sum(math.log1p(-chance) for some in places for _, chance in some)
    return math.exp(-total / sum(len(one) for one in found))
