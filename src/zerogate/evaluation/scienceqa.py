"""The text half of ScienceQA: its questions without a picture, as rows of instruction, input and answer.

The layout is that of `zerogate.data.layouts.scienceqa`, which also reads the pictures, and the wording ("QCM-A") too.
"""

from __future__ import annotations

from collections.abc import Callable

from zerogate.data.layouts.place import Place
from zerogate.data.layouts.scienceqa import split_problems
from zerogate.data.layouts.scienceqa_problem import check_problem, has_picture, qcm
from zerogate.data.read import Row, read_rows, read_text
from zerogate.errors import UserError


def text_problems(path: str, told: Callable[[str], None] | None = None, split: str = "test") -> list[Row]:
    """The split's questions without a picture, as rows of instruction, input, answer (a letter) and choices (how many).

    Args:
        path: the problems' file or the folder with it; a list in LLM-Adapters' layout is read as it is.
        told: called with what a user should know of the data, such as that only a part of the split is there.
        split: which of the splits.

    Raises:
        UserError: no such file, malformed JSON, a problem without its fields, or no question of that split.
    """
    place = Place(path, "scienceqa", use_images=False, told=told)
    file = place.file or place.find("problems*.json*")
    if not read_text(file).lstrip().startswith("{") or ".jsonl" in file.suffixes:
        return read_rows(str(file))
    problems = place.read_object(file)
    named = {pid: f"{file}, problem {pid}" for pid in split_problems(place, file, problems, split)}
    chosen = [pid for pid, where in named.items() if not has_picture(problems[pid], where)]
    if not chosen:
        raise UserError(f"{file} holds no question of the split {split!r} that has no picture")
    rows: list[Row] = []
    for row, pid in enumerate(chosen, start=1):
        check_problem(problems[pid], named[pid])
        instruction, letter = qcm(problems[pid])
        choices = len(problems[pid]["choices"])
        rows.append((row, {"instruction": instruction, "input": "", "answer": letter, "choices": choices}))
    return rows
