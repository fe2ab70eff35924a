"""How a record becomes text: the Alpaca template, the tokenizer's own chat template, or the record's text as it stands.

A template cuts a record into segments, some to learn and some to read. Segments are tokenised one by one
(`encode.py`), so the line between prompt and answer falls between tokens, and a prompt has the same ids in training
as it has when a user asks. This is the one place that knows the Alpaca wording; chat and generation import it from
here.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from zerogate.data.records import Record, Turn
from zerogate.errors import UserError

TemplateName = Literal["alpaca", "chat", "plain"]

_INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_INTRO_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Segment:
    """A piece of text that is tokenised on its own.

    Attributes:
        text: the piece.
        learn: it counts in the loss.
        start: it opens the sequence, so it gets what the tokenizer puts there (BOS, for most).
        end: EOS follows it.
    """

    text: str
    learn: bool = False
    start: bool = False
    end: bool = False


def alpaca_prompt(instruction: str, input: str = "", system: str = "") -> str:
    """The Alpaca prompt, with or without an input. The answer follows the last colon at once, with no space.

    Args:
        instruction: what to do.
        input: context for it, possibly empty.
        system: text to use in place of the template's opening sentence.
    """
    intro = system or (_INTRO_WITH_INPUT if input else _INTRO)
    return f"{intro}\n\n{_alpaca_question(instruction, input)}"


def _alpaca_question(instruction: str, input: str) -> str:
    context = f"\n\n### Input:\n{input}" if input else ""
    return f"### Instruction:\n{instruction}{context}\n\n### Response:"


def segment_record(record: Record, template: TemplateName, tokenizer: PreTrainedTokenizerBase) -> list[list[Segment]]:
    """Cut a record into training sequences of segments: every assistant turn is learned, all else is read.

    Returns:
        One sequence as a rule; with a chat template that rewrites earlier turns, one sequence per assistant turn,
        each worded as the model will see it. No sequence when the record has no assistant turn with text.

    Raises:
        UserError: the tokenizer has no chat template, or it cannot render the record.
    """
    if template == "chat":
        return _chat_sequences(record, tokenizer)
    sequence = _alpaca_segments(record) if template == "alpaca" else _plain_segments(record)
    while sequence and not sequence[-1].learn:
        sequence.pop()  # a question nobody answers teaches nothing
    return [sequence] if sequence else []


def prompt_segments(
    turns: tuple[Turn, ...],
    template: TemplateName,
    tokenizer: PreTrainedTokenizerBase,
    tools: tuple[dict[str, Any], ...] = (),
) -> list[Segment]:
    """Segments of a conversation whose next speaker is the assistant, as training would word it."""
    if template == "chat":
        messages = [_chat_message(turn) for turn in turns]
        return [Segment(_render(messages, tokenizer, tools, row=None, ask=True))]
    record = Record(row=0, turns=(*turns, Turn("assistant", "")), tools=tools)
    return (_alpaca_segments(record) if template == "alpaca" else _plain_segments(record))[:-1]


def _plain_segments(record: Record) -> list[Segment]:
    segments = [
        Segment(
            f"{turn.content}\n{turn.input}" if turn.input else turn.content,
            learn=turn.role == "assistant" and bool(turn.content.strip()),
            start=index == 0 and not record.tools,
            end=turn.role == "assistant",
        )
        for index, turn in enumerate(record.turns)
    ]
    return [Segment(f"{_tools_text(record.tools)}\n\n", start=True), *segments] if record.tools else segments


def _alpaca_segments(record: Record) -> list[Segment]:
    segments: list[Segment] = []
    system, question, tools = "", "", record.tools  # what is yet to be said
    for turn in record.turns:
        match turn.role:
            case "system":
                system = f"{system}\n\n{turn.content}" if system else turn.content
            case "user":
                context = turn.input
                if tools:
                    context = _tools_text(tools) + (f"\n\n{context}" if context else "")
                # A later turn has no opening sentence: it is the same conversation.
                if segments or question:
                    question += (f"\n\n{system}" if system else "") + "\n\n" + _alpaca_question(turn.content, context)
                else:
                    question = alpaca_prompt(turn.content, context, system)
                system, tools = "", ()
            case "tool":
                question += f"\n\n### Observation:\n{turn.content}\n\n### Response:"
            case "assistant":
                if system:  # before a conversation that the assistant opens, or after the question
                    opening = "\n\n" if segments or question else ""
                    question += f"{opening}{system}\n\n### Response:"
                # Two answers in a row: the second is asked for as the first was, without new words.
                question = question or "\n\n### Response:"
                system = ""
                segments.append(Segment(question, start=not segments))
                segments.append(Segment(turn.content, learn=bool(turn.content.strip()), end=True))
                question = ""
    return segments


def _tools_text(tools: tuple[dict[str, Any], ...]) -> str:
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f'To call a tool, answer with {{"name": ..., "arguments": ...}} alone. Tools:\n{listed}'


def _chat_message(turn: Turn) -> dict[str, Any]:
    if turn.tool_calls:
        calls = [{"type": "function", "function": call} for call in turn.tool_calls]
        return {"role": "assistant", "content": turn.spoken, "tool_calls": calls}
    content = f"{turn.content}\n\n{turn.input}" if turn.input else turn.content
    return {"role": turn.role, "content": content}


def _render(
    messages: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    tools: tuple[dict[str, Any], ...],
    row: int | None,
    ask: bool,
) -> str:
    if tokenizer.chat_template is None:
        raise UserError(
            "template: chat needs a tokenizer with a chat template, and this base has none; use template: alpaca"
        )
    where = "the conversation" if row is None else f"row {row}"
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, tokenize=False, add_generation_prompt=ask
        )
    except (TemplateError, TypeError) as error:
        raise UserError(f"the tokenizer's chat template cannot render {where}: {error}") from error
    return str(text)


def _chat_sequences(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[list[Segment]]:
    messages = [_chat_message(turn) for turn in record.turns]
    sequences: list[list[Segment]] = []
    told = ""  # what the current sequence's segments spell
    for index, turn in enumerate(record.turns):
        if turn.role != "assistant" or not (turn.content.strip() or turn.tool_calls):
            continue
        asked = _render(messages[:index], tokenizer, record.tools, record.row, ask=True)
        answered = _render(messages[: index + 1], tokenizer, record.tools, record.row, ask=False)
        if not answered.startswith(asked):
            raise UserError(
                f"row {record.row}: the tokenizer's chat template words the prompt of turn {index + 1} differently "
                f"once it is answered, "
                "so prompt and answer cannot be told apart; use template: alpaca"
            )
        if told and asked.startswith(told):
            sequences[-1].append(Segment(asked[len(told) :]))
        else:
            sequences.append([Segment(asked)])
        # What follows the end-of-turn token (a line break, as a rule) is the template's, not the model's to learn.
        answer = answered[len(asked) :].rstrip()
        ends = any(answer.endswith(token) for token in tokenizer.all_special_tokens) or _ends_with_added_token(
            answer, tokenizer
        )
        sequences[-1].append(Segment(answer, learn=True, end=not ends))
        told = asked + answer
    return sequences


def _ends_with_added_token(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return any(token.special and text.endswith(token.content) for token in tokenizer.added_tokens_decoder.values())
