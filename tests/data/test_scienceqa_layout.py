"""ScienceQA's files: records that do not fit, splits that are not whole, captions in the folder above, the wording."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zerogate.data.layouts import read_examples
from zerogate.data.layouts.scienceqa_problem import qcm
from zerogate.errors import UserError
from zerogate.evaluation.tasks import find_task, read_questions

PROBLEM = {
    "question": "Which?", "choices": ["a", "b"], "answer": 0, "hint": "", "image": None, "split": "test",
    "grade": "grade2", "subject": "natural science",
}  # fmt: skip
PICTURE = {"image": "image.png"}


def write(folder: Path, problem: Any, splits: Any = None, captions: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.json").write_text(json.dumps({"5": problem}))
    (folder / "pid_splits.json").write_text(json.dumps({"test": ["5"]} if splits is None else splits))
    if captions is not None:
        (folder / "captions.json").write_text(json.dumps({"captions": captions}))
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"choices": None}, "the choices are null, not a list of texts"),
        ({"choices": "ab"}, 'the choices are "ab", not a list'),
        ({"choices": [1, 2]}, r"the choices are \[1, 2\], not a list of texts"),
        ({"choices": []}, r"the choices are \[\], not a list of texts"),
        ({"choices": list("abcdef")}, "there are 6 choices, but letters for 5 only"),
        ({"question": None}, "the question is null, not text"),
        ({"question": " "}, "the question is .*, not text"),
        ({"answer": True}, "the answer true is not the index"),
        ({"answer": "0"}, 'the answer "0" is not the index'),
        ({"answer": -1}, "the answer -1 is not the index"),
        ({"hint": 5}, "the hint is 5, not text or null"),
        ({"image": True}, "the image is true, not the name of a file"),
        ({"image": "image.png", "split": None}, "the split is null, not the name of the folder"),
    ],
)
def test_records_that_do_not_fit_are_named(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = str(write(tmp_path, {**PROBLEM, **changed}))
    with pytest.raises(UserError, match=rf"problems\.json, problem 5: {said}"):
        read_examples("scienceqa", folder, "test", use_images=False)
    if changed.get("image") != "image.png":
        with pytest.raises(UserError, match=said):
            read_questions(find_task("ScienceQA"), folder)


@pytest.mark.parametrize("task", ["ScienceQA", "ScienceQA-full"])
def test_a_problem_that_is_no_object(task: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"problem 5: expected an object with question, choices and answer, found \[1\]"
    ):
        read_questions(find_task(task), write(tmp_path, [1]))


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"test": [5]}, "the split 'test' has 5, which is not the text of a problem's id"),
        ({"test": ["5", None]}, "the split 'test' has null, which"),
        ({"test": None}, "the split 'test' is null, not a list"),
        ({"test": {"5": 1}}, "the split 'test' is .*, not a list"),
        ({"test": "5"}, "the split 'test' is \"5\", not a list"),
        ({"test": ["5", "5"]}, "has the problem 5 more than once"),
    ],
)
@pytest.mark.parametrize("task", ["ScienceQA", "ScienceQA-full"])
def test_splits_that_are_no_lists_of_ids(task: str, splits: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"pid_splits\.json: .*{said}"):
        read_questions(find_task(task), write(tmp_path, PROBLEM, splits))


@pytest.mark.parametrize("task", ["ScienceQA", "ScienceQA-full"])
def test_a_part_of_a_split_is_told(task: str, tmp_path: Path) -> None:
    folder = write(tmp_path, PROBLEM, {"test": ["5", *map(str, range(1000, 2000))]})
    told: list[str] = []
    assert len(read_questions(find_task(task), folder, told=told.append)) == 1
    assert told == [f"1 of the split's 1,001 problems are in {folder / 'problems.json'}"]
    told.clear()
    read_questions(find_task(task), write(tmp_path, PROBLEM), told=told.append)
    assert told == []


def test_captions_beside_the_folder_as_in_the_official_tree(tmp_path: Path) -> None:
    folder = write(tmp_path / "data" / "scienceqa", PROBLEM | PICTURE)
    with pytest.raises(UserError, match=r"no captions\.json, .*looked for captions\*\.json\* or \.\./captions\.json"):
        read_examples("scienceqa_captions", str(folder), "test")
    (tmp_path / "data" / "captions.json").write_text(json.dumps({"captions": {"5": "A dog."}}))
    for path in (folder, folder / "problems.json"):
        (example,) = read_examples("scienceqa_captions", str(path), "test")
        assert "\nContext: A dog.\n" in example.instruction and not example.images and not example.left_out
    (folder / "captions.json").write_text(json.dumps({"captions": {"5": "A cat."}}))  # the nearer one
    assert "A cat." in read_examples("scienceqa_captions", str(folder), "test")[0].instruction


def test_a_caption_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.json, problem 5: the caption is 3, not text"):
        read_examples("scienceqa_captions", str(write(tmp_path, PROBLEM | PICTURE, captions={"5": 3})), "test")


def test_the_wording_is_the_official_scripts(shared_data: Callable[[str], Path]) -> None:
    """What LLaMA-Adapter's and ScienceQA's `create_one_example` ends with makes two spaces one, once."""
    folder = shared_data("scienceqa")
    problems = json.loads(lzma.decompress((folder / "problems_part.json.xz").read_bytes()))
    captions = json.loads(lzma.decompress((folder / "captions.json.xz").read_bytes()))["captions"]

    def official(problem: dict[str, Any], caption: str) -> str:
        context = " ".join([problem["hint"], caption]).strip() or "N/A"
        options = " ".join(f"({'ABCDE'[n]}) {choice}" for n, choice in enumerate(problem["choices"]))
        text = f"Question: {problem['question']}\nContext: {context}\nOptions: {options}\nAnswer:"
        return text.replace("  ", " ").strip()

    for pid, problem in problems.items():
        for caption in ("", captions.get(pid, "")):
            assert qcm(problem, caption)[0] == official(problem, caption)
    assert qcm(PROBLEM | {"question": "A   b  c?"})[0].startswith("Question: A  b c?\n")
