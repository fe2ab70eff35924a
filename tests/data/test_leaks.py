"""Near-duplicates between training and test data: real pairs of sets that are known to share questions, and limits."""

from __future__ import annotations

import json
import lzma
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from zerogate.data.leaks import find_near_duplicates, recorded_training, refuse_leaks, training_questions
from zerogate.errors import UserError

Data = Callable[[str], Path]


def instructions(file: Path) -> list[str]:
    content = file.read_bytes()
    rows = json.loads(lzma.decompress(content) if file.suffix == ".xz" else content)
    return [row["instruction"] for row in rows]


def asdiv(shared_data: Data) -> list[str]:
    root = ET.fromstring(lzma.decompress(shared_data("math/asdiv.xml.xz").read_bytes()))
    return [f"{problem.findtext('Body')} {problem.findtext('Question')}" for problem in root.iter("Problem")]


def test_asdiv_leaks_into_addsub_and_svamp(shared_data: Data) -> None:
    train = asdiv(shared_data)
    addsub = find_near_duplicates(train, instructions(shared_data("math/AddSub_test.json")))
    svamp = find_near_duplicates(train, instructions(shared_data("math/SVAMP_test.json")))
    assert 15 <= len(addsub.leaks) <= 40
    assert 200 <= len(svamp.leaks) <= 400  # SVAMP is made of ASDiv's questions
    assert any(
        "Mary is baking a cake" in leak.test_text and "Mary is baking" in leak.train_text for leak in svamp.leaks
    )
    with pytest.raises(
        UserError, match=r"(?s)AddSub: 20 of 395 .*\(5\.1%\).*--allow-leak AddSub.*test \d+: .*train \d+: "
    ) as no:
        refuse_leaks("AddSub", addsub, allowed=["svamp"])
    assert len(str(no.value).splitlines()) == 7  # the message and three pairs
    refuse_leaks("AddSub", addsub, allowed=["addsub"])


def test_sets_that_do_not_leak(shared_data: Data) -> None:
    questions = training_questions(str(shared_data("math/gsm8k_train.jsonl.xz")))
    assert len(questions) == 7473
    for name in ("AddSub", "SVAMP", "AQuA"):
        check = find_near_duplicates(questions, instructions(shared_data(f"math/{name}_test.json")))
        assert len(check.leaks) <= 1
        if not check.leaks:
            assert check.line().startswith("none of")
            refuse_leaks(name, check, allowed=())


@pytest.mark.parametrize(
    ("train", "test", "low", "high"),
    [
        ("ARC-Challenge_train.json.xz", "ARC-Challenge_test.json", 2, 10),
        ("openbookqa_train.json.xz", "openbookqa_test.json", 10, 30),
        ("boolq_train.json.xz", "openbookqa_test.json", 0, 0),
    ],
)
def test_commonsense(train: str, test: str, low: int, high: int, shared_data: Data) -> None:
    """The words that every question of a set begins and ends with do not make it a duplicate."""
    check = find_near_duplicates(
        instructions(shared_data(f"commonsense/{train}")), instructions(shared_data(f"commonsense/{test}"))
    )
    assert low <= len(check.leaks) <= high


def test_a_set_against_itself_leaks_whole(shared_data: Data) -> None:
    for name in ("math/AddSub_test.json", "commonsense/ARC-Challenge_test.json"):
        questions = instructions(shared_data(name))
        check = find_near_duplicates(questions, questions)
        assert check.rows == set(range(len(questions)))
        assert all(leak.share == 1 for leak in check.leaks)


def test_52k_against_two_thousand_takes_seconds(shared_data: Data) -> None:
    train = training_questions(str(shared_data("alpaca/alpaca_data.json.xz")))
    test = [*instructions(shared_data("math/SVAMP_test.json")), *instructions(shared_data("math/SVAMP_test.json"))]
    begun = time.process_time()
    assert not find_near_duplicates(train, test).leaks
    assert time.process_time() - begun < 60


QUESTION = "There are 7 crayons in the drawer. Mary took 3 crayons out of the drawer. How many crayons are there now?"


@pytest.mark.parametrize(
    ("train", "leaks"),
    [
        (QUESTION, True),
        (QUESTION.upper().replace(".", " . "), True),
        (QUESTION.replace("7", "nine").replace("3", "45"), True),
        (QUESTION.replace("Mary", "Tom"), True),
        (f"Think step by step. {QUESTION} Let me see: what is asked?", True),
        ("There are 7 pencils in the box. Mary gave 3 of them to Tom. How many pencils does she have now?", False),
        ("", False),
        ("7 3", False),
    ],
)
def test_what_counts_as_the_same_question(train: str, leaks: bool) -> None:
    check = find_near_duplicates(["Where does the fox live?", train], ["What is the capital of France?", QUESTION])
    assert bool(check.leaks) == leaks
    if leaks:
        assert (check.leaks[0].test, check.leaks[0].train) == (1, 1)


def test_short_questions_are_compared_whole() -> None:
    assert not find_near_duplicates(["What is 2 + 3?"], ["What is 4 + 9?"]).leaks
    assert find_near_duplicates(["what is 2 + 3"], ["What is 2 + 3?"]).leaks


def test_official_splits_are_refused_word_for_word_only() -> None:
    near = find_near_duplicates([QUESTION.replace("7", "9")], [QUESTION])
    assert len(near.leaks) == 1 and near.word_for_word == []
    refuse_leaks("ScienceQA", near, allowed=(), official_splits=True)
    with pytest.raises(UserError, match=r"1 of 1 test questions .*, 0 of them word for word"):
        refuse_leaks("AddSub", near, allowed=())
    both = find_near_duplicates([QUESTION.upper()], [QUESTION, QUESTION.replace("7", "9")])
    assert len(both.leaks) == 2
    with pytest.raises(UserError, match=r"2 of 2 .* 1 of them word for word") as no:
        refuse_leaks("ScienceQA", both, allowed=(), official_splits=True)
    assert len(str(no.value).splitlines()) == 3  # only the pair that counts is shown


def test_questions_whose_images_nobody_looks_at_are_not_compared() -> None:
    check = find_near_duplicates([QUESTION, ""], [None, QUESTION, None])
    assert (check.n, check.left_out, check.rows) == (1, 2, {1})
    assert "1 of 1 test questions" in check.line()
    assert check.line().endswith("; 2 about images that are not looked at were not looked for")
    alone = find_near_duplicates([QUESTION, ""], [None])
    assert alone.line().startswith("no test question was looked for") and not alone.leaks


def test_training_questions_whose_images_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    rows = [{"instruction": QUESTION, "output": "4"}, {"instruction": "So?", "output": "Yes.", "image": "gone.png"}]
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"train\.json: 1 rows have images that cannot be used:\n  row 2: gone\.png"):
        training_questions(str(file))
    assert training_questions(str(file), look=False) == [QUESTION]
    (tmp_path / "recipe.yaml").write_text(f"data: {{path: {file}}}\n")
    assert recorded_training(tmp_path, look=False) == (str(file), [QUESTION])


def test_what_a_run_recorded(tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps([{"instruction": QUESTION, "input": "Colours.", "output": "4"}]))
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    assert recorded_training(run) is None
    (run / "recipe.yaml").write_text(f"data: {{path: {data}, format: alpaca}}\ntrain: {{seed: 3}}\n")
    assert recorded_training(run / "best") == (str(data), [f"{QUESTION}\nColours."])
    assert recorded_training(run) == recorded_training(run / "best")
    data.unlink()
    assert recorded_training(run) == (str(data), None)
    (run / "recipe.yaml").write_text("data: {path: pocket, held_out: 10}\n")
    recorded = recorded_training(run)
    assert recorded is not None and recorded[1] is not None and len(recorded[1]) > 1000
    for broken in ("a list: [", "- 1", "data: {nothing: 1}", ""):
        (run / "recipe.yaml").write_text(broken)
        assert recorded_training(run) is None
