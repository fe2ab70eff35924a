"""Both scorings on responses as models write them. Each case says what compat takes and what strict takes."""

from __future__ import annotations

import pytest

from zerogate.evaluation.tasks import TASKS, find_task

NUMBERS = [
    # response, label, compat's answer, strict's answer, compat right, strict right
    ("The answer is 5.", "5", "5.0", "5", True, True),
    ("The answer is 5.", 5, "5.0", "5", True, True),
    ("5", 5.0, "5.0", "5", True, True),
    ("So it is -3.", "-3", "-3.0", "-3", True, True),
    ("So it is \u22123.", "-3", "3.0", "-3", False, True),  # a typographer's minus
    ("The difference is 8-3", "3", "-3.0", "3", False, True),
    ("That makes $1,234.50 in all", "1234.5", "1234.5", "1234.50", True, True),
    ("1,080", "1,080", "1080.0", "1080", True, True),
    ("3,4", "4", "34.0", "4", False, True),  # a list, no thousand
    ("It is 50%.", "50", "50.0", "50", True, True),
    ("It is 50%.", "0.5", "50.0", "50", False, False),
    ("There are 12 left, not 15", "12", "15.0", "15", False, False),  # the last number is the answer, as everywhere
    ("I do not know.", "0", "inf", None, False, False),
    ("infinity", "3", "inf", None, False, False),
    ("", "3", "inf", None, False, False),
    (".5", "0.5", "5.0", "0.5", False, True),
    ("1/2 pound", "0.5", "2.0", "0.5", False, True),
    ("2 1/2", "2.5", "2.0", "2.5", False, True),
    ("1/0", "0", "0.0", None, True, False),
    ("64 songs on her mp3 player", "64", "3.0", "64", False, True),
    ("24 m2", "24", "2.0", "24", False, True),
    ("72</s>", "72", "72.0", "72", True, True),
    ("#### 72", "72", "72.0", "72", True, True),
    ("1e3", "1000", "3.0", "1000", False, True),
    ("It is 7.\n\n### Instruction:\nAdd 3 and 9.", "7", "9.0", "7", False, True),  # it ran on into the next turn
    ("7\n\n### Instruction:\nAdd 3 and 9.\n\n### Response:\n12", "7", "9.0", "7", False, True),
    ("7\n\n### Response:\n12", "7", "7.0", "7", True, True),  # the authors' script splits at this heading
    # precision
    ("0.667", "0.67", "0.667", "0.667", False, True),
    ("0.6604", "0.66", "0.6604", "0.6604", True, True),
    ("0.1256", "0.125", "0.1256", "0.1256", True, False),
    ("9.75", "9.8", "9.75", "9.75", False, True),
    ("-9.75", "-9.8", "-9.75", "-9.75", False, True),
    ("9.85", "9.8", "9.85", "9.85", False, False),
    ("13.50", "14", "13.5", "13.50", False, False),  # a count is not rounded to
    ("14.0005", "14", "14.0005", "14.0005", True, False),
    ("14.00", "14.0", "14.0", "14.00", True, True),
    ("0.8333333333333333", 0.8333333333333334, "0.8333333333333333", "0.8333333333333333", True, True),
    ("0.4999999999999999", "0.5", "0.4999999999999999", "0.4999999999999999", True, True),
    ("17.99999999999", "18", "17.99999999999", "17.99999999999", True, True),
    ("9" * 400, "9", "inf", "9" * 400, False, False),
]


@pytest.mark.parametrize(("response", "label", "theirs", "ours", "compat", "strict"), NUMBERS)
def test_numbers(response: str, label: object, theirs: str, ours: str | None, compat: bool, strict: bool) -> None:
    scorer = find_task("gsm8k").scorer
    verdict = scorer.judge(response, scorer.read_label(label))
    assert (verdict.extracted_compat, verdict.extracted_strict) == (theirs, ours)
    assert (verdict.compat, verdict.strict) == (compat, strict)
    assert verdict.unanswered == (ours is None)


LETTERS = [
    # response, compat's answer, strict's answer
    ("The answer is A", "A", "A"),
    ("the answer is C.", "C", "C"),
    ("Answer: C", "A", "C"),
    ("Because of that, it is D", "B", "D"),
    ("(B)", "B", "B"),
    ("C) 26", "C", "C"),
    ("b", "", "B"),
    ("the answer is (c)", "", "C"),
    ("the answer is a.", "", "A"),
    ("the answer is a train", "", None),
    ("A train leaves. Therefore, the answer is option **E**.", "A", "E"),
    ("Answer Choices lead to\nD", "A", "D"),
    ("The answer is B. No, wait: the answer is C.", "B", "C"),
    ("The answer is B or C.", "B", None),
    ("Either (B) or (C).", "E", None),
    ("Let A + B = 12 and A = 4, so 8", "A", None),
    ("A car goes at 3 mph.", "A", None),
    ("A is the right one", "A", "A"),
    ("The answer is 490.", "", None),
    ("", "", None),
    ("D.E. Shaw's answer is A", "D", "A"),
    ("Correct answer: (E) 3.73", "C", "E"),
    ("The answer is (D) 3.85 miles.</s>", "D", "D"),
    ("The answer is F.", "", None),
    ("**Answer:** C", "A", "C"),
    ("**Answer**: C", "A", "C"),
    ("**Correct answer:** C) 42", "C", "C"),
    ("The answer is C. Option A is wrong because 3 < 4.", "C", "C"),
    ("The answer is C because choice A doubles the rate.", "C", "C"),
    ("The answer is B.\nExplanation: option D is too large.", "B", "B"),
    ("The answer is B. Answer choice D is wrong.", "B", "B"),
    ("The correct option: C, as option D is too large.", "C", "C"),
    ("Option A is wrong, so choose option B.", "A", "B"),  # where nothing else is stated
    ("None of them\n\n### Response:\nC", "", None),
]


@pytest.mark.parametrize(("response", "theirs", "ours"), LETTERS)
def test_letters(response: str, theirs: str, ours: str | None) -> None:
    scorer = find_task("AQuA").scorer
    for label in "ABCDE":
        verdict = scorer.judge(response, scorer.read_label(label))
        assert (verdict.extracted_compat, verdict.extracted_strict) == (theirs, ours)
        assert (verdict.compat, verdict.strict) == (theirs == label, ours == label)


def test_scienceqa_compat_is_its_own_script() -> None:
    scorer = find_task("scienceqa").scorer
    assert scorer.judge("The answer is B.", "B").compat
    assert not scorer.judge("B", "B").compat
    assert scorer.judge("B", "B").strict
    assert not scorer.judge("The answer is B. The answer is C.", "C").compat
    assert not scorer.judge("The answer is B.\n\n### Response:\nThe answer is C.", "B").compat, "it reads all"


WORDS = [
    # task, response, compat's answer, strict's answer
    ("boolq", "the correct answer is true", "true", "true"),
    ("boolq", "False.", "", "false"),
    ("boolq", "It is untrue, so false", "true", "false"),
    ("boolq", "true or false", "true", None),
    ("boolq", "yes", "", None),
    ("arc-e", "the correct answer is answer3", "answer3", "answer3"),
    ("arc-e", "Answer 3", "", "answer3"),
    ("arc-e", "answer12", "answer1", None),
    ("arc-e", "answer1/answer2/answer3/answer4", "answer1", None),
    ("arc-e", "not answer2: the correct answer is answer4", "answer2", "answer4"),
    ("arc-e", "the correct answer is answer1 or answer2", "answer1", None),
    ("piqa", "Solution1/solution2", "solution2", None),
    ("piqa", "Solution2", "", "solution2"),
    ("hellaswag", "ending4", "ending4", "ending4"),
    ("winogrande", "option2 fits", "option2", "option2"),
    ("winogrande", "option3", "", None),
    ("boolq", "yes\n\n### Response:\ntrue", "", None),
]


@pytest.mark.parametrize(("task", "response", "theirs", "ours"), WORDS)
def test_words(task: str, response: str, theirs: str, ours: str | None) -> None:
    verdict = find_task(task).scorer.judge(response, "anything")
    assert (verdict.extracted_compat, verdict.extracted_strict) == (theirs, ours)


@pytest.mark.parametrize(
    ("task", "label", "said"),
    [
        ("gsm8k", "eight", "'eight' is not a number"),
        ("gsm8k", None, "is null"),
        ("gsm8k", True, "is true or false"),
        ("gsm8k", [8], "is a list"),
        ("gsm8k", "", "'' is not a number"),
        ("gsm8k", "inf", "'inf' is not a number"),
        ("gsm8k", float("nan"), "'nan' is not a number"),
        ("gsm8k", "1e999", "too large"),
        ("gsm8k", "1,2", "is not a number"),
        ("gsm8k", "1_000", "is not a number"),
        ("aqua", 3, "is a number, not a letter"),
        ("aqua", "F", "'F' is not a letter from A to E"),
        ("aqua", "AB", "'AB' is not a letter"),
        ("arc-e", "C", "'C' is not one of answer1, answer2"),
        ("arc-e", 2, "is a number, not one of"),
        ("boolq", "yes", "'yes' is not one of true, false"),
    ],
)
def test_labels_of_the_wrong_type(task: str, label: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_task(task).scorer.read_label(label)


def test_labels_in_other_spellings() -> None:
    assert find_task("aqua").scorer.read_label(" b ") == "B"
    assert find_task("boolq").scorer.read_label(True) == "true"
    assert find_task("gsm8k").scorer.read_label(" 1,080") == "1080"


def test_every_task_of_the_paper_is_there() -> None:
    assert sum(task.family in ("math", "commonsense") for task in TASKS.values()) == 16
    assert {task.max_new_tokens for task in TASKS.values() if task.family == "math"} == {256}
    assert {task.max_new_tokens for task in TASKS.values() if task.family == "commonsense"} == {32}
    assert {task.num_beams for task in TASKS.values() if task.family in ("math", "commonsense")} == {4}
    assert {task.num_beams for task in TASKS.values() if task.family not in ("math", "commonsense")} == {1}
