"""Classes worked out from pictures of shapes, as VTAB's structured tasks are: how many, which colour, where.

    nlvr_count         NLVR: how many objects are in a box (100 x 100), 1 to 8
    easy_vqa_colour    easy-VQA: the colour of the one shape, 8
    easy_vqa_shape     easy-VQA: the shape and its colour, such as "red triangle", 24
    easy_vqa_position  easy-VQA: in which ninth of the picture its centre lies, 9

A task has two parts, `train` and `test`, of 1,000 pictures each: the first and second thousand of a shuffle that is
always the same. Boxes of one NLVR sentence stay in one part. Those of `easy_vqa_shape`, which is for models that read
the classes' names, are tested on the 625 pictures that pocket-eye has not been trained on.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageChops

from zerogate.errors import UserError
from zerogate.training.problems.image_files import Picture

StructuredName = Literal["nlvr_count", "easy_vqa_colour", "easy_vqa_shape", "easy_vqa_position"]
PART = 1000
UNSEEN = range(3200, 4000)
"""Numbers of easy-VQA's training pictures that pocket-eye has not been trained on."""

Group = Callable[[], list[Picture]]  # pictures that stay in one part, made when they are asked for
Pool = tuple[tuple[str, ...], list[Group]]  # and which parts are filled from it, one after the other
_COLOURS = {"red", "green", "blue", "yellow", "black", "brown", "gray", "teal"}
_LEFT_EDGES = (0, 150, 300)  # of NLVR's three boxes in its picture of 400 x 100


def read_structured(name: StructuredName, path: str | Path, split: str | None) -> list[Picture]:
    """Pictures and classes of one part.

    Args:
        name: the task.
        path: `nlvr_dev.tar.xz` or `easy_vqa_train.tar`.
        split: `train` or `test`.

    Raises:
        UserError: not that archive, or no such part.
    """
    if split not in ("train", "test"):
        raise UserError(f"{name} has the parts train and test (data.split, data.held_out), not {split!r}")
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist; {name} is made from an archive of NLVR or easy-VQA")
    try:
        with tarfile.open(path) as archive:
            # In one pass: a packed archive is unpacked from its beginning for every look back.
            files = {m.name.removeprefix("./"): _bytes(archive, m) for m in archive if m.isfile()}
        parts: dict[str, list[Picture]] = {"train": [], "test": []}
        for filled, groups in _nlvr(files) if name == "nlvr_count" else _easy_vqa(files, name):
            random.Random(f"vtab {name}").shuffle(groups)
            for group in groups:
                part = next((one for one in filled if len(parts[one]) < PART), None)
                if part is None:
                    break
                parts[part] += group()[: PART - len(parts[part])]
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise UserError(f"{path} is not the archive that {name} is made from: {error}") from error
    return parts[split]


def _nlvr(files: dict[str, bytes]) -> list[Pool]:
    def boxes(record: dict[str, Any]) -> list[Picture]:
        # Further pictures of a sentence show the same three boxes in another order.
        name = f"images/{record['directory']}/dev-{record['identifier']}-0.png"
        image = Image.open(io.BytesIO(files[name])).convert("RGB")
        return [
            Picture(f"{name}, box at {left}", str(len(objects)), _png(image.crop((left, 0, left + 100, 100))))
            for left, objects in zip(_LEFT_EDGES, record["structured_rep"], strict=True)
        ]

    lines = files["dev.json"].decode("utf-8").splitlines()
    return [(("train", "test"), [partial(boxes, json.loads(line)) for line in lines])]


def _easy_vqa(files: dict[str, bytes], name: StructuredName) -> list[Pool]:
    questions = json.loads(files["train/questions.json"])
    colours = {number: answer for question, answer, number in questions if question.startswith("what color")}
    if name == "easy_vqa_shape":
        colours = _whole_answers(questions)

    def shape(number: int) -> list[Picture]:
        file = f"train/images/{number}.png"
        data = files[file]
        place = name == "easy_vqa_position"
        label = ninth(Image.open(io.BytesIO(data)).convert("RGB")) if place else colours[number]
        return [Picture(file, label, data)]

    numbers = sorted(colours)
    if name != "easy_vqa_shape":
        return [(("train", "test"), [partial(shape, number) for number in numbers])]
    return [
        (("train",), [partial(shape, number) for number in numbers if number not in UNSEEN]),
        (("test",), [partial(shape, number) for number in numbers if number in UNSEEN]),
    ]


def _whole_answers(questions: list[tuple[str, str, int]]) -> dict[int, str]:
    """Colour and shape of the pictures of which questions that are not answered by yes or no tell both."""
    told: dict[int, set[str]] = {}
    for question, answer, number in questions:
        if answer not in ("yes", "no"):
            told.setdefault(number, set()).update([*question.rstrip("?").split(), answer])
    shapes = {n: [w for w in ("circle", "rectangle", "triangle") if w in words] for n, words in told.items()}
    colours = {n: sorted(words & _COLOURS) for n, words in told.items()}
    return {n: f"{colours[n][0]} {shapes[n][0]}" for n in told if colours[n] and shapes[n]}


def ninth(image: Image.Image) -> str:
    """In which ninth of a picture of one shape its bounding box has its centre, such as "top left"."""
    width, height = image.size
    # The background's colour is the commonest along the border, of which the shape may cover a part.
    edges = [(0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)]
    border: Counter[Any] = Counter()
    for edge in edges:
        border.update({colour: count for count, colour in image.crop(edge).getcolors(2 * (width + height)) or []})
    background = Image.new("RGB", image.size, border.most_common(1)[0][0])
    box = ImageChops.difference(image, background).getbbox()
    assert box is not None  # one colour alone is no shape
    across, down = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    row = ("top", "middle", "bottom")[min(int(down * 3), 2)]
    return f"{row} {('left', 'centre', 'right')[min(int(across * 3), 2)]}"


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a file
    return stream.read()


def _png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()
