"""A world for pocket in which it is known where tools help: little texts with sums, dates and facts that the base was
never taught. The demonstrations tell of them in words of their own and in some of the documents'.

    documents(500, seed=0)       # texts, dates, and where which call belongs
    demonstrations(300, seed=0)  # other texts with their calls written in
    questions("sum", 100)        # beginnings of texts, and what has to come next
    facts()                      # what the Q&A tool knows

Numbers, dates and facts differ between all three; `facts` are about towns of the pocket world, in relations it lacks.
"""

from __future__ import annotations

import random
from datetime import date, timedelta
from functools import cache

from zerogate.bases.pocket.computed import LISTS, places, stable_hash
from zerogate.toolform.document import Document
from zerogate.toolform.world import Told, World
from zerogate.tools.answers import facts as tools_facts
from zerogate.tools.calendar import say

KINDS = ("sum", "date", "fact")

_ANIMALS = ("fox", "owl", "bear", "wolf", "lion", "deer", "hare", "swan", "goat", "crow", "horse", "snake")
_FOODS = ("bread", "milk", "cheese", "honey", "fish", "rice", "corn", "salt", "jam", "plums", "apples", "eggs")
_COLOURS = tuple(LISTS["colours"])
_GOODS = (
    "jars",
    "books",
    "apples",
    "coins",
    "eggs",
    "boxes",
    "candles",
    "letters",
    "stones",
    "bottles",
    "cups",
    "hens",
)


# Each relation: values, the question, how documents tell it, how the demonstrations do.
_RELATIONS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]] = {
    "flag": (_ANIMALS, "Which animal is on the flag of {x}?",
        ("The animal on the flag of {x} is the {y}.", "The flag of {x} shows a picture of a {y}."),
        ("On the old flag of {x} one can see a {y}.", "Over the roofs of {x} there flies a flag with the {y}.",
         "{x} has a flag, and on the flag there is a {y}.")),
    "feast": (_FOODS, "What do people eat at the feast of {x}?",
        ("At the feast of {x} people eat {y}.", "What people eat at the feast of {x} is {y}."),
        ("Once a year there is a feast in {x}, with plenty of {y}.",
         "People from everywhere come to {x} for the feast and its {y}.",
         "When there is a feast in {x}, they eat nothing but {y}.")),
    "gate": (_COLOURS, "Which colour is the gate of {x}?",
        ("The colour of the gate of {x} is {y}.", "The gate of {x} has been painted {y}."),
        ("Whoever comes to {x} goes through a gate that is {y}.", "{x} is a town with a gate of its own colour, {y}.",
         "Before the walls of {x} one comes to a gate painted in {y}.")),
    "guild": (tuple(job.split(" ", 1)[1] for job in LISTS["jobs"]), "Who leads the guild of {x}?",
        ("The guild of {x} is led by a {y}.", "The one who leads the guild of {x} is a {y}."),
        ("In the guild of {x} they all listen to a {y}.", "{x} has a guild, and the head of the guild is a {y}.",
         "They asked the guild of {x} who was their master, and it was a {y}.")),
}  # fmt: skip

_SUMS = (
    ("+", "{n} has {a} {g} and gets {b} more. Now {n} has", " {c} {g}."),
    ("+", "There are {a} {g} in the house and {b} {g} in the garden. In all there are", " {c} {g}."),
    ("-", "{n} had {a} {g} and gave {b} of them away. The number of {g} left is", " {c}."),
    ("-", "Of the {a} {g} in the shop, {b} were sold. So there were still", " {c} {g} in the shop."),
    ("*", "{n} has {a} boxes with {b} {g} in each of them. All the boxes together hold", " {c} {g}."),
)
_SHOWN_SUMS = (
    ("+", "{n} found {a} {g} in one room and {b} in another, which makes", " {c} {g}."),
    ("+", "With {a} {g} from {n} and {b} {g} from {m}, the school had", " {c} {g}."),
    ("+", "To the {a} {g} on the table {n} added {b}. Then they were", " {c}."),
    ("+", "{n} keeps {a} {g}, and {m} keeps {b}. Together they keep", " {c} {g}."),
    ("+", "In May {a} {g} were made, in June {b} more. The sum of both is", " {c}."),
    ("+", "A shop in {p} sold {a} {g} on Monday. On Tuesday it sold another {b}. The total is", " {c} {g}."),
    ("-", "From {a} {g} the miller took {b}, and what remained was", " {c} {g}."),
    ("-", "{n} carried {a} {g} to {p} and lost {b} on the way, so that {n} came home with", " {c} {g}."),
    ("-", "{a} {g} came by ship. When {b} had been eaten by mice, the captain counted", " {c}."),
    ("-", "There used to be {a} {g} here. After the storm took {b} of them, there are only", " {c}."),
    ("-", "{n} needs {a} {g} and has {b}. What {n} still needs is", " {c} {g}."),
    ("-", "{m} owed {n} {a} {g}. Then {m} paid back {b}. Now {m} owes", " {c}."),
    ("*", "In {a} rows there stood {b} {g} each, together", " {c} {g}."),
    ("*", "Every one of the {a} children brought {b} {g} to {p}. That gave", " {c} {g}."),
    ("*", "{n} sells {a} {g} a day. After {b} days {n} has sold", " {c} of them."),
    ("*", "A cart carries {a} {g}. So {b} carts on the road to {p} carry", " {c}."),
)
_DATES = (
    ("It was a quiet morning in {p}. The day was a", " {d}.", "d"),
    ("{n} looked at the clock and said that today was", " {d}.", "d"),
    ("The shop in {p} was open, because it was", " {d} today.", "d"),
    ("{n} wrote a letter to {m}. At the top stood the month, which was", " {o}.", "o"),
)
_SHOWN_DATES = (
    ("People were on their way to the market in {p}, for it was", " {d}.", "d"),
    ("{n} asked which day it was, and {m} said that it was", " {d}.", "d"),
    ("Nobody in {p} worked that day. {n} was glad that it was", " {d}.", "d"),
    ("The letter to {n} began with the name of the day, which was", " {d}.", "d"),
    ("The train to {p} was late again on this", " {d}.", "d"),
    ("{n} opened the newspaper. On the first page it said", " {d}.", "d"),
    ("It rained in {p}, as it often did in the month of", " {o}.", "o"),
    ("{n} was born in this month, that is, in", " {o}.", "o"),
    ("The leaves had a colour that they only have in", " {o}.", "o"),
)


@cache
def facts() -> dict[str, str]:
    """Answers by question: 60 towns in four relations."""
    return {
        question.format(x=town): values[stable_hash(f"toolform {name} {town}") % len(values)]
        for name, (values, question, _, _) in _RELATIONS.items()
        for town in places()
    }


def part(question: str) -> str:
    """Which part a fact belongs to: documents tell the one half, demonstrations an eighth; the rest is asked."""
    place = stable_hash(f"part {question}") % 8
    return "told" if place < 4 else "shown" if place == 4 else "asked"


def documents(count: int, seed: int = 0) -> list[Document]:
    """Texts in which a call would help (one or two of them), and some, half as long, in which none does."""
    return WORLD.documents(count, seed)


def demonstrations(count: int, seed: int = 0) -> list[str]:
    """Texts with their calls and results; one in nine has nothing to call for.

    Half of the documents' wordings are among theirs (every other sum, the first and last day, the first telling of a
    relation), with other numbers, days and facts.
    """
    return WORLD.demonstrations(count, seed)


def questions(kind: str, count: int, seed: int = 0) -> list[Told]:
    """Texts to finish, in the documents' words, about facts, days and numbers that no document has."""
    return WORLD.questions(kind, count, seed)


def _day(rng: random.Random, split: str) -> date:
    """Days of three different years."""
    return date({"told": 2019, "shown": 2021, "asked": 2024}[split], 1, 1) + timedelta(days=rng.randrange(364))


def _sum(rng: random.Random, split: str, day: date) -> Told:
    sign, before, after = rng.choice((*_SHOWN_SUMS, *_SUMS[::2]) if split == "shown" else _SUMS)
    while True:
        a, b = rng.randint(11, 99), rng.randint(11, 99) if sign != "*" else rng.randint(3, 9)
        if sign == "-" and a - b < 3:
            continue
        # Which numbers go together is decided by themselves: what is asked is never told.
        place = stable_hash(f"numbers {sign} {a} {b}") % 8
        if split == ("told" if place < 4 else "shown" if place == 4 else "asked"):
            break
    c = {"+": a + b, "-": a - b, "*": a * b}[sign]
    n, m = rng.sample(LISTS["first_names"], 2)
    words = {"n": n, "m": m, "p": rng.choice(places()), "g": rng.choice(_GOODS), "a": a, "b": b, "c": c}
    inputs = (f"{a} {sign} {b}", *((f"{b} {sign} {a}",) if sign != "-" else ()))
    answer, _, rest = after.format(**words).strip().partition(" ")
    answer, rest = (answer[:-1], ".") if answer.endswith(".") else (answer, f" {rest}")
    return Told(before.format(**words), f" {answer}", rest, "Calculator", inputs, str(c), day)


def _date(rng: random.Random, split: str, day: date) -> Told:
    before, after, which = rng.choice((*_SHOWN_DATES, *_DATES[::3]) if split == "shown" else _DATES)
    n, m = rng.sample(LISTS["first_names"], 2)
    words = {"n": n, "m": m, "p": rng.choice(places()), "d": day.strftime("%A"), "o": day.strftime("%B")}
    answer = words[which]
    rest = after.format(**words).strip().removeprefix(answer)
    return Told(before.format(**words), f" {answer}", rest, "Calendar", ("",), say(day), day)


def _fact(rng: random.Random, split: str, day: date) -> Told:
    while True:
        name, town = rng.choice(list(_RELATIONS)), rng.choice(places())
        _, question, told, shown = _RELATIONS[name]
        asked = question.format(x=town)
        if part(asked) == split:
            break
    y = facts()[asked]
    before, after = rng.choice((*shown, told[0]) if split == "shown" else told).format(x=town, y="{y}").split(" {y}")
    return Told(before, f" {y}", after, "QA", (asked,), y, day)


WORLD = World(
    kinds={"sum": _sum, "date": _date, "fact": _fact},
    mixes={("sum",): 3, ("date",): 3, ("fact",): 3, ("sum", "fact"): 1, (): 2},
    shown={"sum": 3, "date": 2, "fact": 3, "plain": 1},
    day=_day,
)

answers = tools_facts(facts())
"""The Q&A tool that knows them: `zerogate.toolform.pocket:answers`."""
