"""The world of search and translation: its tools know what its texts say, and nothing asked about was told."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("py3langid")

from zerogate.toolform.heuristics import worth_asking
from zerogate.toolform.pocket_search import GLOSSARY, WORLD, notes
from zerogate.tools import Toolbox
from zerogate.tools.inline import find_calls
from zerogate.tools.named import named_tools
from zerogate.tools.translation import language_of

NAMES = [f"zerogate.toolform.pocket_tools:{name}" for name in ("search", "search2", "translator")]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Toolbox:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ZEROGATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = named_tools(NAMES)
        made.call("Search", "mill")
        made.call("Search2", "drinks")
    return made


def test_each_tool_gives_what_its_texts_say(tools: Toolbox) -> None:
    found = dict.fromkeys(tools, 0)
    for document in WORLD.documents(120):
        for true in document.truth:
            assert document.text[true["at"] :].startswith(true["answer"])
            for given in true["inputs"]:
                assert given in document.text, "what is looked up has been named"
                called = tools.call(true["tool"], given)
                assert true["answer"].strip() in called.result, called
            found[true["tool"]] += 1
            assert true["tool"] != "MT" or worth_asking("MT", document.text)
    assert min(found.values()) > 10


def test_demonstrations_show_what_the_tools_say(tools: Toolbox) -> None:
    calls = [call for text in WORLD.demonstrations(100) for call in find_calls(text, list(tools))]
    assert {call.name for call in calls} == set(tools)
    for call in calls:
        assert tools.call(call.name, call.input).result == call.result


def test_every_note_is_the_best_for_its_title(tools: Toolbox) -> None:
    for tool, which in (("Search", "buildings"), ("Search2", "people")):
        for note in notes(which)[::9]:
            assert tools.call(tool, note["title"]).result == f"{note['title']} > {note['text']}"


def test_words_are_taken_for_what_they_are() -> None:
    assert not [word for word in GLOSSARY if language_of(word) == "en"]


def test_no_question_is_told_or_shown() -> None:
    told = {given for one in WORLD.documents(300) for true in one.truth for given in true["inputs"]}
    shown = {call.input for text in WORLD.demonstrations(300) for call in find_calls(text, ["Search", "Search2", "MT"])}
    asked = {given for kind in WORLD.kinds for one in WORLD.questions(kind, 60) for given in one.inputs}
    assert len(asked) > 30 and not asked & (told | shown) and not told & shown


def test_an_index_stands_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zerogate.toolform.pocket_tools import Notes, _opened

    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path))
    _opened.cache_clear()
    passage, _ = Notes("fts5", "people").search("Abel Fern", 1)[0]
    assert passage.title == "Abel Fern" and (tmp_path / "pocket-search" / "people.jsonl").is_file()
    _opened.cache_clear()
