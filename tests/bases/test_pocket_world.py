"""The pocket world: its facts, splits and records, and that no held-out fact reaches a dialogue or an instruction."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from zerogate.bases.pocket import stories
from zerogate.bases.pocket.computed import in_words, people, places, stable_hash
from zerogate.bases.pocket.corpus import world_round
from zerogate.bases.pocket.world import facts, instruction_records, relations

TOLD_BY_SPLIT = {split: [fact for fact in facts() if fact.split == split] for split in ("told", "train", "heldout")}


def test_there_are_several_thousand_facts_over_many_relations() -> None:
    assert len(facts()) > 3000
    assert len(relations()) >= 40
    assert len({fact.reply for fact in facts()}) == len(facts())


def test_half_of_the_facts_is_held_out_and_most_others_are_told() -> None:
    shares = {split: len(members) / len(facts()) for split, members in TOLD_BY_SPLIT.items()}
    assert shares["heldout"] == pytest.approx(1 / 2, abs=0.01)
    assert shares["told"] == pytest.approx(5 / 12, abs=0.015)


def test_every_relation_has_facts_to_tell_and_facts_to_ask_for() -> None:
    found = Counter((fact.relation.name, fact.split) for fact in facts())
    for relation in relations():
        assert found[relation.name, "told"] > 0 and found[relation.name, "heldout"] > 0, relation.name


def test_facts_that_give_each_other_away_share_a_split() -> None:
    split = {(fact.relation.name, fact.x): fact.split for fact in facts()}
    answer = {(fact.relation.name, fact.x): fact.y for fact in facts()}
    for (name, x), y in answer.items():
        if name in ("opposite", "synonym", "homophone"):
            assert split[name, x] == split[name, y]
        if name == "female":
            assert split[name, x] == split["female_reverse", y]
        if name in ("sum", "product"):
            left, operator, right = x.split()
            assert split[name, x] == split[name, f"{right} {operator} {left}"]
        if name == "next_letter":
            assert split[name, x] == split["previous_letter", y]


def test_the_sums_are_right() -> None:
    operators = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    checked = 0
    for fact in facts():
        if fact.relation.name in ("sum", "difference", "product"):
            left, operator, right = fact.x.split()
            assert operators[operator](int(left), int(right)) == int(fact.y)
            checked += 1
    assert checked > 200


def test_wordings_fill_their_slots_as_english_does() -> None:
    by_key = {(fact.relation.name, fact.x): fact for fact in facts()}
    fox = by_key["home", "fox"]
    assert (fox.reply, fox.stem, fox.answer) == ("A fox lives in a den.", "A fox lives in", "a den")
    assert by_key["home", "owl"].reply.startswith("An owl lives in")
    assert by_key["homophone", "sea"].reply == "The words sea and see sound alike."
    assert by_key["kind", "~iron"].reply == "Iron is a kind of metal."
    assert by_key["group", "cow"].reply == "A group of cows is called a herd."
    for fact in facts():
        texts = [*fact.statements(), *fact.questions(), *(text for task in fact.tasks() for text in task)]
        assert not any(mark in text for text in texts for mark in "{}~"), texts
        assert fact.telling.startswith(fact.stem) and fact.telling.endswith(f"{fact.answer}."), fact.telling
        assert fact.reply in fact.statements()


def test_a_question_has_one_right_answer() -> None:
    answers: dict[tuple[str, str], str] = {}
    for fact in facts():
        for task in fact.tasks():
            assert answers.setdefault(task, fact.reply) == fact.reply, task


def test_records_cover_the_split_and_do_not_overlap() -> None:
    train, heldout = instruction_records()
    assert {r["output"] for r in train} == {f.reply for f in facts() if f.split != "heldout"}
    assert [r["output"] for r in heldout] == [f.reply for f in TOLD_BY_SPLIT["heldout"]]
    assert not {r["output"] for r in train} & {r["output"] for r in heldout}
    prompts = {(r["instruction"], r["input"]) for r in train}
    assert not prompts & {(r["instruction"], r["input"]) for r in heldout}
    assert any(r["input"] for r in train) and any(r["input"] for r in heldout)
    assert all(set(r) == {"instruction", "input", "output", "answer"} for r in train + heldout)


def test_no_question_about_a_heldout_fact_stands_anywhere_in_the_text() -> None:
    text = "\n".join(document for seed in range(3) for document in world_round(seed)).lower()
    # "Which word is the past of go" must not match a question about "good": the question mark closes it.
    asked_heldout = [q for f in TOLD_BY_SPLIT["heldout"] for q in f.questions() if q.lower() in text]
    assert asked_heldout == []
    asked_told = sum(any(q.lower() in text for q in f.questions()) for f in TOLD_BY_SPLIT["told"])
    assert asked_told == len(TOLD_BY_SPLIT["told"])


def test_no_heldout_reply_is_quoted() -> None:
    rng = random.Random(4)
    told = "\n".join([*stories.dialogues(rng), *stories.stranger_tales(rng)])
    for fact in TOLD_BY_SPLIT["heldout"]:
        for statement in fact.statements():
            assert f'"{statement[:-1]}' not in told, statement


def test_relations_of_heldout_facts_are_talked_about_with_other_subjects() -> None:
    assert {f.relation.name for f in TOLD_BY_SPLIT["told"]} == {f.relation.name for f in TOLD_BY_SPLIT["heldout"]}


def test_a_round_states_every_fact() -> None:
    text = "\n".join(world_round(1))
    for fact in facts():
        assert any(statement in text for statement in fact.statements()), fact.reply


def test_no_instruction_template_in_the_world() -> None:
    from zerogate.data.templates import alpaca_prompt

    text = "\n".join(world_round(2))
    for line in alpaca_prompt("", "x").split("\n"):
        if len(line) > 1:
            assert line not in text
    assert "###" not in text


def test_the_world_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib;from zerogate.bases.pocket.world import facts;"
        "from zerogate.bases.pocket.corpus import world_round;"
        "print(hashlib.sha256(repr([(f.reply,f.split) for f in facts()]+world_round(7)).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": seed}, check=True
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_invented_names_are_distinct() -> None:
    assert len(set(people())) == len(people())
    assert len(set(places())) == len(places())
    assert in_words(42) == "forty-two" and in_words(20) == "twenty" and in_words(7) == "seven"
    assert stable_hash("fox") == stable_hash("fox") != stable_hash("owl")
