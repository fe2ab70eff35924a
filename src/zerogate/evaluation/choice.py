"""Answers that are choices: names such as `answer3`, `true` or `option1`, and letters from A to E.

Both find what a response settles on in the same way: what it last states to be the answer ("the answer is C", "Answer:
C", "the correct option is C"), else the last "option C" or "choice C", else a choice that is all there is of the last
line, else the one choice that it names. A response that names several and states none, or states two at once ("B or
C"), settles on nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zerogate.evaluation.accuracy import Score, total
from zerogate.evaluation.scorers import Verdict, VerdictScorer, first_response, kind_of, own_turn

_OPEN, _CLOSE = r"[(\[{*_\"'\u201c`$]*", r"[)\]}*_\"'\u201d`$]*"
_BOLD = r"[*_]*"  # also around the words that announce a choice: "**Answer:** C"
_VERB = rf"{_BOLD}(?: is| was|'s| would be| should be| must be| could be|:| ?=)"
_THEN = rf"{_BOLD}[:\s]*(?:therefore,? |the |option |choice |letter |correct )*"
_STATES = (
    rf"(?i:(?<![^\W_])(?:answer(?! choice| option)|(?:answer|option|choice)(?: choice| option)?{_VERB}){_THEN})",
    # "Option A is wrong" states nothing beside "The answer is C".
    rf"(?i:(?<![^\W_])(?:option|choice){_THEN})",
)


class _Choices:
    """What a response settles on, for one way of writing a choice down."""

    def __init__(self, stated: str, named: str) -> None:
        """Take two patterns of one choice: after words that announce it, and anywhere."""
        hedge = rf"(?P<hedge>\s*(?i:or|and|/)\s+{_OPEN}(?:{stated}))?"
        self.stated = [re.compile(rf"{states}{_OPEN}(?P<choice>{stated}){_CLOSE}{hedge}") for states in _STATES]
        self.alone = re.compile(rf"\W*(?P<choice>{stated})\W*")
        self.named = re.compile(named)

    def settled(self, response: str) -> str | None:
        """The choice as it is written there, or None."""
        text = own_turn(response).strip()
        for stated in self.stated:
            if statements := list(stated.finditer(text)):
                return None if statements[-1]["hedge"] else statements[-1]["choice"]
        last_line = self.alone.fullmatch(text.rpartition("\n")[2])
        if last_line:
            return last_line["choice"]
        named = {_plain(found[0]): found[0] for found in self.named.finditer(text)}
        return next(iter(named.values())) if len(named) == 1 else None


class WordScorer(VerdictScorer):
    """Choices that have names: the name is the answer."""

    def __init__(self, *words: str) -> None:
        """Take the names that the answers of a task can have, in lower case."""
        self.words = words
        self._compat = re.compile("|".join(words))
        # "Answer 3" is as good as "answer3", and "untrue" is not "true".
        spelt = "|".join(re.sub(r"(\d)", r" ?\1", word) for word in words)
        one = rf"(?<!\w)(?i:{spelt})(?!\w)"
        self._strict = _Choices(one, one)

    def read_label(self, value: Any) -> str:
        """One of the names; JSON's true and false where those are names."""
        text = str(value).lower() if isinstance(value, bool) else value
        if not isinstance(text, str):
            raise ValueError(f"is {kind_of(value)}, not one of {', '.join(self.words)}")
        if text.strip() not in self.words:
            raise ValueError(f"{text!r} is not one of {', '.join(self.words)}")
        return text.strip()

    def judge(self, response: str, label: str) -> Verdict:
        """Compat: the first name, also inside another word. Strict: the name that the response settles on."""
        found = self._compat.search(first_response(response))
        theirs = found[0] if found else ""
        ours = self._strict.settled(response)
        ours = None if ours is None else _plain(ours)
        return Verdict(theirs == label, ours == label, theirs, ours)


# The article is no option, unless a verb or a reason follows; nor is a variable of a calculation.
_OPERATOR = r"=+/\u00d7\u00f7\u00b7^<>\u00b2"
_AFTER = (
    rf"(?![\w'\u2019])(?! ?[{_OPERATOR}])(?! ?\*[\s\w(])"  # but **C** is only bold
    r"(?!(?<=[Aa])\s+(?!(?:is|because|since|as|or|and)\b)[a-z])"
)
_BEFORE = rf"(?<![\w.'\u2019{_OPERATOR}])(?<![{_OPERATOR}*] )(?<!\w\*)"
_STATED = rf"[A-Ea-e]{_AFTER}"
_NAMED = rf"(?<=\()[A-Ea-e](?=\))|{_BEFORE}[A-E]{_AFTER}"


_LETTERS = "ABCDE"


class LetterScorer(VerdictScorer):
    """Multiple choice by letters from A to E."""

    _strict = _Choices(_STATED, _NAMED)

    def __init__(self, said: str = "") -> None:
        """Take the sentence that compat wants, with the letter as its group; without one, AQuA's rule holds."""
        self._said = re.compile(said) if said else None

    def read_label(self, value: Any) -> str:
        """A letter from A to E, in either case."""
        if not isinstance(value, str):
            raise ValueError(f"is {kind_of(value)}, not a letter from A to E")
        text = value.strip().upper()
        if len(text) != 1 or text not in _LETTERS:
            raise ValueError(f"{value!r} is not a letter from A to E")
        return text

    def judge(self, response: str, label: str) -> Verdict:
        """Compat: see `_compat`. Strict: the letter that the response settles on."""
        theirs = self._compat(response)
        ours = self._strict.settled(response)
        ours = None if ours is None else ours.upper()
        return Verdict(theirs == label, ours == label, theirs, ours)

    def total(self, rows: Iterable[Mapping[str, Any]], kinds: Sequence[str] = ()) -> Score:
        """Both accuracies; for ScienceQA also compat with chance's share, where rows know their number of choices."""
        return total(rows, kinds) if self._said is None else total(rows, kinds, _with_chance)

    def _compat(self, response: str) -> str:
        if self._said is not None:  # ScienceQA's own script: exactly one such sentence
            said = self._said.findall(response)
            return str(said[0]) if len(said) == 1 else ""
        # LLM-Adapters: the first capital, be it the first of "Because".
        first = re.search("[ABCDE]", first_response(response))
        return first[0] if first else ""


def _with_chance(row: Mapping[str, Any]) -> float | None:
    """The expected value of ScienceQA's own script, which draws one of the choices where it finds none of them."""
    choices = row.get("choices")
    if not isinstance(choices, int) or choices < 1:
        return None
    read = row["extracted_compat"]
    return float(row["compat"]) if read and read in _LETTERS[:choices] else 1 / choices


def _plain(choice: str) -> str:
    return choice.lower().replace(" ", "")
