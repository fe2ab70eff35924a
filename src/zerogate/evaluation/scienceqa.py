"""The text half of ScienceQA: its questions without a picture, as rows of instruction, input and answer.

The layout and the wording ("QCM-A") are those of `zerogate.data.layouts.scienceqa`, which also reads the pictures.
"""

from __future__ import annotations

from zerogate.data.layouts.place import Place
from zerogate.data.layouts.scienceqa import qcm, split_problems
from zerogate.data.read import Row, read_rows, read_text
from zerogate.errors import UserError


def text_problems(path: str, split: str = "test") -> list[Row]:
    """The split's questions without a picture, as rows of instruction, input and answer (a letter).

    Args:
        path: the problems' file or the folder with it; a list in LLM-Adapters' layout is read as it is.
        split: which of the splits.

    Raises:
        UserError: no such file, malformed JSON, a problem without its fields, or no question of that split.
    """
    place = Place(path, "scienceqa", use_images=False)
    file = place.file or place.find("problems*.json*")
    if not read_text(file).lstrip().startswith("{") or ".jsonl" in file.suffixes:
        return read_rows(str(file))
    problems = place.read_object(file)
    chosen = [pid for pid in split_problems(place, problems, split) if problems[pid].get("image") is None]
    if not chosen:
        raise UserError(f"{file} holds no question of the split {split!r} that has no picture")
    rows: list[Row] = []
    for row, pid in enumerate(chosen, start=1):
        instruction, letter = qcm(problems[pid], f"{file}, problem {pid}")
        rows.append((row, {"instruction": instruction, "input": "", "answer": letter}))
    return rows
