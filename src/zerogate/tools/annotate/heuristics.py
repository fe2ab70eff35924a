"""Which documents are worth asking about, by tool (Toolformer, appendix A): most texts have nothing to calculate."""

from __future__ import annotations

import re
from itertools import combinations

_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_PHRASE = re.compile(r"(?:=|\bequals\b|\bequal to\b|\btotal of\b|\baverage of\b)\s*\$?\d", re.IGNORECASE)
_WINDOW = 100


def worth_asking(tool: str, text: str) -> bool:
    """Whether a document may have a place for the tool, by its name; True for tools without a rule."""
    return something_to_calculate(text) if tool.lower() == "calculator" else True


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
