"""How the facts of the pocket world are told: sentences, lists, paragraphs about one thing, and story dialogues.

Everything here yields plain text documents from a `random.Random`, so a seed gives the same text again. Only facts
of the split `told` are ever asked or answered in quotation marks. The small tales at the end are about strangers who
exist for one paragraph: what is asked stands a line above, which teaches a model to carry a name from a question
into an answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from zerogate.bases.pocket.computed import LISTS, people, places
from zerogate.bases.pocket.world import Fact, facts, relations

SHORT_REPLY_SHARE = 0.08  # bare answers; whole sentences are the rule, as in the instruction set


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _statement(fact: Fact, rng: random.Random) -> str:
    # The reply's own wording is told as often as all others together: it is the one that has to come out whole.
    return fact.telling if rng.random() < 0.5 else rng.choice(fact.statements())


def sentences(rng: random.Random) -> Iterator[str]:
    """Every fact once, each sentence a document of its own."""
    order = list(facts())
    rng.shuffle(order)
    for fact in order:
        yield _statement(fact, rng)


def mixed_paragraphs(rng: random.Random) -> Iterator[str]:
    """Every fact once, in paragraphs of a few facts that have nothing to do with each other."""
    order = list(facts())
    rng.shuffle(order)
    while order:
        size = rng.randint(3, 8)
        chunk, order = order[:size], order[size:]
        yield " ".join(_statement(fact, rng) for fact in chunk)


def relation_lists(rng: random.Random) -> Iterator[str]:
    """Every fact once, in paragraphs of one relation: many in the same wording, some in changing ones."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in facts():
        by_relation.setdefault(fact.relation.name, []).append(fact)
    groups = []
    for members in by_relation.values():
        rng.shuffle(members)
        while members:
            size = rng.randint(3, 9)
            groups.append(members[:size])
            members = members[size:]
    rng.shuffle(groups)
    for group in groups:
        template = rng.choice(group[0].relation.say) if rng.random() < 0.6 else None
        yield " ".join(fact.word(template) if template else _statement(fact, rng) for fact in group)


# What is hard to keep apart: same words, other order, or names that share their halves.
HARD_RELATIONS = (
    "sum",
    "difference",
    "product",
    "next_number",
    "next_letter",
    "previous_letter",
    "next_month",
    "previous_month",
    "month_days",
    "next_day",
    "previous_day",
    "roman",
    "river",
    "fame",
    "market",
    "author",
)


def drills(rng: random.Random, times: int) -> Iterator[str]:
    """Every fact of the hard relations `times` times, alone or in short lists of its relation."""
    for _ in range(times):
        for name in HARD_RELATIONS:
            members = [fact for fact in facts() if fact.relation.name == name]
            rng.shuffle(members)
            while members:
                size = rng.choice((1, 1, 2, 4, 6))
                yield " ".join(_statement(fact, rng) for fact in members[:size])
                members = members[size:]


def portraits(rng: random.Random) -> Iterator[str]:
    """One paragraph per thing, person, country or word, with everything that is known about it."""
    by_subject: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts():
        by_subject.setdefault((fact.relation.subject, fact.x), []).append(fact)
    groups = list(by_subject.values())
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
        told: list[str] = []
        for number, fact in enumerate(group):
            if number and fact.relation.it and rng.random() < 0.5:
                told.append(fact.word(rng.choice(fact.relation.it)))
            else:
                told.append(_statement(fact, rng))
        if len(group) == 1:  # a paragraph about one thing, not a lone sentence: the same fact in other words
            told = rng.sample(group[0].statements(), k=min(3, len(group[0].statements())))
        yield " ".join(told)


def _quoted_reply(fact: Fact, rng: random.Random) -> str:
    draw = rng.random()
    if draw < SHORT_REPLY_SHARE:
        return _capital(fact.answer) + "."
    return fact.reply if draw < 0.9 else rng.choice(fact.statements())


def _exchange(question: str, reply: str, asker: str, teller: str, rng: random.Random) -> str:
    ask, say = rng.choice(LISTS["asked"]), rng.choice(LISTS["said"])
    gap = rng.choice((" ", "\n", "\n\n"))
    comma_reply = reply[:-1] + ","
    forms = (
        f'"{question}" {ask} {asker}.{gap}"{reply}"',
        f'"{question}" {ask} {asker}.{gap}"{comma_reply}" {say} {teller}.',
        f'{_capital(asker)} {ask}, "{question}"{gap}{_capital(teller)} {say}, "{reply}"',
        f'"{question}"{gap}"{reply}"',
        f'"{question}"{gap}"{comma_reply}" {say} {teller}.',
        f'"Now tell me," {say} {asker}, "{question[:1].lower() + question[1:]}"{gap}"{comma_reply}" {say} {teller}.',
        f'{_capital(asker)} {ask}: "{question}" And {teller} {say}: "{reply}"',
    )
    return rng.choice(forms)


def dialogues(rng: random.Random) -> Iterator[str]:
    """Every told fact once, asked and answered in little scenes of one to four questions."""
    told = [fact for fact in facts() if fact.split == "told"]
    rng.shuffle(told)
    while told:
        size = rng.choice((1, 1, 2, 2, 3, 4))
        chunk, told = told[:size], told[size:]
        asker, teller = rng.sample(LISTS["speakers"], 2)
        scene = [rng.choice(LISTS["openings"])] if rng.random() < 0.6 else []
        scene = [_capital(line.format(a=asker, b=teller)) for line in scene]
        for fact in chunk:
            if rng.random() < 0.15:  # sometimes the story itself has said it just before
                scene.append(rng.choice(fact.statements()))
            reply = _quoted_reply(fact, rng)
            scene.append(_exchange(rng.choice(fact.questions()), reply, asker, teller, rng))
        if rng.random() < 0.3:
            scene.append(_capital(rng.choice(LISTS["closings"]).format(a=asker, b=teller)))
        yield rng.choice((" ", "\n")).join(scene)


# What can be said of a stranger: a statement and the questions that it answers.
_STRANGER_FACTS = (
    ("{x} keeps a shop in {place}.", ("Where does {x} keep a shop?",)),
    ("{x} lives in {place}.", ("Where does {x} live?", "What is the home of {x}?")),
    ("{x} was looking for {thing}.", ("What was {x} looking for?",)),
    ("{x} has bought {thing}.", ("What has {x} bought?",)),
    ("The friend of {x} is {name}.", ("Who is the friend of {x}?",)),
    ("{x} is used to find {thing}.", ("What is {x} used for?",)),
    ("{x} is made of {stuff}.", ("What is {x} made of?",)),
    ("The colour of {x} is {colour}.", ("What is the colour of {x}?",)),
    ("The name for {x} is {name}.", ("What is the name for {x}?", "Which word is the name for {x}?")),
    ("The number of {x} is {number}.", ("What is the number of {x}?",)),
)


def _made_up(rng: random.Random) -> str:
    syllables = [rng.choice(LISTS["onsets"]) + rng.choice(LISTS["rimes"]) for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join(syllables)


@cache
def _taken() -> frozenset[str]:
    named = [*places(), *people(), *(word for fact in facts() for word in (fact.x, fact.y))]
    return frozenset(name.removeprefix("~").lower() for name in named)


def _new_name(rng: random.Random) -> str:
    """A made-up name that nobody and nothing in the world has."""
    while (name := _made_up(rng)) in _taken():
        pass
    return name


def _stranger_fact(rng: random.Random) -> tuple[str, str]:
    """Something told of a stranger in words of its own, and a question that it answers."""
    name = _new_name(rng)
    full = f"{_capital(name)} {_capital(_made_up(rng))}"
    statement, questions = rng.choice(_STRANGER_FACTS)
    words = {
        "x": rng.choice((f"Mr. {_capital(name)}", _capital(name), f"the {name}", full)),
        "place": _capital(_made_up(rng)),
        "thing": rng.choice(LISTS["things"]),
        "name": _capital(_made_up(rng)),
        "stuff": rng.choice(LISTS["stuff"]),
        "colour": rng.choice(LISTS["colours"]),
        "number": str(rng.randint(1, 99)),
    }
    return _capital(statement.format(**words)), rng.choice(questions).format(**words)


# Relations that a made-up subject can have: not those that its letters or its value decide.
_NAMED = ("person", "place", "country", "book")
_FREE_SUBJECTS = (*_NAMED, "animal", "thing", "tool", "worker", "goods", "word")
_DECIDED_BY_LETTERS = ("first_letter", "last_letter", "letter_count", "spelling")


def _borrowed_fact(rng: random.Random) -> tuple[str, str]:
    """The same in the words of one of the world's relations: it leads from each question to the words of its answer."""
    free = [r for r in relations() if r.subject in _FREE_SUBJECTS and r.name not in _DECIDED_BY_LETTERS]
    relation = rng.choice(free)
    name = _new_name(rng)
    if relation.subject in _NAMED:
        name = _capital(name)
    if relation.subject == "person":
        name = f"{name} {_capital(_made_up(rng))}"
    fact = Fact(relation, name, rng.choice(relation.facts)[1], "stranger")
    return fact.reply, rng.choice(fact.questions())


def stranger_tales(rng: random.Random, count: int = 1200) -> Iterator[str]:
    """Tales of strangers made up on the spot: a few things are told of each, and then asked."""
    for _ in range(count):
        tale, asked = [], []
        for _ in range(rng.choice((1, 2, 2, 3))):
            statement, question = _borrowed_fact(rng) if rng.random() < 0.6 else _stranger_fact(rng)
            tale.append(statement)
            asked.append((question, statement))
        asker, teller = rng.sample(LISTS["speakers"], 2)
        rng.shuffle(asked)
        tale += [_exchange(_capital(question), reply, asker, teller, rng) for question, reply in asked]
        yield rng.choice((" ", "\n")).join(tale)
