"""Facts that need no list because a rule or a seed makes them: small sums, the alphabet, the calendar, letters of
words, and the people and towns of the pocket world (invented, but always the same).

`SOURCES` maps the name that `facts/computed.yaml` uses to a function that returns `{subject: answer}` in a fixed
order.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

LISTS = {
    name: [item.strip() for item in text.split(";")]
    for name, text in yaml.safe_load((Path(__file__).parent / "lists.yaml").read_text()).items()
}
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ALPHABET = string.ascii_uppercase


def stable_hash(text: str) -> int:
    """A 64-bit hash of `text` that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _pick(options: Sequence[str], key: str) -> str:
    return options[stable_hash(key) % len(options)]


def in_words(number: int) -> str:
    """`42` as `forty-two`, for 0 to 99."""
    if number < 20:
        return LISTS["units"][number]
    return TENS[number // 10] + ("-" + LISTS["units"][number % 10] if number % 10 else "")


def people(count: int = 100) -> list[str]:
    """Full names of the inhabitants, all different; a first name and a last name recur with other partners."""
    names: dict[str, None] = {}
    index = 0
    while len(names) < count:
        first = LISTS["first_names"][index % len(LISTS["first_names"])]
        names[f"{first} {_pick(LISTS['last_names'], f'last {index}')}"] = None
        index += 1
    return list(names)


def places(count: int = 60) -> list[str]:
    """Names of the invented towns, all different."""
    names: dict[str, None] = {}
    index = 0
    while len(names) < count:
        names[_pick(LISTS["town_starts"], f"start {index}") + _pick(LISTS["town_ends"], f"end {index}")] = None
        index += 1
    return list(names)


def _people_have(attribute: str, options: Sequence[str]) -> Callable[[], dict[str, str]]:
    return lambda: {name: _pick(options, f"{attribute} {name}") for name in people()}


def _places_have(attribute: str, options: Sequence[str]) -> Callable[[], dict[str, str]]:
    return lambda: {name: _pick(options, f"{attribute} {name}") for name in places()}


def _cycle(names: Sequence[str], step: int) -> dict[str, str]:
    return {name: names[(i + step) % len(names)] for i, name in enumerate(names)}


def _month_days() -> dict[str, str]:
    short = {"April", "June", "September", "November"}
    return {m: "28 days" if m == "February" else "30 days" if m in short else "31 days" for m in LISTS["months"]}


SOURCES: dict[str, Callable[[], dict[str, str]]] = {
    "sums": lambda: {f"{a} plus {b}": str(a + b) for a in range(1, 11) for b in range(1, 11)},
    "differences": lambda: {f"{a} minus {b}": str(a - b) for a in range(2, 15) for b in range(1, 11) if b < a},
    "products": lambda: {f"{a} times {b}": str(a * b) for a in range(2, 10) for b in range(2, 10)},
    "number_words": lambda: {str(n): in_words(n) for n in range(1, 61)},
    "next_numbers": lambda: {str(n): str(n + 1) for n in range(1, 60)},
    "next_letters": lambda: dict(pairwise(ALPHABET)),
    "previous_letters": lambda: {later: earlier for earlier, later in pairwise(ALPHABET)},
    "next_months": lambda: _cycle(LISTS["months"], 1),
    "previous_months": lambda: _cycle(LISTS["months"], -1),
    "month_days": _month_days,
    "next_days": lambda: _cycle(LISTS["days"], 1),
    "previous_days": lambda: _cycle(LISTS["days"], -1),
    "first_letters": lambda: {w: w[0].upper() for w in LISTS["spelt_words"]},
    "last_letters": lambda: {w: w[-1].upper() for w in LISTS["spelt_words"]},
    "letter_counts": lambda: {w: f"{in_words(len(w))} letters" for w in LISTS["spelt_words"]},
    "spellings": lambda: {w: "-".join(w.upper()) for w in LISTS["spelt_words"]},
    "jobs": _people_have("job", LISTS["jobs"]),
    "towns": lambda: {name: _pick(places(), f"town {name}") for name in people()},
    "dishes": _people_have("dish", LISTS["dishes"]),
    "pets": _people_have("pet", LISTS["pets"]),
    "musics": _people_have("music", LISTS["music"]),
    "birthdays": _people_have("birthday", LISTS["months"]),
    "rivers": _places_have("river", LISTS["rivers"]),
    "fames": _places_have("fame", LISTS["fames"]),
    "markets": _places_have("market", LISTS["days"]),
}
