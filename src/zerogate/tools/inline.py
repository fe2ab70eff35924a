"""Calls inside a text, as Toolformer writes them (arXiv 2302.04761, section 2), without new tokens in the vocabulary:

    The bridge was opened after [Calculator(1889 - 1871) -> 18] 18 years.

A result never holds the signs that end a call, so what a tool returns cannot pass for another call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from zerogate.tools.tool import Called, Tool, clean

OPEN, ARROW, CLOSE = " [", " ->", "]"

_CALL = re.compile(r" ?\[(?P<name>[A-Za-z_]\w*)\((?P<input>[^\[\]]*?)\)(?: ?-> ?(?P<result>[^\[\]]*))?\]")
_SAFE = str.maketrans("[]", "()")


@dataclass(frozen=True)
class Inline:
    """A call as it stands in a text.

    Attributes:
        name, input: the call.
        result: None where none is written; an empty one is an empty text.
        start, end: characters of the text.
    """

    name: str
    input: str
    result: str | None
    start: int
    end: int


def find_calls(text: str, names: Iterable[str]) -> list[Inline]:
    """The calls in a text. Brackets that name none of `names` are ordinary text."""
    known = {name.lower(): name for name in names}
    return [
        Inline(known[m["name"].lower()], m["input"].strip(), m["result"] and m["result"].strip(), m.start(), m.end())
        for m in _CALL.finditer(text)
        if m["name"].lower() in known
    ]


def without_calls(text: str, names: Iterable[str]) -> str:
    """The text as it was before calls were put in."""
    kept, at = [], 0
    for call in find_calls(text, names):
        kept.append(text[at : call.start])
        at = call.end
    return "".join([*kept, text[at:]])


def write_call(name: str, given: str, result: str | None = None) -> str:
    """` [Name(input)]`, or with its result, which may be empty."""
    inner = f"{name}({safe(given)})"
    return f"{OPEN}{inner}{CLOSE}" if result is None else f"{OPEN}{inner}{ARROW} {safe(result)}".rstrip() + CLOSE


def write_called(tool: Tool, called: Called) -> str:
    """A call that was made, with its result: one text as it is, another value or several arguments as JSON."""
    values = called.arguments
    one = len(tool.parameters.get("properties", {})) <= 1
    shown = next(iter(values.values()), "") if one else values
    given = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    return write_call(called.name, given, called.result)


def safe(text: str) -> str:
    """Text without what would end a call or begin a result."""
    return clean(text.translate(_SAFE).replace("->", "\u2192"))
