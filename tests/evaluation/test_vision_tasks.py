"""Tasks with images: their questions, the figures of each kind of question, and a real model that answers them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_base import make_base

from zerogate.bases import load_base
from zerogate.data.leaks import find_near_duplicates, recorded_training
from zerogate.data.load import load_records
from zerogate.data.section import DataSection
from zerogate.errors import UserError
from zerogate.evaluation.accuracy import total
from zerogate.evaluation.evaluate import evaluate_task
from zerogate.evaluation.other_images import shuffled_images
from zerogate.evaluation.score import score_file
from zerogate.evaluation.tasks import Question, find_task, read_questions
from zerogate.vision import source_from

Shared = Callable[[str], Path]


def answered(labels: list[str], responses: list[str], kinds: list[list[str]], task: str) -> list[dict[str, Any]]:
    scorer = find_task(task).scorer
    return [
        {"label": label, "kinds": kind} | scorer.fields(response, label)
        for label, response, kind in zip(labels, responses, kinds, strict=True)
    ]


def test_easy_vqa_and_its_majority_baseline(shared_data: Shared) -> None:
    task = find_task("easy_vqa")
    questions = read_questions(task, f"{shared_data('images/easy_vqa_train.tar')}:train[90%:]")
    assert len(questions) == 3888 and all(len(question.images) == 1 for question in questions)
    rows = [question.known() | task.scorer.fields("It is a circle.", question.label) for question in questions]
    score = task.total(rows).as_dict()
    assert list(score["kinds"]) == [
        "what shape",
        "what colour",
        "such a shape",
        "such a colour",
        "no such shape",
        "no such colour",
    ]
    assert sum(kind["n"] for kind in score["kinds"].values()) == 3888
    expected = 0
    for name, kind in score["kinds"].items():
        labels = Counter(question.label for question in questions if question.kinds == (name,))
        assert kind["majority"] == labels.most_common(1)[0][1] / kind["n"]
        expected += labels.most_common(1)[0][1]
    assert score["majority"] == pytest.approx(expected / 3888) and 0.6 < score["majority"] < 0.72
    assert score["compat"] == 0  # not the word alone
    assert (
        score["kinds"]["what shape"]["strict"]
        == sum(q.label == "circle" for q in questions) / score["kinds"]["what shape"]["n"]
    )
    assert score["kinds"]["what colour"]["strict"] == 0


@pytest.mark.parametrize(
    ("task", "response", "label", "compat", "strict"),
    [
        ("easy-vqa", "Teal.", "teal", True, True),
        ("easy-vqa", " yes\n", "yes", True, True),
        ("easy-vqa", "It is teal.", "teal", False, True),
        ("easy-vqa", "yes, a circle", "yes", False, False),
        ("easy-vqa", "", "no", False, False),
        ("nlvr", "True", "true", True, True),
        ("nlvr", "The sentence is false.", "false", False, True),
        ("nlvr", "untrue", "true", False, False),
    ],
)
def test_exact_words(task: str, response: str, label: str, compat: bool, strict: bool) -> None:
    verdict = find_task(task).scorer.fields(response, label)
    assert (verdict["compat"], verdict["strict"]) == (compat, strict)


def test_nlvr(shared_data: Shared) -> None:
    task = find_task("NLVR")
    questions = read_questions(task, f"{shared_data('images/nlvr_dev.tar.xz')}:dev")
    rows = [question.known() | task.scorer.fields("true", question.label) for question in questions]
    score = task.total(rows).as_dict()
    assert score["n"] == 5934 and score["compat"] == score["strict"] == score["majority"] == 6 * 547 / 5934


def test_scienceqas_nine_columns_by_hand() -> None:
    kinds = [["NAT", "TXT", "G1-6"], ["NAT", "IMG", "G7-12"], ["SOC", "TXT", "IMG", "G1-6"], ["LAN", "NO", "G7-12"]]
    responses = ["The answer is A.", "The answer is B.", "The answer is A.", "C"]
    score = (
        find_task("scienceqa-full").total(answered(["A", "A", "A", "C"], responses, kinds, "scienceqa-full")).as_dict()
    )
    assert list(score["kinds"]) == ["NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12"]
    compat = {name: kind["compat"] for name, kind in score["kinds"].items()}
    assert compat == {"NAT": 0.5, "SOC": 1, "LAN": 0, "TXT": 1, "IMG": 0.5, "NO": 0, "G1-6": 1, "G7-12": 0}
    assert (score["compat"], score["strict"]) == (0.5, 0.75)  # the ninth column: Avg
    assert "majority" not in score and "majority" not in score["kinds"]["NAT"]  # columns overlap


def test_scienceqa_of_all_questions(shared_data: Shared) -> None:
    folder = shared_data("scienceqa")
    full = read_questions(find_task("ScienceQA-full"), folder)
    captioned = read_questions(find_task("scienceqa_captions"), folder)
    text = read_questions(find_task("ScienceQA"), folder)
    assert (len(full), len(captioned), len(text)) == (361, 361, 194)
    assert [q.label for q in full] == [q.label for q in captioned]
    assert [q.instruction for q in full if not q.images] == [q.instruction for q in text]
    assert not any(q.images for q in captioned)


def test_rows_without_kinds_are_added_up_as_before() -> None:
    rows = [{"compat": True, "strict": False, "extracted_strict": None}]
    assert total(rows).as_dict() == {"n": 1, "compat": 1.0, "strict": 0.0, "unanswered": 1}


def test_a_missing_split_is_named_with_the_way_out(shared_data: Shared) -> None:
    archive = shared_data("images/easy_vqa_train.tar")
    with pytest.raises(UserError, match=r"no split 'test'; it has train\. .*easy_vqa_train\.tar:train\[90%:\]"):
        read_questions(find_task("easy-vqa"), archive)


def test_questions_about_held_out_images_do_not_leak(shared_data: Shared, tmp_path: Path) -> None:
    archive = str(shared_data("images/easy_vqa_train.tar"))
    learned = [r.prompt_key for r in load_records(DataSection(path=f"{archive}:train[:300]", format="easy_vqa"))[0]]
    task = find_task("easy-vqa")
    new, old = (read_questions(task, f"{archive}:train[{part}]") for part in ("300:330", "290:300"))
    assert find_near_duplicates(learned, [question.key for question in new]).leaks == []
    assert len(find_near_duplicates(learned, [question.key for question in old]).leaks) == len(old)
    (tmp_path / "recipe.yaml").write_text(f"data: {{path: '{archive}:train[:300]', format: easy_vqa}}\n")
    assert recorded_training(tmp_path) == (f"{archive}:train[:300]", learned)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_base(str(make_base(tmp_path_factory.mktemp("vision_tasks") / "base", context=512)))


def test_a_model_captions_and_its_rows_are_scored_again(model: Any, shared_data: Shared, tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    task = find_task("flickr8k")
    questions = read_questions(task, f"{shared_data('images')}:train[:5]")
    file = tmp_path / "flickr8k.jsonl"
    result = evaluate_task(*model, task, questions, max_new_tokens=6, predictions=file)
    assert set(result.score.as_dict()) == {"n", "bleu4", "cider", "empty"} and result.n == 5
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[0]["images"] == ["1001773457_577c3a7d70.jpg"] and "compat" not in rows[0]
    assert task.total(score_file(task, file)).as_dict() == result.score.as_dict()
    again = evaluate_task(*model, task, questions, max_new_tokens=6, predictions=file)
    assert again.resumed == 5 and again.score == result.score
    with pytest.raises(UserError, match="has no accuracy; it has n, bleu4, cider, empty"):
        assert result.strict


def test_a_model_answers_and_its_kinds_are_saved(model: Any, shared_data: Shared, tmp_path: Path) -> None:
    task = find_task("easy-vqa")
    data = f"{shared_data('images/easy_vqa_train.tar')}:train[:2]"
    questions = read_questions(task, data)
    file = tmp_path / "easy.jsonl"
    result = evaluate_task(*model, task, questions, max_new_tokens=4, predictions=file)
    assert result.score.as_dict()["kinds"]
    assert task.total(score_file(task, file)) == result.score
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"response": row["response"]}) + "\n" for row in result.rows))
    assert task.total(score_file(task, bare, data)) == result.score  # kinds and labels from the data set


def test_images_of_other_questions(tmp_path: Path) -> None:
    def question(row: int, *names: str) -> Question:
        return Question(row, "What?", "", "yes", tuple(source_from(name, tmp_path) for name in names))

    questions = [question(row, f"{row // 2}.png") for row in range(20)] + [question(20)]
    turned = shuffled_images(questions, seed=0)
    assert turned == shuffled_images(questions, seed=0) != shuffled_images(questions, seed=1)
    assert all(old.images != new.images for old, new in zip(questions[:20], turned[:20], strict=True))
    assert all(turned[n].images == turned[n + 1].images for n in range(0, 20, 2))
    assert {image.key for item in turned for image in item.images} == {i.key for q in questions for i in q.images}
    assert turned[20] == questions[20]
    with pytest.raises(UserError, match="all questions are about one image"):
        shuffled_images(questions[:2], seed=0)
