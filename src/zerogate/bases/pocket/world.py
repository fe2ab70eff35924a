"""The pocket world: a few thousand small facts, how each may be worded, and which of them instructions may mention.

Relations stand in `facts/*.yaml`. Each has wordings with the slots `{x}` (what the fact is about) and `{y}` (the
answer): `say` are declarative sentences, the first of which is the usual one and, unless `reply` gives another, the
one right reply; `it` goes on about a subject already named; `ask` are questions. `{ax}` adds an article, `{xs}` is
the plural, a capital letter (`{X}`, `{Ax}`) opens a sentence. `symmetric` facts hold both ways. A leading `~` marks
a noun that takes no article.

Every fact has one of three splits, the same in every process: `told` (train, and also asked and answered in story
dialogues), `train` (in instructions only) and `heldout` (stated in plain sentences, never in a dialogue or
instruction). Facts that give each other away (7 plus 8 and 8 plus 7, hot and cold, January before February) always
share a split.

    >>> from zerogate.bases.pocket.world import instruction_records
    >>> train, heldout = instruction_records()
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zerogate.bases.pocket.computed import SOURCES, stable_hash

FACTS_FOLDER = Path(__file__).parent / "facts"
# Facts of a family, ordered by hash, take these splits in turn: half of all held out, one in twelve of the others in
# instructions only (benchmarks pick learning rates on those), the rest told in dialogues.
SPLIT_PATTERN = ("told", "heldout") * 4 + ("train", "heldout", "told", "heldout")
VOWELS = "aeiou"
ANSWER_THE_QUESTION = "Answer the question."
# Spelt with a vowel and spoken with a consonant, or the other way round.
ARTICLE_EXCEPTIONS = {"unicorn": "a", "ewe": "a", "eucalyptus": "a", "hour": "an", "heir": "an", "heiress": "an"}
IRREGULAR_PLURALS = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "fish": "fish", "sheep": "sheep"}
# Endings whose plural takes -es.
ESES = ("s", "x", "sh", "ch")


@dataclass(frozen=True)
class Relation:
    """One kind of fact and its wordings (see the module's text for the slots)."""

    name: str
    family: str
    subject: str
    say: tuple[str, ...]
    reply: str
    ask: tuple[str, ...]
    it: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Fact:
    """One fact: `relation`, what it is about (`x`), the answer (`y`), and its split: told, train or heldout."""

    relation: Relation
    x: str
    y: str
    split: str

    def word(self, template: str) -> str:
        """`template` with this fact's words in its slots."""
        return template.format_map(_slots(self.x, self.y))

    @property
    def reply(self) -> str:
        """The one right answer to an instruction, a whole sentence: `A fox lives in a den.`"""
        return self.word(self.relation.reply)

    @property
    def telling(self) -> str:
        """The sentence that the stories use most; the reply too, unless the relation has another."""
        return self.word(self.relation.say[0])

    @property
    def answer(self) -> str:
        """The words that make the reply right: `a den`."""
        return self.y.removeprefix("~")

    @property
    def stem(self) -> str:
        """The telling up to the answer, without a trailing blank: `A fox lives in`."""
        return self.word(self.relation.say[0].split("{y}")[0]).rstrip()

    def questions(self) -> list[str]:
        """The fact's questions, in a fixed order."""
        return [self.word(template) for template in self.relation.ask]

    def statements(self) -> list[str]:
        """The fact's declarative sentences, the telling first."""
        return [self.word(template) for template in self.relation.say]

    def tasks(self) -> list[tuple[str, str]]:
        """All (instruction, input) pairs that ask for this fact: each question as the instruction and as its input."""
        return [pair for question in self.questions() for pair in ((question, ""), (ANSWER_THE_QUESTION, question))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _with_article(noun: str) -> str:
    if noun.startswith("~"):
        return noun[1:]
    default = "an" if noun[0].lower() in VOWELS else "a"
    return f"{ARTICLE_EXCEPTIONS.get(noun, default)} {noun}"


def _plural(noun: str) -> str:
    noun = noun.removeprefix("~")
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(ESES) else "s")


def _slots(x: str, y: str) -> dict[str, str]:
    slots: dict[str, str] = {}
    for name, noun in (("x", x), ("y", y)):
        plain = noun.removeprefix("~")
        slots |= {name: plain, name.upper(): _capital(plain), f"{name}s": _plural(noun)}
        slots |= {f"a{name}": _with_article(noun), f"A{name}": _capital(_with_article(noun))}
    # An answer that brings its own article (`a puppy`) only needs its capital.
    if y.split()[0] in ("a", "an", "the"):
        slots |= {"ay": y, "Ay": _capital(y)}
    return slots


def _listed(text: str) -> list[tuple[str, str]]:
    pairs = [item.split("=") for item in text.split(";") if item.strip()]
    return [(x.strip(), y.strip()) for x, y in pairs]


def _without_clashes(pairs: list[tuple[str, str]], symmetric: bool) -> list[tuple[str, str]]:
    """The pairs whose subject is new: one subject has one answer, or exact match would mean nothing."""
    taken: set[str] = set()
    kept = []
    for x, y in pairs:
        names = {x, y} if symmetric else {x}
        if not names & taken:
            kept.append((x, y))
            taken |= names
    return kept


def _relations_of(name: str, entry: dict[str, Any]) -> list[Relation]:
    pairs = list(SOURCES[entry["source"]]().items()) if "source" in entry else _listed(entry["facts"])
    symmetric = bool(entry.get("symmetric"))
    pairs = _without_clashes(pairs, symmetric)
    family = entry.get("family", name)
    turned = [(y, x) for x, y in pairs] if symmetric else []

    def build(name: str, prefix: str, facts: list[tuple[str, str]]) -> Relation:
        say, ask = (entry[f"{prefix}{key}"] for key in ("say", "ask"))
        it = () if prefix else tuple(entry.get("it", ()))
        reply = entry.get("reply", say[0])
        return Relation(name, family, entry["subject"], tuple(say), reply, tuple(ask), it, tuple(facts))

    if "reverse_ask" in entry:
        entry = entry | {"reverse_say": entry["reverse"]}
        return [build(name, "", pairs), build(f"{name}_reverse", "reverse_", turned)]
    return [build(name, "", pairs + turned)]


@cache
def relations() -> tuple[Relation, ...]:
    """All relations of the world, in the order of the files."""
    found: list[Relation] = []
    for path in sorted(FACTS_FOLDER.glob("*.yaml")):
        for name, entry in yaml.safe_load(path.read_text()).items():
            found += _relations_of(name, entry)
    return tuple(found)


def _split_key(family: str, x: str, y: str) -> str:
    # Sorting the words makes `7 plus 8` = 15 and `8 plus 7` = 15, or hot -> cold and cold -> hot, one key.
    return f"{family}|{' '.join(sorted(f'{x} {y}'.split()))}"


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world with their splits."""
    families: dict[str, set[str]] = {}
    for relation in relations():
        keys_of_family = families.setdefault(relation.family, set())
        keys_of_family.update(_split_key(relation.family, *pair) for pair in relation.facts)
    split_of = {
        key: SPLIT_PATTERN[rank % len(SPLIT_PATTERN)]
        for keys in families.values()
        for rank, key in enumerate(sorted(keys, key=stable_hash))
    }
    return tuple(
        Fact(relation, x, y, split_of[_split_key(relation.family, x, y)])
        for relation in relations()
        for x, y in relation.facts
    )


def instruction_records() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The instruction set of the pocket world, in the Alpaca format, with the bare `answer` besides.

    Returns:
        `(train, heldout)`, lists of `{"instruction", "input", "output", "answer"}`. Train has every wording of every
        fact that is not held out; heldout has one record per held-out fact, in a wording picked by the fact's hash.
    """
    return _records(("told", "train"), "heldout")


def tuning_records() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The same within the training half, for choosing settings: told facts to train on, the others of it to ask about.

    Those are never asked in a dialogue either, so they are as new to the base as the held-out half.
    """
    return _records(("told",), "train")


def _records(learned: tuple[str, ...], asked: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    train: list[dict[str, str]] = []
    held_out: list[dict[str, str]] = []
    for fact in facts():
        common = {"output": fact.reply, "answer": fact.answer}
        records = [{"instruction": text, "input": given, **common} for text, given in fact.tasks()]
        if fact.split in learned:
            train += records
        elif fact.split == asked:
            held_out.append(records[stable_hash(f"wording|{fact.reply}") % len(records)])
    return train, held_out
