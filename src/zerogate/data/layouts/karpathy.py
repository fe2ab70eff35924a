"""Karpathy's splits of COCO, Flickr8k and Flickr30k: one JSON file with every image, its split and its captions.

    dataset_coco.json     {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg",
                           "split": "test", "sentences": [{"raw": "A man riding a bike."}, ...]}, ...]}
    val2014/, train2014/  the photographs (for Flickr: no filepath, images in one folder)

As everywhere, `train` has the images that the file calls `restval`, too: 113,287 of COCO, beside 5,000 each of val and
test.
"""

from __future__ import annotations

from typing import Any

from zerogate.data.layouts.example import Example
from zerogate.data.layouts.flickr8k import caption_example
from zerogate.data.layouts.place import Place, one_image
from zerogate.errors import UserError

_MEMBERS = {"train": ("train", "restval")}
_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images")
# COCO's own two archives are to be unpacked side by side; a folder may hold many others, so not all are opened.
_ARCHIVES = ("images*.tar*", "images*.zip", "*lickr*.tar*", "*lickr*.zip")


def read(place: Place, split: str) -> list[Example]:
    """Read a split; one example for each photograph.

    Raises:
        UserError: no such files, an unknown split, or an image without its fields.
    """
    file = place.file or place.find("dataset_*.json*", "dataset.json*", hint="; name the file itself as data.path")
    images = place.read_object(file).get("images")
    if not isinstance(images, list):
        raise UserError(f"{file} has no list 'images', which Karpathy's files of splits have")
    for number, image in enumerate(images, start=1):
        _check(image, f"{file}, image {number}")
    members = _MEMBERS.get(split, (split,))
    chosen = [(row, image) for row, image in enumerate(images, start=1) if image["split"] in members]
    if not chosen:
        raise place.no_split(split, sorted({image["split"] for image in images} - {"restval"}))
    sources = place.images(_FOLDERS, (_path(image) for _, image in chosen), _ARCHIVES)
    examples = []
    for row, image in chosen:
        captions = [said["raw"] for said in image["sentences"]]
        examples.append(caption_example(row, _path(image), captions, one_image(sources, _path(image))))
    return examples


def _path(image: dict[str, Any]) -> str:
    return f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]


def _check(image: Any, where: str) -> None:
    match image:
        case {"filename": str(), "split": str(), "sentences": [{"raw": str()}, *_] as sentences}:
            if not all(isinstance(said, dict) and isinstance(said.get("raw"), str) for said in sentences):
                raise UserError(f"{where}: a sentence has no text 'raw'")
        case _:
            raise UserError(f"{where}: expected filename, split and sentences with raw")
