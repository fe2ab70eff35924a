"""A caption as words, cut as COCO's evaluation does it, without its Java: lower case, most punctuation left out.

COCO runs Stanford's PTBTokenizer and then drops a list of punctuation tokens. `caption_words` gives the same words for
the text that captions are made of (a test compares both on the 4,000 captions of Flickr8k, where Java is installed).
What it cuts otherwise is no caption: Markdown, formulas, URLs, tags with attributes (docs/score.md).
"""

from __future__ import annotations

import re

_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "..."}
    | {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4"}
)

# Contractions become two words, and so do a few words that are two.
_NOT = re.compile(r"(?<=[a-z])n't\b")
_SUFFIX = re.compile(r"(?<=\w)'(s|re|ve|ll|d|m)\b")
_TWO_WORDS = re.compile(r"\b(can|gon|wan|got|lem|gim)(not|na|ta|me)\b")
_TWO = {"cannot", "gonna", "wanna", "gotta", "lemme", "gimme"}

# Abbreviations keep their full stop, also at the end; those of the second list only before a number.
_SHORT = (
    "mr mrs ms dr drs prof gen col sgt capt cpl cmdr lt maj rev gov sen rep pres hon adm det insp pvt supt messrs "
    "mlle mme ph.d jr sr esq st ste mt ft ave blvd rd ct sq bldg univ assn dept co corp inc ltd bros jan feb mar apr "
    "jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif fla vs etc al cf est ext tel"
)
_NUMBERED = "no nos fig pp ca op"

_TOKEN = re.compile(
    rf"""
    n't(?!\w) | '(?:s|re|ve|ll|d|m)\b                               # what the contractions left
  | (?:[a-z]\.)+[a-z]\.? | [a-z]\.(?=[a-z]\.)                       # u.s. a.m.
  | (?:{_SHORT.replace(".", "[.]").replace(" ", "|")})\.(?!\w) | (?:{_NUMBERED.replace(" ", "|")})\.(?=\s+\d)
  | (?<![\w.'])[a-z]\.(?=\s+\S)                                     # initials; not at the end
  | '\d\ds?(?!\w) | '(?=tw?(?:is|as)\b)t                            # '90s, 'tis
  | </?[a-z]\w*>                                                    # <unk>
  | [^\s@]+@[^\s@]+\.\w+ | www\.\S+\w
  | '\w'(?!\w)                                                      # rock 'n' roll
  | \d+(?:[.,:/]\d+)+
  | [^\W_]+(?:(?:[-_./&]|(?<=[a-z])'(?=[a-z]))[^\W_]+)*             # also t-shirt, black/white, o'clock
  | [?!]{{2,}} | \.{{2,}} | -{{2,}} | \*{{2,}} | \S
    """,
    re.VERBOSE,
)
_DROPPED = re.compile(r"['`\",:;?!] | \.+ | -+", re.VERBOSE)
# The brackets are on COCO's list as "-LRB-", but come as "-lrb-": they stay.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}


def caption_words(caption: str) -> list[str]:
    """The words of a caption: `A man's dog isn't here!` gives a, man, 's, dog, is, n't, here."""
    text = caption.lower().translate(_PLAIN)
    text = _TWO_WORDS.sub(lambda word: f"{word[1]} {word[2]}" if word[0] in _TWO else word[0], text)
    text = _SUFFIX.sub(r" '\1", _NOT.sub(" n't", text))
    words = (_BRACKETS.get(token, token) for token in _TOKEN.findall(text))
    return [word for word in words if not _DROPPED.fullmatch(word)]
