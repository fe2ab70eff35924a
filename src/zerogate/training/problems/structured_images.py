"""Classes worked out from pictures of shapes, as VTAB's structured tasks are: how many, which colour, where.

    nlvr_count         NLVR: how many objects are in a box (100 x 100), 1 to 8
    easy_vqa_colour    easy-VQA: the colour of the one shape, 8
    easy_vqa_position  easy-VQA: in which ninth of the picture its centre lies, 9

A task has two parts, `train` and `test`, of 1,000 pictures each: the first and second thousand of a shuffle that is
always the same. Boxes of one NLVR sentence stay in one part.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from zerogate.errors import UserError
from zerogate.training.problems.image_files import Picture

StructuredName = Literal["nlvr_count", "easy_vqa_colour", "easy_vqa_position"]
PART = 1000
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
            groups = _nlvr_boxes(archive) if name == "nlvr_count" else _easy_vqa(archive, name)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise UserError(f"{path} is not the archive that {name} is made from: {error}") from error
    random.Random(f"vtab {name}").shuffle(groups)
    parts: dict[str, list[Picture]] = {"train": [], "test": []}
    for group in groups:
        part = "train" if len(parts["train"]) < PART else "test"
        parts[part] += group[: PART - len(parts[part])]
    return parts[split]


def _nlvr_boxes(archive: tarfile.TarFile) -> list[list[Picture]]:
    files = {member.name.removeprefix("./"): member for member in archive.getmembers()}
    groups = []
    for line in _text(archive, files["dev.json"]).splitlines():
        record: dict[str, Any] = json.loads(line)
        # Further pictures of a sentence show the same three boxes in another order.
        name = f"images/{record['directory']}/dev-{record['identifier']}-0.png"
        image = Image.open(io.BytesIO(_bytes(archive, files[name]))).convert("RGB")
        boxes = []
        for left, objects in zip(_LEFT_EDGES, record["structured_rep"], strict=True):
            box = image.crop((left, 0, left + 100, 100))
            boxes.append(Picture(f"{name}, box at {left}", str(len(objects)), _png(box)))
        groups.append(boxes)
    return groups


def _easy_vqa(archive: tarfile.TarFile, name: StructuredName) -> list[list[Picture]]:
    files = {member.name.removeprefix("./"): member for member in archive.getmembers()}
    colours = {
        number: answer
        for question, answer, number in json.loads(_text(archive, files["train/questions.json"]))
        if question.startswith("what color")
    }
    groups = []
    for number in sorted(colours):
        file = f"train/images/{number}.png"
        data = _bytes(archive, files[file])
        label = colours[number] if name == "easy_vqa_colour" else _ninth(Image.open(io.BytesIO(data)).convert("RGB"))
        groups.append([Picture(file, label, data)])
    return groups


def _ninth(image: Image.Image) -> str:
    """Where the shape's box has its centre: top, middle or bottom; left, centre or right."""
    width, height = image.size
    background = image.getpixel((0, 0))
    # The corner may be covered; then the colour of most of the border is the background's.
    border = [image.getpixel((x, y)) for x in range(width) for y in (0, height - 1)]
    border += [image.getpixel((x, y)) for y in range(height) for x in (0, width - 1)]
    background = max(set(border), key=border.count)
    inside = [(x, y) for x in range(width) for y in range(height) if image.getpixel((x, y)) != background]
    xs, ys = [x for x, _ in inside], [y for _, y in inside]
    across = (min(xs) + max(xs) + 1) / 2 / width
    down = (min(ys) + max(ys) + 1) / 2 / height
    row = ("top", "middle", "bottom")[min(int(down * 3), 2)]
    return f"{row} {('left', 'centre', 'right')[min(int(across * 3), 2)]}"


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a file
    return stream.read()


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    return _bytes(archive, member).decode("utf-8")


def _png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()
