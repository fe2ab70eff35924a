"""ScienceQA's own layout: multiple choice from school, half of it with a picture.

    problems.json          an object of problems by their id: question, choices, answer (an index), hint, image, ...
    pid_splits.json        ids of train, val, test, minival, ...
    captions.json          machine captions of the pictures, for models that see none
    images/test/5/image.png

In the official tree captions.json lies in the folder above. The wording is LLaMA-Adapter's "QCM-A": question, context
and options in, "The answer is B." out, without lecture or explanation (`scienceqa_problem.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import Place, one_image
from zerogate.data.layouts.scienceqa_problem import check_problem, columns, image_path, qcm
from zerogate.errors import UserError

_ARCHIVES = ("images*.tar*", "images*.zip", "train.zip", "val.zip", "test.zip")


def read(place: Place, split: str) -> list[Example]:
    """Read a split, all of its problems, with their pictures.

    Raises:
        UserError: no such files, an unknown split, a problem without its fields, or no problem of the split.
    """
    return _read(place, split, None)


def read_captions(place: Place, split: str) -> list[Example]:
    """Read a split with a machine caption in the context instead of each picture: the text-only models of the paper.

    Raises:
        UserError: as `read`, or there are no captions.
    """
    file = place.find("captions*.json*", above="captions.json*")
    captions = place.read_object(file).get("captions")
    if not isinstance(captions, dict):
        raise UserError(f"{file} has no object 'captions'")
    for pid, caption in captions.items():
        if not isinstance(caption, str):
            raise UserError(f"{file}, problem {pid}: the caption is {json.dumps(caption)[:60]}, not text")
    place.use_images = False
    return _read(place, split, captions)


def _read(place: Place, split: str, captions: dict[str, str] | None) -> list[Example]:
    file = place.file or place.find("problems*.json*", hint=", pid_splits.json and images/test/5/image.png")
    problems = place.read_object(file)
    chosen = split_problems(place, file, problems, split)
    for pid in chosen:
        check_problem(problems[pid], f"{file}, problem {pid}")
    paths = {pid: image_path(pid, problems[pid], split) for pid in chosen if problems[pid].get("image")}
    images = place.images(["images"], paths.values(), _ARCHIVES)
    examples = []
    for row, pid in enumerate(chosen, start=1):
        instruction, letter = qcm(problems[pid], "" if captions is None else captions.get(pid, ""))
        # A caption stands for its picture: nothing is left out then.
        shown = one_image(images, paths[pid]) if pid in paths and captions is None else {}
        examples.append(
            Example(
                row,
                instruction,
                (f"The answer is {letter}.",),
                letter,
                group=f"problem {pid}",
                kinds=columns(problems[pid], f"{file}, problem {pid}"),
                choices=len(problems[pid]["choices"]),
                **shown,
            )
        )
    return examples


def split_problems(place: Place, file: Path, problems: dict[str, Any], split: str) -> list[str]:
    """The ids of a split whose problems are there, in the split's order. If some are not, `place.told` hears of it.

    Raises:
        UserError: no file of splits, none of that name, one that is no list of ids, or none of its problems is there.
    """
    splits_file = place.find("pid_splits*.json*")
    splits = place.read_object(splits_file)
    if split not in splits:
        raise UserError(f"{place.root}: pid_splits has no split {split!r}; it has {', '.join(splits)}")
    pids = splits[split]
    if not isinstance(pids, list):
        raise UserError(f"{splits_file}: the split {split!r} is {json.dumps(pids)[:60]}, not a list of problems' ids")
    if wrong := [pid for pid in pids if not isinstance(pid, str)]:
        raise UserError(
            f"{splits_file}: the split {split!r} has {json.dumps(wrong[0])[:60]}, which is not the text of a problem's "
            'id such as "5"'
        )
    if twice := [pid for pid, times in Counter(pids).items() if times > 1]:
        raise UserError(f"{splits_file}: the split {split!r} has the problem {twice[0]} more than once")
    chosen = [pid for pid in pids if pid in problems]
    if not chosen:
        raise UserError(f"{file} holds no question of the split {split!r}")
    if len(chosen) < len(pids):
        place.told(f"{len(chosen):,} of the split's {len(pids):,} problems are in {file}")
    return chosen
