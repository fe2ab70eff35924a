"""Data sets with images as they are published: `read_examples("easy_vqa", "easy_vqa_train.tar", "train[:90%]")`.

A layout finds its files in a folder or an archive and makes examples: a question, its images, all its right answers.
Training makes a record of each answer (`example_records`), evaluation a question of each example. To add a layout,
write a file with a `read` function and add it to `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from zerogate.data.archive import image_folder
from zerogate.data.layouts import easy_vqa, flickr8k, karpathy, nlvr, scienceqa
from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import WAY_OUT, Place
from zerogate.data.layouts.splits import parse_split, path_and_split, take_slice
from zerogate.data.records import Record, Turn

LayoutName = Literal["easy_vqa", "flickr8k", "karpathy", "nlvr", "scienceqa", "scienceqa_captions"]
LAYOUTS: tuple[str, ...] = get_args(LayoutName)

_READERS: dict[str, Callable[[Place, str], list[Example]]] = {
    "easy_vqa": easy_vqa.read,
    "flickr8k": flickr8k.read,
    "karpathy": karpathy.read,
    "nlvr": nlvr.read,
    "scienceqa": scienceqa.read,
    "scienceqa_captions": scienceqa.read_captions,
}


def read_examples(
    layout: LayoutName,
    path: str,
    split: str,
    images: str | None = None,
    use_images: bool = True,
    way_out: str = WAY_OUT,
    told: Callable[[str], None] | None = None,
) -> list[Example]:
    """Read a split of a data set.

    Args:
        layout: whose layout it has.
        path: its folder, its archive, or its main file; `PATH:SPLIT` names the split, too, and wins.
        split: `train`, or a part of it by image: `train[:90%]`, `train[100:]`.
        images: where its images are, if not where the layout has them: a folder or an archive.
        use_images: false leaves the images out: the same questions for a model that sees nothing.
        way_out: what errors say to do about images that are nowhere.
        told: called with what a user should know of the data, such as that only a part of the split is there.

    Raises:
        UserError: no such path, files that the layout needs (with what was looked for), an unknown split, or a row that
            does not fit. Images are not opened here.
    """
    path, split = path_and_split(path, split)
    name, bounds = parse_split(split)
    place = Place(path, layout, None if images is None else image_folder(images), use_images, way_out, told)
    return take_slice(_READERS[layout](place, name), bounds, f"{path}: {split}")


def example_records(examples: list[Example]) -> list[Record]:
    """One training record for each answer, with the row of its example."""
    return [
        Record(
            example.row,
            (Turn("user", example.instruction, example.input), Turn("assistant", answer)),
            images=example.images,
            group=example.group,
        )
        for example in examples
        for answer in example.answers
    ]
