"""Flickr8k: photographs with five captions each, in the two layouts that are about.

    captions.txt, Images/                           image,caption as comma-separated values
    Flickr8k.token.txt, Flicker8k_Dataset/          NAME.jpg#0<tab>caption, with the official splits in
    Flickr_8k.trainImages.txt, devImages, testImages

Where the splits' files are, `train`, `val` and `test` are theirs; else there is only `train`, which is everything.
"""

from __future__ import annotations

import csv
from pathlib import Path

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.place import Place, Shown, one_image
from zerogate.data.read import read_text
from zerogate.errors import UserError

INSTRUCTION = "Generate caption for this image"
"""The paper's prompt for captions."""

_CAPTIONS = ("captions.txt", "Flickr8k.token.txt", "*lickr*captions*.txt", "*lickr*captions*.csv")
_FOLDERS = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_ARCHIVES = ("*lickr*.tar*", "*lickr*.zip", "[Ii]mages.zip")
_SPLIT_FILES = {"train": "train", "val": "dev", "test": "test"}


def read(place: Place, split: str) -> list[Example]:
    """Read a split; one example for each photograph.

    Raises:
        UserError: no such files, an unknown split, or a line without image and caption.
    """
    file = place.file or place.find(*_CAPTIONS, hint=", and the photographs in Images/ or an archive beside it")
    captions = _captions(file)
    splits = {
        name: found[0] for name, stem in _SPLIT_FILES.items() if (found := place.all(f"Flickr_8k.{stem}Images.txt"))
    }
    if split not in (splits or {"train"}):
        raise place.no_split(split, splits or ["train"])
    if splits:
        chosen = read_text(splits[split]).split()
        missing = [name for name in chosen if name not in captions]
        if missing:
            raise UserError(f"{file} has no captions for {len(missing)} images of {splits[split]}: {missing[0]}")
        captions = {name: captions[name] for name in chosen}
    images = place.images(_FOLDERS, captions, _ARCHIVES)
    return [
        caption_example(row, name, texts, one_image(images, name))
        for row, (name, texts) in enumerate(captions.items(), start=1)
    ]


def caption_example(row: int, name: str, captions: list[str], shown: Shown) -> Example:
    """An image whose captions are each a right answer. As labels of a scorer they are parted by line breaks."""
    texts = tuple(" ".join(caption.split()) for caption in captions)
    return Example(row, INSTRUCTION, texts, "\n".join(texts), group=f"image {name}", **shown)


def _captions(file: Path) -> dict[str, list[str]]:
    """Captions by the name of their image, in the file's order."""
    lines = read_text(file).splitlines()
    if "#" in lines[0].split("\t")[0]:
        rows = [line.replace("#", "\t", 1).split("\t") for line in lines if line.strip()]
        pairs = [(row[0], row[-1]) if len(row) == 3 else None for row in rows]
    else:
        cells = list(csv.reader(lines))
        if [cell.strip() for cell in cells[0]] != ["image", "caption"]:
            raise UserError(f"{file}, line 1: expected the columns image,caption or lines of NAME.jpg#0<tab>caption")
        pairs = [(row[0], row[1]) if len(row) == 2 else None for row in cells]
        pairs[0] = ("", "")
    captions: dict[str, list[str]] = {}
    for number, pair in enumerate(pairs, start=1):
        if pair is None or (pair[0] and not pair[1].strip()):
            raise UserError(f"{file}, line {number}: expected an image and its caption")
        if pair[0]:
            captions.setdefault(pair[0].strip(), []).append(pair[1])
    return captions
