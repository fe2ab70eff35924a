"""Every reader on the real files it is for, and on what is wrong with others."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from zerogate.errors import UserError
from zerogate.training.problems.image_files import Picture, decode, read_pictures
from zerogate.training.problems.squad_files import read_questions
from zerogate.training.problems.structured_images import UNSEEN, ninth, read_structured
from zerogate.training.problems.tagged_files import read_sentences
from zerogate.vision.pocket_eye.train import HELD_OUT

Shared = Callable[[str], Path]


@pytest.mark.parametrize(
    ("file", "size", "classes"), [("cifar100_1k", 1000, 100), ("mnist_1k", 1000, 10), ("mednist_1k", 1002, 6)]
)
def test_vtab_archives(shared_data: Shared, file: str, size: int, classes: int) -> None:
    parts = [read_pictures(shared_data(f"images/{file}.tar"), split) for split in ("train", "test")]
    assert [len(part) for part in parts] == [size, size]
    assert all(len({picture.label for picture in part}) == classes for part in parts)
    assert not {p.name for p in parts[0]} & {p.name for p in parts[1]}
    assert decode(parts[0][0]).mode == "RGB"


def test_cifar10(shared_data: Shared) -> None:
    pictures = read_pictures(shared_data("images/cifar10.tar"), "test")
    assert Counter(p.label for p in pictures) == dict.fromkeys({p.label for p in pictures}, 200)
    assert decode(pictures[0]).size == (32, 32)


def test_objects_in_nlvrs_boxes(shared_data: Shared) -> None:
    file = shared_data("images/nlvr_dev.tar.xz")
    train, test = (read_structured("nlvr_count", file, split) for split in ("train", "test"))
    assert len(train) == len(test) == 1000
    assert {p.label for p in test} <= {p.label for p in train} <= set("12345678")
    assert not {p.name.split(",")[0] for p in train[:-3]} & {p.name.split(",")[0] for p in test[3:]}
    # One object makes one patch of colour on the grey: the boxes are cut where their objects are.
    one = next(p for p in train if p.label == "1")
    colours = decode(one).getcolors(100 * 100)
    assert decode(one).size == (100, 100) and colours is not None
    assert len([count for count, _ in colours if count > 60]) == 2


def test_colours_and_places_of_easy_vqa(shared_data: Shared) -> None:
    file = shared_data("images/easy_vqa_train.tar")
    colours = read_structured("easy_vqa_colour", file, "train")
    assert len(colours) == 1000 and len({p.label for p in colours}) == 8
    blue = decode(next(p for p in colours if p.label == "blue")).getcolors(64 * 64)
    assert blue is not None and max(blue, key=lambda c: c[1][2] - c[1][0])[1] == (0, 0, 255)  # type: ignore[index]
    shapes = read_structured("easy_vqa_shape", file, "train")
    assert len(shapes) == 1000 and len({p.label for p in shapes}) == 24
    unseen = read_structured("easy_vqa_shape", file, "test")
    assert len(unseen) == 625 and {p.label for p in unseen} == {p.label for p in shapes}
    assert {int(Path(p.name).stem) for p in unseen} <= set(UNSEEN) and UNSEEN == HELD_OUT
    assert not {int(Path(p.name).stem) for p in shapes} & set(UNSEEN)
    triangle = decode(next(p for p in shapes if p.label == "red triangle")).getcolors(64 * 64)
    assert triangle is not None and (255, 0, 0) in [colour for _, colour in triangle]
    places = read_structured("easy_vqa_position", file, "test")
    assert len(places) == 1000 and len({p.label for p in places}) == 9
    assert places == read_structured("easy_vqa_position", file, "test")


@pytest.mark.parametrize(
    ("box", "place"),
    [((2, 2, 8, 9), "top left"), ((12, 13, 17, 17), "middle centre"), ((0, 22, 29, 29), "bottom centre")],
)
def test_where_a_shape_is(box: tuple[int, int, int, int], place: str) -> None:
    image = Image.new("RGB", (30, 30), (250, 240, 230))
    ImageDraw.Draw(image).rectangle(box, fill=(0, 0, 255))
    assert ninth(image) == place


def test_questions_of_squad(shared_data: Shared) -> None:
    train = read_questions(str(shared_data("squad/train-v1.1.json.xz")), None)
    assert len(train) == 87_599 and all(q.answers for q in train)
    assert train[0].question == "In what year did the earthquake in Sichuan occur?" and train[0].answers == (
        ("2008", 4),
    )
    second = read_questions(str(shared_data("squad/dev-v2.0-half.json.xz")), None)
    assert (len(second), sum(not q.answers for q in second)) == (5303, 2647)


def test_records_with_squads_columns(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    row = {
        "context": "Anna lives in Paris.",
        "question": "Where?",
        "answers": {"text": ["Paris"], "answer_start": [14]},
    }
    file.write_text(json.dumps(row) + "\n")
    assert read_questions(str(file), None)[0].answers == (("Paris", 14),)
    file.write_text(json.dumps(row | {"answers": {"text": ["Paris"], "answer_start": [3]}}) + "\n")
    with pytest.raises(UserError, match="row 1: the answer 'Paris' to 'Where\\?' does not stand at 3"):
        read_questions(str(file), None)
    file.write_text(json.dumps({"question": "Where?"}) + "\n")
    with pytest.raises(UserError, match=r"row 1: expected context"):
        read_questions(str(file), None)


@pytest.mark.parametrize(
    ("file", "sentences", "spans", "kinds"),
    [
        ("ner/conll04_train.txt", 910, 3391, 4),
        ("ner/wnut17_train.conll", 3394, 1975, 6),
        ("ner/bc5cdr_train.tsv", 4560, 9385, 2),
        ("srl/ewt_dev.jsonl.xz", 4960, 9556, 43),
    ],
)
def test_tagged_files(shared_data: Shared, file: str, sentences: int, spans: int, kinds: int) -> None:
    read = read_sentences(str(shared_data(file)), None)
    begins = [tag for sentence in read for tag in sentence.asked() if tag.startswith("B-")]
    assert (len(read), len(begins), len(set(begins))) == (sentences, spans, kinds)
    assert all(len(sentence.words) == len(sentence.tags) for sentence in read)


def test_a_predicate_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "srl.jsonl"
    frame = {"predicate": 1, "roleset": "live.01", "tags": ["B-ARG0", "B-V", "B-ARGM-LOC", "I-ARGM-LOC"]}
    file.write_text(json.dumps({"words": ["Anna", "lives", "in", "Paris"], "frames": [frame, frame]}) + "\n")
    sentences = read_sentences(str(file), None)
    assert len(sentences) == 2
    assert sentences[0].words == ("Anna", "*", "lives", "*", "in", "Paris")
    assert sentences[0].tags == ("B-ARG0", None, None, None, "B-ARGM-LOC", "I-ARGM-LOC")


def test_columns_are_found(tmp_path: Path) -> None:
    file = tmp_path / "conll2003.txt"
    file.write_text("-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n")
    read = read_sentences(str(file), None)
    assert [sentence.words for sentence in read] == [("EU", "rejects"), ("Peter",)]
    assert [sentence.tags for sentence in read] == [("B-ORG", "O"), ("B-PER",)]
    file.write_text(file.read_text().replace("-X- O O", "-X- -X- O"))
    assert read_sentences(str(file), None) == read


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.conll").write_text("EU B-ORG\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read_sentences("~/a.conll", None)) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["in", 2008], "ner_tags": ["O", "O"]}, "row 1: the word 2008 is not text"),
        ({"words": ["a"], "frames": [{"tags": ["O"]}]}, "row 1: a frame's `predicate` must be .* not None"),
        ({"words": ["a"], "frames": [{"predicate": 3, "tags": ["O"]}]}, "predicate` must be .* 0 to 0, not 3"),
        ({"words": ["a"], "frames": None}, "row 1: `frames` must be a list"),
    ],
)
def test_rows_that_do_not_fit(row: dict[str, object], message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        read_sentences(str(file), None)


def test_a_file_without_tags(tmp_path: Path) -> None:
    file = tmp_path / "broken.txt"
    file.write_text("EU ORG\nrejects O\n")
    with pytest.raises(UserError, match="no column of tags O, B-X and I-X throughout; line 1 ends in 'ORG'"):
        read_sentences(str(file), None)


def test_tags_as_numbers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ner.jsonl"
    file.write_text(json.dumps({"tokens": ["EU"], "ner_tags": [3]}) + "\n")
    with pytest.raises(UserError, match="3 is no BIO tag"):
        read_sentences(str(file), None)


def test_pictures_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_pictures(tmp_path / "none", None)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"no picture")
    picture = read_pictures(tmp_path, None)[0]
    with pytest.raises(UserError, match=r"1\.png cannot be read as a picture"):
        decode(picture)
    with pytest.raises(UserError, match=r"no pictures at train/CLASS/PICTURE; the folders there are cat"):
        read_pictures(tmp_path, "train")
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar")
    with pytest.raises(UserError, match="neither a folder nor a tar"):
        read_pictures(broken, None)


def test_moving_and_transparent_pictures_become_rgb() -> None:
    for mode, kind in (("P", "GIF"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")):
        target = io.BytesIO()
        Image.new(mode, (4, 4)).save(target, kind)
        assert decode(Picture("x", "y", target.getvalue())).mode == "RGB"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> Picture:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return Picture("x", "y", target.getvalue())


def test_pictures_are_decoded_as_records_images_are() -> None:
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((1, 0), 0x8000)
    assert [decode(encoded(deep)).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (128, 128, 128)]
    turned = Image.Exif()
    turned[0x112] = 6
    assert decode(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=turned)).size == (10, 20)
    assert decode(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)
    plain = Image.effect_noise((16, 16), 60).convert("RGB")
    assert decode(encoded(plain)).tobytes() == plain.tobytes()


def test_pictures_in_no_classs_own_folder_are_named(tmp_path: Path) -> None:
    for place in ("cat", "cat/more", "."):
        (tmp_path / place).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "1.png")
    elsewhere: list[str] = []
    assert [picture.name for picture in read_pictures(tmp_path, None, elsewhere)] == ["cat/1.png"]
    assert sorted(elsewhere) == ["1.png", "cat/more/1.png"]


def test_a_tar_of_classes(tmp_path: Path) -> None:
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG")
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("./cat/1.png")
        member.size = len(target.getvalue())
        archive.addfile(member, io.BytesIO(target.getvalue()))
    assert [(p.name, p.label) for p in read_pictures(tmp_path / "p.tar.gz", None)] == [("cat/1.png", "cat")]
