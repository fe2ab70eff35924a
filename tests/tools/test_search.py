"""Both search engines on real files: what is found, hostile queries, and indexes that are kept."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zerogate.errors import UserError
from zerogate.tools.answers import facts, reader
from zerogate.tools.search import ENGINES, open_engine, read_documents, search
from zerogate.tools.search.documents import WORDS, cut

TEXTS = {
    "Grey_owl": "The grey owl lives in the old tower of Brenna.\n\nIt hunts mice at night.",
    "Red fox": "The red fox lives in a den under the oak. It eats voles, berries and eggs.",
    "C++": "A language for programs. Its AND operator is written &&, its name C++ or c-plus-plus.",
    "Caf\u00e9": "A caf\u00e9 in Holt where the owl is on the sign.",
}


@pytest.fixture(params=list(ENGINES))
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "bm25":
        pytest.importorskip("bm25s")
    return request.param


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for title, text in TEXTS.items():
        (folder / f"{title}.txt").write_text(text)
    return folder


def test_the_passage_that_fits_best_is_found(kind: str, notes: Path, tmp_path: Path) -> None:
    engine = open_engine(kind, notes, tmp_path / "indexes")
    tool = search(engine)
    assert tool.call("Where does the grey owl live?").result.startswith(
        "Grey owl > The grey owl lives in the old tower"
    )
    assert tool.call("voles and berries").result.startswith("Red fox > ")
    assert tool.call("cafe Holt").result.startswith("Caf\u00e9 > ")
    several = search(engine, "Find", results=2).call("owl").result
    assert several.count(" > ") == 2 and " | " in several
    found = engine.search("owl", 10)
    assert 2 <= len(found) < len(TEXTS) + 1 and [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert "[Find(" in search(engine, "Find").examples[0]


OTHERS = {
    "Vietnamese": "Ti\u1ebfng Vi\u1ec7t l\u00e0 ng\u00f4n ng\u1eef c\u1ee7a ng\u01b0\u1eddi Vi\u1ec7t Nam.",
    "Ph\u1edf": "M\u1ed9t m\u00f3n \u0103n.",
    "Korean": "\ud55c\uad6d\uc5b4\ub294 \ud55c\uad6d\uc758 \uc5b8\uc5b4\uc774\ub2e4",
    "Japanese": "\u304c\u3063\u3053\u3046 \u3078 \u3044\u304d\u307e\u3059",
    "Hindi": "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e",
    "Polish": "\u0141\u00f3d\u017a to miasto",
    "Ligatures": "Many \ufb01sh in x\u00b2 of water",
}


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("Vi\u1ec7t", "Vietnamese"), ("ng\u00f4n ng\u1eef", "Vietnamese"), ("viet", "Vietnamese"),
        ("PH\u1ede", "Ph\u1edf"),
        ("\ud55c\uad6d\uc5b4\ub294", "Korean"), ("\u304c\u3063\u3053\u3046", "Japanese"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "Hindi"),
        ("\u0142\u00f3d\u017a", "Polish"), ("\ufb01sh", "Ligatures"), ("fish", "Ligatures"), ("x\u00b2", "Ligatures"),
    ],
)  # fmt: skip
def test_words_of_any_script_are_found(kind: str, tmp_path: Path, query: str, title: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"title": name, "text": text}) + "\n" for name, text in OTHERS.items()))
    found = open_engine(kind, rows, tmp_path / "a #folder%20?").search(query, 9)
    assert [(passage.title, passage.text) for passage, _ in found] == [(title, OTHERS[title])], "as they were written"


QUERIES = [
    "", "   ", "???", "zzyzx", '"', "owl AND", "NEAR(owl, 5", "title: *", "owl*", "c++", "a-b", "-owl", "^owl", "{owl}",
    "'; DROP TABLE passages; --", "owl OR 1=1", "\x00owl\x00", "[Search(owl) -> x]", "owl " * 5000, "\U0001f989", "(((",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_any_text_is_a_query(kind: str, notes: Path, tmp_path: Path, query: str) -> None:
    engine = open_engine(kind, notes, tmp_path / "indexes")
    found = engine.search(query, 3)
    assert bool(found) == any(word in query.lower() for word in ("owl", "title: a", "c++", "a-b", "near("))
    assert len(engine.search("tower", 3)) == 1, "the index is as it was"


def test_an_index_is_kept_until_the_documents_change(kind: str, notes: Path, tmp_path: Path) -> None:
    indexes = tmp_path / "indexes"
    open_engine(kind, notes, indexes)
    (made,) = indexes.iterdir()
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}
    open_engine(kind, notes, indexes)
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before
    (notes / "Newt.md").write_text("The newt lives in the pond.")
    engine = open_engine(kind, notes, indexes)
    assert engine.search("newt", 1)[0][0].title == "Newt"
    assert len(list(indexes.iterdir())) == 2


def test_an_index_of_raw_text_is_not_opened(notes: Path, tmp_path: Path) -> None:
    """As `fts5` was first kept: without the normalised words, under a name of its own."""
    digest = hashlib.sha256(f"passages of {WORDS} words, {notes.resolve()}".encode())
    for file in sorted(notes.rglob("*")):
        digest.update(f"\n{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    old = tmp_path / "indexes" / f"fts5-{digest.hexdigest()[:16]}"
    old.mkdir(parents=True)
    with sqlite3.connect(old / "passages.sqlite") as connection:
        connection.execute("CREATE VIRTUAL TABLE passages USING fts5(title, text)")
    connection.close()
    assert open_engine("fts5", notes, tmp_path / "indexes").search("owl", 1)


def test_several_threads_may_ask(kind: str, notes: Path, tmp_path: Path) -> None:
    engine = open_engine(kind, notes, tmp_path / "indexes")
    with ThreadPoolExecutor(8) as pool:
        titles = {found[0][0].title for found in pool.map(lambda _: engine.search("fox", 1), range(50))}
    assert titles == {"Red fox"}


def test_rows_and_long_texts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"title": "A", "text": "one two"}) + "\n" + json.dumps({"body": "three"}) + "\n")
    assert [(p.title, p.text) for p in read_documents(file)] == [("A", "one two"), ("row 2", "three")]
    words = [f"w{n}" for n in range(25)]
    pieces = list(
        cut("T", " ".join(words[:4]) + "\n\n" + " ".join(words[4:8]) + "\n\n" + " ".join(words[8:]), words=10)
    )
    assert [len(p.text.split()) for p in pieces] == [8, 10, 7]
    assert " ".join(p.text for p in pieces).split() == words
    file.write_text('{"title": "A"}\n')
    with pytest.raises(UserError, match="row 1: a document needs a column text or content"):
        list(read_documents(file))
    for path, message in ((tmp_path / "none", "there are no documents"), (tmp_path, "holds no texts|row 1")):
        with pytest.raises(UserError, match=message):
            open_engine("fts5", path, tmp_path / "x")
    with pytest.raises(UserError, match="unknown search engine 'google'; there are: bm25, fts5"):
        open_engine("google", tmp_path, tmp_path)


def test_answers_come_from_a_table_or_are_read_in_passages(notes: Path, tmp_path: Path) -> None:
    table = facts({"Who lives in the den?": "the fox"})
    assert table.call("who lives in the DEN").result == "the fox"
    assert table.call("who lives in the sea").error == "the answer to 'who lives in the sea' is not known"

    def read(question: str, passage: str) -> tuple[str, float] | None:
        return ("tower", 0.9) if "tower" in passage else ("sign", 0.1) if "sign" in passage else None

    asked = reader(open_engine("fts5", notes, tmp_path / "indexes"), read)
    assert asked.call("Where is the owl?").result == "tower"
    assert asked.call("Who eats eggs?").error == "no passage answers 'Who eats eggs?'"
