"""The registry as models with a chat template know tools: descriptions for the template, calls read from an answer.

    tokenizer.apply_chat_template(messages, tools=descriptions(tools), ...)
    for call in read_calls(answer): tools.call(call.name, call.arguments)

Qwen and Hermes write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, Llama 3.1 a bare
`{"name": ..., "parameters": {...}}`; OpenAI's API has `tool_calls` whose arguments are JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from zerogate.tools.registry import Toolbox
from zerogate.tools.tool import Called

_OPENS = "<tool_call>"
_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_LLAMA = re.compile(r"\A\s*(?:<\|python_tag\|>)?\s*(\{.*\})\s*(?:<\|eom_id\|>|<\|eot_id\|>)?\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """A call that a model asks for: its name, and arguments by name."""

    name: str
    arguments: dict[str, Any]


def descriptions(tools: Toolbox) -> list[dict[str, Any]]:
    """Every tool as OpenAI's `tools` and chat templates' `tools=` have it."""
    return [
        {
            "type": "function",
            "function": {"name": name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for name, tool in tools.items()
    ]


def read_calls(answer: str, offered: Collection[str] | None = None) -> list[Asked]:
    """The calls in an answer, in either form; what is malformed is none, nor is any object that happens to have a name.

    Args:
        answer: what the model said.
        offered: names of the tools; a call of any other is none. None takes any name.
    """
    marked = _OPENS in answer
    bare = None if marked else _LLAMA.match(answer)
    texts = _HERMES.findall(answer) if marked else [bare.group(1)] if bare else []
    calls = [call for text in texts if (call := _read(text, bare=not marked)) is not None]
    return [call for call in calls if offered is None or call.name in offered]


def before_calls(answer: str) -> str:
    """What an answer that calls says before its first call; nothing where that is blank."""
    said = answer.partition(_OPENS)[0] if _OPENS in answer else ""
    return said if said.strip() else ""


def openai_calls(calls: list[Asked]) -> list[dict[str, Any]]:
    """`tool_calls` of an assistant's message: arguments are JSON text on the wire."""
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for number, call in enumerate(calls)
    ]


def result_message(called: Called, call_id: str | None = None) -> dict[str, Any]:
    """The message that gives a call's result, or why there is none, back to the model."""
    content = called.result if called.error is None else f"error: {called.error}"
    message = {"role": "tool", "name": called.name, "content": content}
    return message if call_id is None else {**message, "tool_call_id": call_id}


def _read(text: str, bare: bool) -> Asked | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        return None
    if bare and len(found) > 1 and not found.keys() & {"arguments", "parameters"}:
        return None  # data; a name alone may be a call without arguments
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI's way
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return Asked(found["name"], dict(arguments)) if isinstance(arguments, Mapping) else None
