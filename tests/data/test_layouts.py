"""Published data sets with images, each read from its real files; and layouts that do not fit."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from zerogate.data import DataSection, load_data
from zerogate.data.layouts import example_records, read_examples
from zerogate.data.layouts.easy_vqa import KINDS, kind_of_question
from zerogate.data.layouts.scienceqa_problem import columns
from zerogate.data.layouts.splits import parse_split, path_and_split
from zerogate.data.load import load_records
from zerogate.errors import UserError
from zerogate.vision import check_images, open_image

Shared = Callable[[str], Path]


def checked(examples: list[Any]) -> dict[int, str]:
    return check_images((example.row, example.images) for example in examples).bad


# easy-VQA


def test_easy_vqa(shared_data: Shared) -> None:
    archive = str(shared_data("images/easy_vqa_train.tar"))
    examples = read_examples("easy_vqa", archive, "train")
    assert len(examples) == 38_575
    assert examples[0].instruction == "what is the blue shape?" and examples[0].answers == ("rectangle",)
    assert len({example.images[0].key for example in examples}) == 4000
    assert open_image(examples[0].images[0]).size == (64, 64)
    assert checked(examples) == {}
    assert Counter(label in ("yes", "no") for label in (example.label for example in examples))[True] == 28_407
    assert {kind for example in examples for kind in example.kinds} == set(KINDS)


def test_easy_vqa_is_split_by_image(shared_data: Shared) -> None:
    archive = str(shared_data("images/easy_vqa_train.tar"))
    section = DataSection(path=archive, format="easy_vqa", split="train[:90%]", held_out=f"{archive}:train[90%:]")
    train, held_out, format = load_records(section)
    assert format == "easy_vqa"
    assert (len(train), len(held_out)) == (34_687, 3_888)
    seen, new = ({record.images[0].key for record in part} for part in (train, held_out))
    assert (len(seen), len(new)) == (3600, 400) and not seen & new
    train, held_out, _ = load_records(DataSection(path=archive, format="easy_vqa", held_out=1000))
    assert len(held_out) == 1000
    assert not {r.images[0].key for r in train} & {r.images[0].key for r in held_out}
    # The text-only baseline is trained and measured on the same records.
    blind = load_records(DataSection(path=archive, format="easy_vqa", held_out=1000, use_images=False))
    assert [r.row for r in blind[1]] == [r.row for r in held_out]
    assert not any(r.images for part in blind[:2] for r in part)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("what color is the circle?", "what colour"),
        ("what is the color of the shape?", "what colour"),
        ("what is the blue shape?", "what shape"),
        ("is there a circle?", "such a shape"),
        ("is a gray shape present?", "such a colour"),
        ("is no triangle present?", "no such shape"),
        ("does the image not contain a red shape?", "no such colour"),
    ],
)
def test_kinds_of_questions(question: str, kind: str) -> None:
    assert kind_of_question(question) == kind


# Captions


def test_flickr8k(shared_data: Shared, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = shared_data("images")
    examples = read_examples("flickr8k", str(folder), "train")
    assert len(examples) == 800 and {len(example.answers) for example in examples} == {5}
    assert examples[0].answers[0] == "A black dog and a spotted dog are fighting"
    assert "A dog shakes its head near the shore , a red ball next to it ." in next(
        example.answers for example in examples if example.group == "image 1012212859_01547e3f17.jpg"
    )
    assert checked(examples) == {}
    records = example_records(examples)
    assert len(records) == 4000 and records[4].turns[0].content == "Generate caption for this image"
    # The captions' file itself, and its images by name.
    archive = str(folder / "flickr8k_800.tar")
    again = read_examples("flickr8k", str(folder / "flickr8k_800_captions.txt"), "train[:50]", archive)
    assert again == examples[:50]
    section = DataSection(path=str(folder), format="flickr8k", split="train[:100]", held_out=100)
    data = load_data(section, tokenizer)
    assert data.held_out is not None and (len(data.train), len(data.held_out)) == (400, 100)
    assert data.leaks is not None and not data.leaks.exact  # one prompt for all, but other images
    assert "80 images" in data.lines() and "held out: 20 images" in data.lines()


def test_flickr8k_in_its_first_layout(shared_data: Shared, tmp_path: Path) -> None:
    examples = read_examples("flickr8k", str(shared_data("images")), "train[:6]")
    photos = tmp_path / "Flicker8k_Dataset"
    photos.mkdir()
    lines = []
    for example in examples:
        source = example.images[0]
        assert source.path is not None
        shutil.copy(source.path, photos / source.name)
        lines += [f"{source.name}#{n}\t{caption}" for n, caption in enumerate(example.answers)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    stems = {"train": examples[:3], "dev": examples[3:4], "test": examples[4:]}
    for stem, part in stems.items():
        listed = "\n".join(example.images[0].name for example in part)
        (tmp_path / f"Flickr_8k.{stem}Images.txt").write_text(listed + "\n")
    for split, stem in (("train", "train"), ("val", "dev"), ("test", "test")):
        found = read_examples("flickr8k", str(tmp_path), split)
        assert [(e.answers, e.images[0].digest) for e in found] == [
            (e.answers, e.images[0].digest) for e in stems[stem]
        ]
    with pytest.raises(UserError, match="no split 'dev'; it has train, val, test"):
        read_examples("flickr8k", str(tmp_path), "dev")


def test_karpathys_splits(shared_data: Shared, tmp_path: Path) -> None:
    examples = read_examples("flickr8k", str(shared_data("images")), "train[:8]")
    images = []
    for number, example in enumerate(examples):
        source, folder = example.images[0], ("train2014", "val2014")[number % 2]
        assert source.path is not None
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(source.path, tmp_path / folder / source.name)
        split = ("train", "restval", "val", "test")[number % 4]
        sentences = [{"raw": caption, "tokens": caption.split(), "imgid": number} for caption in example.answers]
        images.append({"filepath": folder, "filename": source.name, "split": split, "sentences": sentences})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    counts = {}
    for split in ("train", "val", "test"):
        found = read_examples("karpathy", str(tmp_path), split)
        assert checked(found) == {}
        counts[split] = [example.row for example in found]
        assert all(example.answers == examples[example.row - 1].answers for example in found)
    assert counts == {"train": [1, 2, 5, 6], "val": [3, 7], "test": [4, 8]}
    assert read_examples("karpathy", str(tmp_path / "dataset_coco.json"), "val") == read_examples(
        "karpathy", str(tmp_path), "val"
    )
    with pytest.raises(UserError, match="no split 'dev'; it has test, train, val"):
        read_examples("karpathy", str(tmp_path), "dev")


# NLVR


def test_nlvr(shared_data: Shared) -> None:
    archive = str(shared_data("images/nlvr_dev.tar.xz"))
    examples = read_examples("nlvr", archive, "dev")
    assert len(examples) == 5934 and len({example.images[0].key for example in examples}) == 5934
    assert examples[0].input == "Each grey box contains atleast one yellow object touching the edge"
    assert Counter(example.label for example in examples[::6]) == {"true": 547, "false": 442}
    assert [image.name for example in examples[:6] for image in example.images] == [
        f"2/dev-1572-0-{order}.png" for order in range(6)
    ]
    assert checked(examples[:60]) == {}
    # Six orders of one scene stay on one side of a split.
    train, held_out, _ = load_records(DataSection(path=archive, format="nlvr", split="dev", held_out=600))
    assert len(held_out) == 600 and not {r.group for r in train} & {r.group for r in held_out}
    blind = read_examples("nlvr", archive, "dev", use_images=False)
    assert [(e.row, e.label) for e in blind] == [(e.row, e.label) for e in examples]
    with pytest.raises(UserError, match="no split 'train'; it has dev"):
        read_examples("nlvr", archive, "train")


# ScienceQA


def test_scienceqa_with_pictures(shared_data: Shared) -> None:
    folder = shared_data("scienceqa")
    examples = read_examples("scienceqa", str(folder), "test")
    assert len(examples) == 361 and sum(bool(example.images) for example in examples) == 167
    missing = checked(examples)  # half of the test split's pictures are here
    assert len(missing) == 86 and "no such file" in next(iter(missing.values()))
    assert examples[0].answers == ("The answer is B.",) and examples[0].label == "B"
    assert examples[0].instruction.endswith("\nContext: N/A\nOptions: (A) chiasmus (B) apostrophe\nAnswer:")
    assert Counter("IMG" in example.kinds for example in examples)[True] == 167
    counts = Counter(kind for example in examples for kind in example.kinds)
    assert counts["NAT"] + counts["SOC"] + counts["LAN"] == counts["G1-6"] + counts["G7-12"] == 361
    assert counts["NO"] == 124


def test_scienceqa_without_pictures_and_with_captions(shared_data: Shared) -> None:
    folder = str(shared_data("scienceqa"))
    blind = read_examples("scienceqa", folder, "train", use_images=False)
    assert len(blind) == 1041 and not any(example.images for example in blind)
    with pytest.raises(UserError, match=r"no images for scienceqa: looked for train/1/image\.png .*use_images=false"):
        read_examples("scienceqa", folder, "train")
    captioned = read_examples("scienceqa_captions", folder, "train")
    assert not any(example.images for example in captioned)
    assert "\nContext: An aerial view of a painting of a forest.\nOptions" in captioned[0].instruction
    different = [a.instruction != b.instruction for a, b in zip(blind, captioned, strict=True)]
    assert different == ["IMG" in example.kinds for example in blind]
    assert len(read_examples("scienceqa", folder, "minival", use_images=False)) < 424


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        ({"subject": "natural science", "grade": "grade4", "hint": "", "image": None}, ("NAT", "NO", "G1-6")),
        ({"subject": "social science", "grade": "grade6", "hint": "x", "image": None}, ("SOC", "TXT", "G1-6")),
        ({"subject": "language science", "grade": "grade7", "hint": "", "image": "i.png"}, ("LAN", "IMG", "G7-12")),
        (
            {"subject": "natural science", "grade": "grade12", "hint": "x", "image": "i.png"},
            ("NAT", "TXT", "IMG", "G7-12"),
        ),
    ],
)
def test_columns_of_the_papers_table(problem: dict[str, Any], found: tuple[str, ...]) -> None:
    assert columns(problem, "here") == found


# What does not fit


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(file)


@pytest.mark.parametrize(
    ("layout", "files", "said"),
    [
        (
            "easy_vqa",
            {},
            r"no questions\.json, so it is no data set of the layout easy_vqa: looked for .*there is nothing",
        ),
        ("easy_vqa", {"a.txt": "x"}, r"looked for \*/questions\.json, .*there is a\.txt"),
        ("easy_vqa", {"train/questions.json": [["q", "yes", 0]]}, r"no images for easy_vqa: looked for 0\.png"),
        ("easy_vqa", {"train/questions.json": {"a": 1}}, "expected a list"),
        ("easy_vqa", {"train/questions.json": [["q", "yes", 0], ["q", 3]]}, "row 2: expected .question, answer"),
        ("easy_vqa", {"train/questions.json": [["q", "purple", 0]]}, "row 1: 'purple' is no answer"),
        ("easy_vqa", {"test/questions.json": [["q", "yes", 0]]}, "no split 'train'; it has test"),
        ("nlvr", {}, r"no train\.json"),
        ("nlvr", {"train.json": [{"sentence": "x"}]}, "row 1: no field 'label', 'identifier'"),
        ("nlvr", {"train.json": [{"sentence": "x", "label": "yes", "identifier": "1-0"}]}, "neither true nor false"),
        ("flickr8k", {}, r"no captions\.txt"),
        ("flickr8k", {"captions.txt": "file,text\n"}, "line 1: expected the columns image,caption"),
        ("flickr8k", {"captions.txt": "image,caption\na.jpg,x\nb.jpg\n"}, "line 3: expected an image and its caption"),
        ("flickr8k", {"captions.txt": "image,caption\na.jpg,x\n"}, r"no images for flickr8k: looked for a\.jpg"),
        ("karpathy", {"dataset_coco.json": {"a": 1}}, "has no list 'images'"),
        ("karpathy", {"dataset_coco.json": {"images": [{"filename": "x"}]}}, "image 1: expected filename, split"),
        ("scienceqa", {}, r"no problems\.json"),
        ("scienceqa", {"problems.json": {"1": {}}}, r"no pid_splits\.json"),
        ("scienceqa", {"problems.json": {"1": {}}, "pid_splits.json": {"val": ["1"]}}, "no split 'train'; it has val"),
        (
            "scienceqa",
            {"problems.json": {"1": {}}, "pid_splits.json": {"train": ["1"]}},
            "problem 1: no field 'question'",
        ),
        ("scienceqa_captions", {"problems.json": {"1": {}}}, r"no captions\.json"),
    ],
)
def test_layouts_that_do_not_fit(layout: Any, files: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_examples(layout, str(tmp_path), "train")


def test_archives_and_paths_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data not found: nowhere"):
        read_examples("nlvr", "nowhere:dev[:10]", "train")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"a\.tar is an archive: name what it holds with data\.format \(easy_vqa, flickr8k"
    ):
        load_records(DataSection(path=str(tmp_path / "a.tar")))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("train", ("train", None)),
        ("train[:90%]", ("train", ("0", "90%"))),
        ("dev[10:20]", ("dev", ("10", "20"))),
        ("test-hidden[-5:]", ("test-hidden", ("-5", ""))),
    ],
)
def test_split_names(text: str, parsed: tuple[str, Any]) -> None:
    assert parse_split(text) == parsed
    assert path_and_split(f"some/where.tar:{text}", "other") == ("some/where.tar", text)
    assert path_and_split("some/where.tar", text) == ("some/where.tar", text)


def test_parts_of_a_split_are_counted_in_images(tmp_path: Path) -> None:
    rows = [["is there a circle?", "yes", number // 3] for number in range(30)]
    for number in range(10):
        picture(tmp_path / "train" / "images" / f"{number}.png")
    (tmp_path / "train" / "questions.json").write_text(json.dumps(rows))

    def part(split: str) -> list[int]:
        return sorted({int(e.images[0].name[:-4]) for e in read_examples("easy_vqa", str(tmp_path), split)})

    assert part("train[:50%]") == [0, 1, 2, 3, 4] and part("train[50%:]") == [5, 6, 7, 8, 9]
    assert part("train[2:4]") == [2, 3] and part("train[-1:]") == [9] and part("train[8:99]") == [8, 9]
    with pytest.raises(UserError, match=r"train\[20:\] holds nothing: there are 10 images"):
        part("train[20:]")
    with pytest.raises(UserError, match=r"data\.split='train\[50\]' is no split"):
        part("train[50]")
