"""A little world in which it is known where tools help: how its texts are told is a function per kind, and what is made
of them are documents, demonstrations and questions that share no fact.

    WORLD = World(kinds={"sum": told_sum}, mixes={("sum",): 3, (): 1}, shown={"sum": 8, "plain": 1}, day=some_day)
    WORLD.documents(500)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date

from zerogate.bases.pocket.stories import mixed_paragraphs
from zerogate.toolform.document import Document
from zerogate.tools.inline import write_call

PLAIN = "plain"
"""The kind of a text of pocket's own, in which there is nothing to call for."""


@dataclass(frozen=True)
class Truth:
    """A call that helps.

    Attributes:
        tool: its name.
        inputs: what it may be given.
        answer: what the text says next.
        at: the character before which it belongs.
    """

    tool: str
    inputs: tuple[str, ...]
    answer: str
    at: int


@dataclass(frozen=True)
class Told:
    """A text about one thing, in parts.

    Attributes:
        before, answer, after: the text.
        tool, inputs: the call that gives the answer, or none.
        result: what the tool says.
        day: on which it is told.
    """

    before: str
    answer: str
    after: str
    tool: str = ""
    inputs: tuple[str, ...] = ()
    result: str = ""
    day: date = field(default_factory=date.today)


@dataclass(frozen=True)
class World:
    """How texts are told. Each is of a split: `told` in documents, `shown` in demonstrations, or `asked`.

    Attributes:
        kinds: tell a text, by the name of what it is about, from randomness, split and day.
        mixes: how often a document is of some kinds, one text after the other; of none: a plain text.
        shown: how often a demonstration is of a kind, or `plain`.
        day: a day of a split.
    """

    kinds: Mapping[str, Callable[[random.Random, str, date], Told]]
    mixes: Mapping[tuple[str, ...], int]
    shown: Mapping[str, int]
    day: Callable[[random.Random, str], date]

    def documents(self, count: int, seed: int = 0) -> list[Document]:
        """Texts, with the calls that would help in them."""
        rng = random.Random(f"documents {seed}")
        return [self._document(rng) for _ in range(count)]

    def demonstrations(self, count: int, seed: int = 0) -> list[str]:
        """Texts with their calls and results written in."""
        rng = random.Random(f"demonstrations {seed}")
        made = []
        for kind in rng.choices(list(self.shown), list(self.shown.values()), k=count):
            if kind == PLAIN:
                made.append(next(mixed_paragraphs(rng)))
                continue
            one = self.kinds[kind](rng, "shown", self.day(rng, "shown"))
            call = write_call(one.tool, rng.choice(one.inputs), one.result)
            made.append(one.before + call + one.answer + one.after)
        return made

    def questions(self, kind: str, count: int, seed: int = 0) -> list[Told]:
        """Texts to finish."""
        rng = random.Random(f"questions {kind} {seed}")
        return [self.kinds[kind](rng, "asked", self.day(rng, "asked")) for _ in range(count)]

    def _document(self, rng: random.Random) -> Document:
        day = self.day(rng, "told")
        kinds = rng.choices(list(self.mixes), list(self.mixes.values()))[0]
        text, truth = "", []
        for kind in kinds:
            told = self.kinds[kind](rng, "told", day)
            text += " " if text else ""
            truth.append(Truth(told.tool, told.inputs, told.answer, len(text) + len(told.before)))
            text += told.before + told.answer + told.after
        if not kinds:
            text = next(mixed_paragraphs(rng))
        return Document(text, day.isoformat(), [vars(one) | {"inputs": list(one.inputs)} for one in truth])
