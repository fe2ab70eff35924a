"""Which documents are worth asking about, by tool (Toolformer, appendix A): most texts have nothing to calculate."""

from __future__ import annotations

import re
from itertools import combinations

from zerogate.tools.translation import language_of

_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_PHRASE = re.compile(r"(?:=|\bequals\b|\bequal to\b|\btotal of\b|\baverage of\b)\s*\$?\d", re.IGNORECASE)
_WINDOW = 100
_CHUNK = 10


def worth_asking(tool: str, text: str, day: str = "") -> bool:
    """Whether a document may have a place for the tool, by its name; True for tools without a rule.

    Args:
        tool: its name.
        text: the document.
        day: on which it was written, or empty: without one there is nothing to ask a calendar.
    """
    match tool.lower():
        case "calculator":
            return something_to_calculate(text)
        case "calendar":
            return bool(day)
        case "mt":
            return something_to_translate(text)
        case _:
            return True


def makes_sense(tool: str, given: str, before: str) -> bool:
    """Whether a call may stand after a text: what is to be translated has to have been said."""
    return tool.lower() != "mt" or given.strip() in before


def something_to_translate(text: str) -> bool:
    """Ten words that are not English between words that are."""
    words = text.split()
    chunks = [" ".join(words[at : at + _CHUNK]) for at in range(0, len(words) - _CHUNK + 1, _CHUNK)]
    if len(chunks) < 3:
        return False
    english = [language_of(chunk) == "en" for chunk in chunks]
    return any(not here and any(english[:at]) and any(english[at:]) for at, here in enumerate(english))


def something_to_calculate(text: str) -> bool:
    """Three numbers within a hundred words of which one is the result of an operation on two others, or `=`, `equals`,
    `total of` or `average of` before a number."""
    if _PHRASE.search(text):
        return True
    words = text.split()
    for start in range(0, max(len(words) - _WINDOW // 2, 1), _WINDOW // 2):
        values = [float(n.replace(",", "")) for n in _NUMBER.findall(" ".join(words[start : start + _WINDOW]))[:20]]
        for result in set(values):
            others = list(values)
            others.remove(result)
            for a, b in combinations(others, 2):
                made = {a + b, a - b, b - a, a * b, a / b if b else None, b / a if a else None}
                if any(value is not None and abs(value - result) < 1e-6 for value in made):
                    return True
    return False
