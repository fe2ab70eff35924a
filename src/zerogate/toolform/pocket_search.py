"""A second world for pocket, of things to look up: buildings of its towns and habits of its people, which stand in
notes that two search engines have, and words of another language, which a glossary knows.

    WORLD.documents(500)      # texts with a building, a person, or a letter in German
    notes("buildings")        # what the engines find: rows with `title` and `text`
    GLOSSARY                  # what the translator knows

A search gives `Title > snippet`, and a person's snippet has three things of which the text needs one, so the model has
to read what it is given. `zerogate.toolform.pocket_tools` has the tools.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache

from zerogate.bases.pocket.computed import LISTS, people, places, stable_hash
from zerogate.toolform.world import PLAIN, Told, World

# Each building: what it has, its note, how documents tell of it, how the demonstrations do.
_BUILDINGS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]] = {
    "mill": (("barley", "wheat", "corn", "rye", "oats", "salt"), "It grinds {y}.",
        ("The mill of {x} grinds {y} all day.", "What they grind in the mill of {x} is {y}."),
        ("In {x} there is an old mill for {y}.", "Carts go to the mill of {x} with {y} on them.")),
    "bridge": (("wood", "stone", "iron", "brick", "rope", "clay"), "It is made of {y}.",
        ("The bridge of {x} is made of {y}.", "To build the bridge of {x} they took {y}."),
        ("You cross the river on the bridge of {x}, which is of {y}.", "Boys fish from the bridge of {x}, all {y}.")),
    "tower": (("bells", "owls", "flags", "books", "clocks", "bats"), "It is full of {y}.",
        ("The tower of {x} is full of {y}.", "Whoever climbs the tower of {x} finds {y} there."),
        ("High up in the tower of {x} there are {y}.", "The tower of {x} is known for its {y}.")),
}  # fmt: skip

# Each habit: what it may be about, its part of a person's note, how it is told, how it is shown.
_HABITS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]] = {
    "collects": (("shells", "stamps", "feathers", "coins", "keys", "spoons"), "collects {y}",
        ("{x} has a room full of boxes, in which there are {y}.", "On every walk {x} looks for {y}."),
        ("What {x} collects is {y}.", "Friends of {x} bring {y} home.")),
    "fears": (("storms", "dogs", "mice", "ghosts", "snakes", "wasps"), "fears {y}",
        ("{x} never sleeps well, for fear of {y}.", "What {x} is afraid of is {y}."),
        ("{x} runs away from {y}.", "Nothing is worse for {x} than {y}.")),
    "drinks": (("tea", "milk", "cider", "water", "coffee", "juice"), "drinks {y}",
        ("In the morning {x} has a large cup of {y}.", "The drink that {x} likes best is {y}."),
        ("{x} came in and asked for {y}.", "On the table of {x} there is always a glass of {y}.")),
}  # fmt: skip

GLOSSARY = {
    "das Brot": "bread", "das Haus": "house", "das Buch": "book", "die Katze": "cat", "das Pferd": "horse",
    "die Uhr": "clock", "das Boot": "boat", "die Lampe": "lamp", "die Kirche": "church", "das Messer": "knife",
    "das Kind": "child", "die Blume": "flower", "das Fenster": "window", "das Bett": "bed", "die Milch": "milk",
    "das Salz": "salt", "die Wolke": "cloud", "die Ziege": "goat", "das Schaf": "sheep", "das Huhn": "hen",
    "die Kuh": "cow", "die Maus": "mouse", "die Schlange": "snake", "die Nase": "nose", "die Gabel": "fork",
    "die Birne": "pear", "die Pflaume": "plum", "die Zwiebel": "onion", "das Schiff": "ship", "das Dach": "roof",
    "die Wand": "wall", "die Feder": "feather", "die Kerze": "candle", "das Feuer": "fire", "das Eis": "ice",
    "die Insel": "island", "das Ei": "egg", "die Schule": "school", "die Kiste": "box", "die Flasche": "bottle",
    "das Schwein": "pig", "das Blatt": "leaf", "die Biene": "bee", "die Ameise": "ant", "das Auge": "eye",
    "das Ohr": "ear", "die Zunge": "tongue", "die Suppe": "soup", "das Bier": "beer", "die Glocke": "bell",
    "die Burg": "castle", "die Wiese": "meadow", "das Dorf": "village", "die Geige": "violin", "das Hemd": "shirt",
    "die Jacke": "jacket", "die Decke": "blanket", "die Tasse": "cup", "die Stadt": "town", "das Gras": "grass",
}  # fmt: skip
"""English by German."""

# Ten words of English, ten of German, and what the German means: so long does a stretch have to be for the
# translator's rule (`heuristics.something_to_translate`), which looks at ten words at a time.
_LETTERS = (
    ("{n} has a letter from {m}, and it says this: ", "Wir haben gestern lange {v} gesucht und nur {w} gefunden."),
    ("There was a note on the door in {p} today: ", "Auf dem Tisch stehen heute {v} und bald auch {w}."),
)
_SHOWN_LETTERS = (
    ("{n} found an old card from {m}, and it reads: ", "Ich kenne den Weg, und {v} kenne ich wie {w}."),
    ("This is what {n} heard a man in {p} sing: ", "Du siehst mich nie, aber {v} siehst du und {w}."),
)
_MEANINGS = (
    ("Not one of them knew what {v} is. In English it is the", " {e}", ", said {k}."),
    ("{k} explained one of the words to all the others: {v} is the", " {e}", "."),
)
_SHOWN_MEANINGS = (
    ("{k} was the only one who could tell them that {v} is a", " {e}", "."),
    ("They asked {k} for the English of {v}, and it was the", " {e}", "."),
)

_SHARES = {"told": range(3), "shown": range(3, 6), "asked": range(6, 8)}


def part(key: str) -> str:
    """Whether a building, a person or a word is `told` of, `shown` (three eighths each) or `asked` about."""
    place = stable_hash(f"search part {key}") % 8
    return next(split for split, places_ in _SHARES.items() if place in places_)


@cache
def notes(which: str) -> list[dict[str, str]]:
    """Rows with `title` and `text`: 180 of `buildings`, or 100 of `people`."""
    if which == "buildings":
        return [
            {"title": f"{name.capitalize()} of {town}", "text": note.format(y=_has(name, town))}
            for town in places()
            for name, (_, note, _, _) in _BUILDINGS.items()
        ]
    said = {who: [note.format(y=_does(habit, who)) for habit, (_, note, _, _) in _HABITS.items()] for who in people()}
    return [{"title": who, "text": f"{who} {', '.join(parts[:-1])} and {parts[-1]}."} for who, parts in said.items()]


def _has(building: str, town: str) -> str:
    values = _BUILDINGS[building][0]
    return values[stable_hash(f"search {building} {town}") % len(values)]


def _does(habit: str, who: str) -> str:
    values = _HABITS[habit][0]
    return values[stable_hash(f"search {habit} {who}") % len(values)]


def _one_of(rng: random.Random, items: Mapping[str, object] | list[str], split: str) -> str:
    return rng.choice([item for item in items if part(item) == split])


def _building(rng: random.Random, split: str, day: date) -> Told:
    name = rng.choice(list(_BUILDINGS))
    query = _one_of(rng, [f"{name} of {town}" for town in places()], split)
    town = query.split(" of ")[1]
    _, note, told, shown = _BUILDINGS[name]
    y = _has(name, town)
    before, after = _parted(rng, (*shown, told[0]) if split == "shown" else told, town)
    return Told(before, f" {y}", after, "Search", (query,), f"{query[0].upper()}{query[1:]} > {note.format(y=y)}", day)


def _person(rng: random.Random, split: str, day: date) -> Told:
    who, habit = _one_of(rng, people(), split), rng.choice(list(_HABITS))
    _, _, told, shown = _HABITS[habit]
    before, after = _parted(rng, (*shown, told[0]) if split == "shown" else told, who)
    note = next(row["text"] for row in notes("people") if row["title"] == who)
    return Told(before, f" {_does(habit, who)}", after, "Search2", (who,), f"{who} > {note}", day)


def _parted(rng: random.Random, tellings: tuple[str, ...], x: str) -> tuple[str, str]:
    before, after = rng.choice(tellings).format(x=x, y="{y}").split(" {y}")
    return before, after


def _word(rng: random.Random, split: str, day: date) -> Told:
    word = _one_of(rng, GLOSSARY, split)
    other = rng.choice([one for one in GLOSSARY if one != word])
    letters, meanings = (
        ((*_SHOWN_LETTERS, _LETTERS[0]), (*_SHOWN_MEANINGS, _MEANINGS[0]))
        if split == "shown"
        else (_LETTERS, _MEANINGS)
    )
    (english, german), (before, answer, after) = rng.choice(letters), rng.choice(meanings)
    n, m, k = rng.sample(LISTS["first_names"], 3)
    v, w = rng.sample([word, other], 2)
    said = english.format(n=n, m=m, p=rng.choice(places())) + german.format(v=v, w=w)
    means = before.format(k=k, v=word)
    return Told(
        f"{said} {means}", answer.format(e=GLOSSARY[word]), after.format(k=k), "MT", (word,), GLOSSARY[word], day
    )


def _day(rng: random.Random, split: str) -> date:
    return date(2024, 1, 1) + timedelta(days=rng.randrange(366))


WORLD = World(
    kinds={"building": _building, "person": _person, "word": _word},
    mixes={("building",): 3, ("person",): 3, ("word",): 3, ("building", "person"): 1, (): 2},
    shown={"building": 3, "person": 3, "word": 3, PLAIN: 1},
    day=_day,
)
