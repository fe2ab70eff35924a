"""The same questions for a model with its tools, with its tools switched off, and without what it learned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.bases.decode import context_length
from zerogate.data.jsonl import append_lines, cut_torn_line, whole_lines
from zerogate.toolform.document import Clock
from zerogate.toolform.positions import Text, likely_positions
from zerogate.toolform.score import Row, log_probs
from zerogate.toolform.tasks import Question
from zerogate.tools.inline import without_calls
from zerogate.tools.registry import Toolbox
from zerogate.tools.runtime import Answer, answer_with_tools
from zerogate.training.checkpoints import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NEGLIGIBLE = 1e-4
"""Places where an opening is less likely are taken to have none."""

_CERTAIN = 1 - 2**-24
"""The largest probability below 1 in float32: one that was rounded to 1 leaves this little to all other words."""


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
    learned: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let a model finish texts; every answer is kept in `target`, and those that are there are not asked for again.

    Args:
        model, tokenizer: in eval mode.
        questions: what to finish.
        tools: what may be called, `most_calls` times at most; 0 switches them off.
        clock: the calendar's.
        start: the tokens before every text.
        target: a JSONL file, replaced where the questions, these settings or what was learned have changed.
        most_calls, open_top_k, max_new_tokens: as `answer_with_tools`.
        learned: names what the model has learned, for telling whether answers are its own.
        progress: called with questions done and in all.

    Returns:
        `questions`, `right`, `called` (answers with a call) and `too_long` (questions that leave no room for an answer
        in the base's context; they are not right).
    """
    settings = {"learned": learned, "most_calls": most_calls, "open_top_k": open_top_k, "most_tokens": max_new_tokens}
    settings["questions"] = [{**vars(question), "answers": list(question.answers)} for question in questions]
    limit = context_length(model)
    partial = target.with_suffix(".partial")
    rows = _kept(target, partial, settings)
    with partial.open("ab") as opened:
        for question in questions[len(rows) :]:
            clock.set(question.day)
            prompt = [*start, *tokenizer(question.prompt, add_special_tokens=False)["input_ids"]]
            too_long = limit is not None and len(prompt) >= limit
            answer = (
                Answer()
                if too_long
                else answer_with_tools(
                    model,
                    tokenizer,
                    prompt,
                    tools,
                    max_new_tokens=max_new_tokens,
                    open_top_k=open_top_k,
                    most_calls=most_calls,
                )
            )
            row = {
                "prompt": question.prompt,
                "said": answer.text,
                "answers": question.answers,
                "right": question.right(without_calls(answer.text, tools)),
                "calls": [{"name": call.name, "result": call.result, "error": call.error} for call in answer.calls],
                "too_long": too_long,
            }
            append_lines(opened, [row])
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(questions))
    partial.replace(target)
    right, called, long = (sum(bool(row[key]) for row in rows) for key in ("right", "calls", "too_long"))
    return {"questions": len(questions), "right": right, "called": called, "too_long": long}


def _kept(target: Path, partial: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers of an earlier run that are of the same model, settings and questions; they stand in `partial` then."""
    beside = target.with_suffix(".settings.json")
    same = beside.exists() and json.loads(beside.read_text(encoding="utf-8")) == settings
    if same and target.exists():
        target.replace(partial)
    elif not same:
        # Before the new settings are there: a run that is killed from here on must not find old answers under them.
        target.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        write_text(beside, json.dumps(settings, ensure_ascii=False))
    if not partial.exists():
        return []
    cut_torn_line(partial)
    return whole_lines(partial)


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
        total -= sum(math.log1p(-min(chance, _CERTAIN)) for some in places for _, chance in some)
    return math.exp(-total / sum(len(one) for one in found))
