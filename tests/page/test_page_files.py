"""What the page keeps and shows, without a browser: votes, presets, personas, comparisons, gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.inference.chat import Exchange
from zerogate.page import tables
from zerogate.page.conversation import Conversation, pictures
from zerogate.page.heat_map import heat_map
from zerogate.page.people import People
from zerogate.page.presets import DEFAULT, Presets, differences
from zerogate.page.votes import Votes


def test_votes_are_lines_and_are_counted_again(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "votes.jsonl"
    votes = Votes(file)
    votes.add("left", ("fox", "base"), ("a", "b"), prompt="q")
    votes.add("tie", ("base", "fox"), ("a", "b"), prompt="q")
    votes.add("both bad", ("base", "sums"), ("a", "b"), prompt="q")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["vote"] for row in rows] == ["left", "tie", "both bad"]
    assert rows[0]["answers"] == {"left": "a", "right": "b"} and rows[0]["prompt"] == "q"
    with file.open("ab") as opened:
        opened.write(b'{"left": "torn by a cra')
    again = Votes(file)
    assert again.count == 3 and again.tally() == votes.tally()
    assert dict(again.tally())["fox"].share == 0.75
    assert next(name for name, _ in again.tally()) == "fox"
    again.add("right", ("fox", "base"), ("a", "b"))
    assert len(file.read_text().splitlines()) == 4


@pytest.mark.parametrize("line", ['{"vote": "up", "left": "a", "right": "b"}', '{"vote": "left"}', "[]", "nothing"])
def test_a_file_of_something_else_is_no_file_of_votes(tmp_path: Path, line: str) -> None:
    (tmp_path / "votes.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1"):
        Votes(tmp_path / "votes.jsonl")


def test_a_vote_that_cannot_be_written_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, where a folder should be")
    votes = Votes(tmp_path / "taken" / "votes.jsonl")
    with pytest.raises(UserError, match="cannot be kept"):
        votes.add("left", ("a", "b"), ("", ""))
    assert votes.count == 0 and votes.tally() == []


def test_presets_hold_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "presets.json"
    presets = Presets(file)
    assert presets.get(DEFAULT) == Sampling()
    presets.keep("wild", Sampling(temperature=1.2, top_p=Sampling().top_p, seed=5))
    presets.keep("plain", Sampling())
    assert json.loads(file.read_text()) == {"wild": {"temperature": 1.2}, "plain": {}}
    assert Presets(file).get("wild") == Sampling(temperature=1.2)
    assert differences(Sampling(stop=("a",))) == {"stop": ["a"]}
    presets.drop("wild")
    assert "wild" not in Presets(file).all()
    assert [path.name for path in tmp_path.iterdir()] == ["presets.json"]
    for name in ("default", "precise", "", "a/b", "x" * 41):
        with pytest.raises(UserError):
            presets.keep(name, Sampling())
    for name in ("precise", "wild"):
        with pytest.raises(UserError):
            presets.drop(name)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 5}', '{"a": {"heat": 1}}', '{"a": {"top_p": 9}}'])
def test_a_broken_file_of_presets_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "presets.json").write_text(text)
    with pytest.raises(UserError, match=r"presets\.json"):
        Presets(tmp_path / "presets.json")


def test_personas_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{name: mine, context: You are mine.}")
    people = People(tmp_path / "kept", [tmp_path / "mine.yaml"])
    assert {"assistant", "teacher", "questions", "mine"} <= set(people.places())
    assert people.get("questions").history == 0
    assert people.write(" A poet ", "You rhyme.", "Hello.", 2) == "A poet"
    assert people.get("A poet").context == "You rhyme." and people.get("A poet").history == 2
    people.write("A poet", "You do not rhyme.", "", None)
    assert people.get("A poet").context == "You do not rhyme." and people.get("A poet").history is None
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["A poet.yaml"]
    for name in ("../evil", "/etc/evil", "a/b", "", ".hidden", "teacher", "mine", "x" * 41, "a\nb"):
        with pytest.raises(UserError):
            people.write(name, "context", "", None)
    with pytest.raises(UserError, match="characters"):
        people.write("long", "x" * 30_000, "", None)
    with pytest.raises(UserError, match="there is no persona"):
        people.get("../../etc/passwd")


def test_comparisons_are_found_and_shown_as_text(tmp_path: Path) -> None:
    deep = tmp_path / "runs" / "one" / "two"
    deep.mkdir(parents=True)
    (deep / "table.csv").write_text("method,exact\n<script>alert(1)</script>,96%\n")
    (tmp_path / "runs" / "table.csv").write_text("a\nb\n")
    found = tables.comparisons([tmp_path / "runs"])
    assert found == {"runs": tmp_path / "runs", "runs/one/two": deep}
    shown = tables.shown(deep)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    (deep / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"two/results\.json"):
        tables.shown(deep)
    (deep / "results.json").unlink()
    (deep / "huge.png").write_bytes(b"\0" * (tables.MOST_BYTES + 1))
    with pytest.raises(UserError, match="over 4 MiB"):
        tables.shown(deep)
    (deep / "table.csv").write_text("")
    with pytest.raises(UserError, match="empty"):
        tables.shown(deep)


def test_the_heat_map_has_a_cell_per_gate() -> None:
    shown = heat_map({2: torch.tensor([0.5, -1.0]), 3: torch.tensor([0.0, 0.25])})
    assert 'title="layer 2, head 1: -1.0000" style="background:rgb(33,102,172);color:#fff">-1.00<' in shown
    assert 'title="layer 3, head 0: +0.0000" style="background:rgb(255,255,255);color:#111">+0.00<' in shown
    assert shown.index("layer 3, head 0") < shown.index("layer 2, head 0")
    assert "nan" not in heat_map({0: torch.zeros(40)})


def test_messages_and_the_exchanges_they_belong_to() -> None:
    said = Conversation([Exchange("a", "A", images=pictures(["/tmp/one.png"])), Exchange("b", "B"), Exchange("c")])
    assert [message["role"][0] for message in said.messages()] == ["u", "u", "a", "u", "a", "u"]
    assert [said.place(index) for index in range(6)] == [0, 0, 0, 1, 1, 2]
    with pytest.raises(IndexError):
        said.place(6)
    assert said.cut(1).user == "b" and len(said.exchanges) == 1
