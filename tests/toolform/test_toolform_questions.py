"""What is asked, from real files, and how answers are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerogate.errors import UserError
from zerogate.toolform.tasks import Question, dateset, first_number, read_task, read_tasks

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (" 12 jars and 3 cups", 12),
        (" 5 + 3 = 8, so", 8),
        (" = 8", 8),
        (" $1,250.50.", 1250.5),
        (" -4 degrees", -4),
        (" 7 = seven", 7),
        (" none", None),
    ],
)
def test_the_number_that_an_answer_gives(said: str, number: float | None) -> None:
    assert first_number(said) == number


def test_words_count_from_the_beginning() -> None:
    five = Question("The owl sits in", ("the tower", "a tree"), "five words")
    assert five.right(" the tower of Brenna.") and five.right(" - A Tree!")
    assert not five.right(" one two three four the tower"), "half of it stands beyond the fifth word"
    assert not five.right(" the towers") and not five.right("")
    twenty = Question("Who?", ("Ida",), "twenty words")
    assert twenty.right(" word" * 19 + " Ida") and not twenty.right(" word" * 20 + " Ida")
    number = Question("How many?", ("1,200 jars",), "number")
    assert number.right(" 1200.") and not number.right(" 120") and not number.right(" many")


@needs_data
@pytest.mark.parametrize(
    ("task", "file", "prompt", "answer"),
    [
        ("math", "math/SVAMP_test.json", "The answer is", None),
        ("math", "math/asdiv.xml.xz", "How many apples are in the basket? The answer is", "9 (apples)"),
        ("math", "math/gsm8k_train.jsonl.xz", "The answer is", "72"),
        ("questions", "openqa/webquestions_val.json", "what kind of money to take to bahamas? Answer:",
         "Bahamian dollar"),
        ("lama", "lama/google-re/20131104-date_of_birth.json.xz", "was born in the year", None),
    ],
)  # fmt: skip
def test_real_files(task: str, file: str, prompt: str, answer: str | None) -> None:
    ((name, found),) = read_task(task, str(DATA / file), 50).items()  # type: ignore[arg-type]
    assert len(found) == 50 and Path(file).name.split(".")[0] in name
    assert prompt in found[0].prompt and (answer is None or found[0].answers[0] == answer)
    assert all(question.right(f" {question.answers[0]}") for question in found)
    assert not any(question.right(" no idea") for question in found)


def test_lamas_own_rows(tmp_path: Path) -> None:
    file = tmp_path / "lama.jsonl"
    file.write_text(
        '{"masked_sentences": ["Ida lives in [MASK]."], "obj_label": "Brenna"}\n'
        '{"masked_sentences": ["In [MASK] lives Ida."], "obj_label": "Brenna"}\n'
    )
    ((_, found),) = read_task("lama", str(file), 10).items()
    assert [(one.prompt, one.answers) for one in found] == [("Ida lives in", ("Brenna",))], "the blank has to be last"
    with pytest.raises(UserError, match="no row fits the task math; the first has masked_sentences, obj_label"):
        read_task("math", str(file), 10)
    with pytest.raises(UserError, match="needs its file"):
        read_task("math", None, 10)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = []
    for name in ("svamp", "mawps", "x/mawps"):
        (tmp_path / name).mkdir(parents=True)
        files.append(str(tmp_path / name / "test.json"))
        Path(files[-1]).write_text(f'[{{"question": "{name}?", "answer": "1"}}]')
    found = read_tasks([("math", files[0], 5), ("math", files[1], 5), ("dateset", None, 5)])
    assert {name: len(one) for name, one in found.items()} == {
        "math (svamp test)": 1,
        "math (mawps test)": 1,
        "dateset": 5,
    }
    assert list(read_tasks([("math", files[0], 5)])) == ["math (test)"]
    with pytest.raises(UserError, match=r"two tasks are called 'math \(mawps test\)'; name each once"):
        read_tasks([("math", file, 5) for file in files])


def test_days_are_asked_with_their_today() -> None:
    found = dateset(200, seed=3)
    assert found == dateset(200, seed=3) != dateset(200, seed=4)
    assert len({one.prompt.split("?")[0].split(" ")[1] for one in found}) > 1 and all(one.day for one in found)
    week = next(one for one in found if one.prompt.startswith("Question: Which day of the week is it today?"))
    from datetime import date

    assert week.answers == (date.fromisoformat(week.day).strftime("%A"),)


def test_pockets_parts_share_no_fact_and_no_sum() -> None:
    from zerogate.toolform import pocket

    asked = read_task("pocket", None, 100)
    assert set(asked) == {"pocket sums", "pocket dates", "pocket facts"}
    told = {given for one in pocket.documents(400) for truth in one.truth for given in truth["inputs"]} - {""}
    shown = " ".join(pocket.demonstrations(400))
    for kind in ("sum", "fact"):
        for one in pocket.questions(kind, 100):
            assert not told & set(one.inputs) and not any(f"({given})" in shown for given in one.inputs)
    for document in pocket.documents(50):
        for truth in document.truth:
            assert document.text[truth["at"] :].startswith(truth["answer"])
    for question, answer in pocket.facts().items():
        assert pocket.answers.call(question).result == answer
