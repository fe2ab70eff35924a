"""Images in the four formats: columns, markers, typed parts; and what split, leak check and encoding make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from zerogate.data import DataSection, load_data
from zerogate.data.formats import to_records
from zerogate.data.leaks import find_near_duplicates, recorded_training
from zerogate.data.load import load_records
from zerogate.data.records import Record, Turn
from zerogate.data.split import cluster, find_leaks, split_held_out
from zerogate.errors import UserError
from zerogate.vision import source_from


def one(format: Any, row: dict[str, Any], folder: Path = Path("/d")) -> Record:
    return to_records([(3, row)], format, "data.json", folder)[0]


def names(record: Record) -> list[str]:
    return [image.name for image in record.images]


def alpaca(**fields: Any) -> dict[str, Any]:
    return {"instruction": "What is it?", "output": "A cat."} | fields


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, []),
        ({"image": None}, []),
        ({"image": ""}, []),
        ({"images": []}, []),
        ({"image": "a.png"}, ["a.png"]),
        ({"image": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"images": ["a.png"], "image": None}, ["a.png"]),
        ({"image": {"bytes": None, "path": None}}, []),
        ({"images": [{"bytes": None, "path": None}, {"bytes": None, "path": "a.png"}]}, ["a.png"]),
        ({"image": {"bytes": None, "path": "a.png"}}, ["a.png"]),
        ({"image": {"bytes": b"x", "path": None}}, ["(image in the record)"]),
    ],
)
def test_rows_with_none_one_and_several(fields: dict[str, Any], shown: list[str]) -> None:
    record = one("alpaca", alpaca(**fields))
    assert names(record) == shown
    assert record.turns == (Turn("user", "What is it?"), Turn("assistant", "A cat."))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<image>\nWhat is it?", "What is it?"),
        ("What is it?\n<image>", "What is it?"),
        ("What is it?<image>", "What is it?"),
        ("Is <image> a cat?", "Is image 1 a cat?"),
    ],
)
def test_llava_markers(value: str, text: str) -> None:
    talk = [{"from": "human", "value": value}, {"from": "gpt", "value": "A cat."}]
    record = one("sharegpt", {"id": "1", "image": "coco/1.jpg", "conversations": talk})
    assert record.turns == (Turn("user", text), Turn("assistant", "A cat."))
    assert [image.path for image in record.images] == [Path("/d/coco/1.jpg")]


def test_llama_factory_markers_over_several_turns() -> None:
    talk = [
        {"from": "human", "value": "<image><image>Which is larger, <image> or the first?"},
        {"from": "gpt", "value": "The first."},
        {"from": "human", "value": "And <image>?"},
        {"from": "gpt", "value": "Smaller."},
    ]
    record = one("sharegpt", {"images": ["1.png", "2.png", "3.png", "4.png"], "conversations": talk})
    assert [turn.content for turn in record.turns if turn.role == "user"] == [
        "Which is larger, image 3 or the first?",
        "And image 4?",
    ]
    assert names(record) == ["1.png", "2.png", "3.png", "4.png"]


@pytest.mark.parametrize(
    ("part", "column", "shown"),
    [
        ({"type": "image"}, ["a.png"], ["a.png"]),
        ({"type": "image", "image": {"bytes": None, "path": None}}, ["a.png"], ["a.png"]),
        ({"type": "image", "image": "b.png"}, None, ["b.png"]),
        ({"type": "image", "path": "b.png"}, None, ["b.png"]),
        ({"type": "image", "url": "file:///x/b.png"}, None, ["/x/b.png"]),
        ({"type": "image", "base64": "aGVsbG8="}, None, ["(image in a data: URL)"]),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}, None, ["(image in a data: URL)"]),
        ({"type": "image", "image": {"bytes": b"x", "path": "c.png"}}, None, ["c.png"]),
    ],
)
def test_typed_parts(part: dict[str, Any], column: list[str] | None, shown: list[str]) -> None:
    content = [part, {"type": "text", "text": "What is it?"}]
    row: dict[str, Any] = {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    }
    record = one("messages", row | ({"images": column} if column else {}))
    assert names(record) == shown
    assert record.turns == (Turn("user", "What is it?"), Turn("assistant", "A cat."))


def test_parts_in_the_middle_and_in_trl_prompts() -> None:
    content = [{"type": "text", "text": "Is"}, {"type": "image"}, {"type": "text", "text": "a cat?"}]
    row = {
        "prompt": [{"role": "user", "content": content}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}],
        "images": ["1.png"],
    }
    record = one("prompt_completion", row)
    assert record.turns[0].content.split() == ["Is", "image", "1", "a", "cat?"]
    assert names(record) == ["1.png"]


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        (
            "alpaca",
            alpaca(image="a.png", instruction="<image><image>?"),
            "has 2 times the marker <image>, the row 1 im",
        ),
        ("alpaca", alpaca(image="a.png", output="<image>"), "1 times the marker|an answer holds the marker"),
        ("alpaca", alpaca(image="a.png", images=["b.png"]), "'image' and 'images' both hold images"),
        ("alpaca", alpaca(image=7), "field 'image': the image is int"),
        ("alpaca", alpaca(image="http://x/y.png"), "nothing is downloaded"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text parts"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "only text parts and image parts",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": ["a.png", "b.png"]},
            "the row has 2 images, its messages 1 image parts",
        ),
    ],
)
def test_rows_that_do_not_fit(format: Any, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"data\.json, row 3: .*({said})"):
        one(format, row)


def test_a_marker_without_an_image_is_an_error_only_among_images() -> None:
    bare = alpaca(instruction="Explain <image> in HTML.")
    (record,) = to_records([(1, bare)], "alpaca", "data.json")
    assert record.turns[0].content == "Explain <image> in HTML."
    with pytest.raises(UserError, match="row 2: the text has 1 times the marker <image>, the row 0 images"):
        to_records([(1, alpaca(image="a.png")), (2, bare)], "alpaca", "data.json")


def test_images_left_out_leave_no_marker_behind() -> None:
    rows = [(1, alpaca(image="http://nowhere/a.png", instruction="<image>\nWhat?")), (2, alpaca())]
    records = to_records(rows, "alpaca", "data.json", use_images=False)
    assert [record.images for record in records] == [(), ()]
    assert records[0].turns[0].content == "What?"


def test_rows_that_share_a_file_share_a_source(folder: Path) -> None:
    rows = [(n, alpaca(image=name)) for n, name in enumerate(["1.png", str(folder / "1.png"), "2.png"], start=1)]
    first, second, third = to_records(rows, "alpaca", str(folder / "data.json"))
    assert first.images[0] is second.images[0] is not third.images[0]


def test_the_same_question_about_another_image_is_no_leak(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    section = {n: alpaca(image=name) for n, name in enumerate(["1.png", "2.png", "copy.png"], start=1)}
    one, two, copy = to_records(list(section.items()), "alpaca", str(folder / "data.json"))
    bare = to_records([(4, alpaca())], "alpaca", "data.json")[0]
    assert one.prompt_key == copy.prompt_key != two.prompt_key
    report = find_leaks([one], [two, copy, bare])
    assert (report.exact, report.normalised) == ((3,), ())
    loud = Record(5, (Turn("user", "WHAT is it"),), images=one.images)
    assert find_leaks([one], [loud]).normalised == (5,)
    assert find_leaks([two], [loud]).normalised == ()
    check = find_near_duplicates([one.prompt_key], [two.prompt_key, copy.prompt_key, bare.prompt_key])
    assert check.rows == {1}
    assert "(with an image) What is it?" in check.pairs()


def test_long_questions_are_near_duplicates_only_of_the_same_image(folder: Path) -> None:
    text = (
        "There are some crayons in the drawer of the kitchen. How many of the crayons that Mary took are green or red?"
    )
    first, second = (source_from(f"{n}.png", folder) for n in (1, 2))
    asked = Record(1, (Turn("user", text),), images=(first,)).prompt_key
    near = text.replace("Mary", "Tom")
    for images, found in (((first,), 1), ((second,), 0), ((), 0)):
        known = Record(1, (Turn("user", near),), images=images).prompt_key
        assert len(find_near_duplicates([known], [asked]).leaks) == found


def test_splits_never_part_what_shares_an_image(folder: Path) -> None:
    rows = [(n, alpaca(images=[f"{n // 3}.png"])) for n in range(30)]
    records = to_records(rows, "alpaca", str(folder / "data.json"))
    kept, held = split_held_out(records, 9, seed=1)
    assert len(held) == 9 and len(kept) == 21
    assert not {image.key for r in held for image in r.images} & {image.key for r in kept for image in r.images}
    assert split_held_out(records, 10, seed=1) == (kept, held)  # a tenth record has no image of its own
    assert split_held_out(records, 9, seed=2)[1] != held
    with pytest.raises(UserError, match="each image comes with 3 records or more"):
        split_held_out(records, 2, seed=1)


def test_groups_are_tied_through_a_third() -> None:
    def record(row: int, *images: str, group: str = "") -> Record:
        return Record(row, (), images=tuple(source_from(name, Path("/")) for name in images), group=group)

    records = [
        record(0, "a"),
        record(1),
        record(2, "b"),
        record(3, "a", "b"),
        record(4, group="g"),
        record(5, "c", group="g"),
    ]
    assert cluster(records) == [[0, 2, 3], [1], [4, 5]]


def test_from_file_to_encoded(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [alpaca(instruction=f"What is {n}?", images=[f"{n}.png"] * (n % 3 > 0)) for n in range(12)]
    path = write(folder / "data.jsonl", rows)
    data = load_data(DataSection(path=path, held_out=3), tokenizer)
    assert data.held_out is not None
    for part in (data.train, data.held_out):
        for row, images in zip(part.rows, part.images, strict=True):
            n = row - 1
            assert [image.name for image in images] == [f"{n}.png"] * (n % 3 > 0)
    lines = "\n".join(data.lines())
    shown = sum(bool(images) for images in data.train.images)
    assert f"{shown} images" in lines and "held out: " in lines
    blind = load_data(DataSection(path=path, use_images=False), tokenizer)
    assert blind.train.images == [()] * 12


def test_text_alone_shows_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    data = load_data(DataSection(path=write(tmp_path / "a.jsonl", [alpaca()] * 3)), tokenizer)
    assert data.train.images == [(), (), ()]
    assert not any("image" in line for line in data.lines())


def test_bad_images_stop_the_run_before_it_starts_or_are_left_out(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder / "3.png").write_bytes(b"GIF89a broken")
    rows = [alpaca(instruction=f"What is {n}?", image=f"{n}.png") for n in (0, 1, 2, 3, 99)]
    path = write(folder / "data.jsonl", rows)
    with pytest.raises(UserError, match=r"(?s)2 rows .*bad_images=drop.*row 4: 3\.png: .*row 5: 99\.png: no such file"):
        load_data(DataSection(path=path), tokenizer)
    data = load_data(DataSection(path=path, bad_images="drop"), tokenizer)
    assert data.train.rows == [1, 2, 3]
    assert "2 rows with images that cannot be used left out: row 4, 3.png" in "\n".join(data.lines())
    # The rows of another file have numbers of their own.
    other = write(folder / "other.jsonl", [alpaca(image=f"{n}.png") for n in (4, 5, 6, 7, 8)])
    both = load_data(DataSection(path=path, held_out=other, bad_images="drop"), tokenizer)
    assert both.held_out is not None and both.held_out.rows == [1, 2, 3, 4, 5]


def test_a_name_that_is_no_users_home_is_reported_with_its_row(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = write(folder / "data.jsonl", [alpaca(image="1.png"), alpaca(image="~nobody-of-that-name/x.png")])
    with pytest.raises(UserError, match=r"(?s)1 rows .*row 2: ~nobody-of-that-name/x\.png: no such file"):
        load_data(DataSection(path=path), tokenizer)


def test_what_is_said_of_images_depends_on_the_adapter(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = write(folder / "data.jsonl", [alpaca(image="1.png"), alpaca(image="2.png")])
    seen, unseen = (load_data(DataSection(path=path), tokenizer, looked_at).lines() for looked_at in (True, False))
    assert not any("nobody looks" in line for line in seen) and any("nobody looks" in line for line in unseen)
    (folder / "2.png").unlink()
    with pytest.raises(UserError, match=r"takes no images: data\.use_images=false") as caught:
        load_data(DataSection(path=path), tokenizer, looked_at=False)
    assert "bad_images" not in str(caught.value)


def test_what_a_run_on_images_recorded(folder: Path) -> None:
    path = write(folder / "data.jsonl", [alpaca(image=f"{n}.png") for n in (1, 2)])
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"data: {{path: {path}}}\n")
    recorded = recorded_training(run)
    assert recorded is not None and recorded[1] is not None
    first, second = recorded[1]
    assert first != second and first.endswith("\nWhat is it?")
    (folder / "1.png").unlink()
    assert recorded_training(run) == (path, [second])
    (folder / "2.png").unlink()
    assert recorded_training(run) == (path, None)


def test_images_in_another_folder_or_in_an_archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import tarfile

    home = tmp_path_factory.mktemp("data")
    path = write(home / "data.jsonl", [alpaca(image="1.png")])
    (record,), _, _ = load_records(DataSection(path=path, images=str(folder)))
    with tarfile.open(home / "images.tar.gz", "w:gz") as archive:
        archive.add(folder / "1.png", "1.png")
    (packed,), _, _ = load_records(DataSection(path=path, images=str(home / "images.tar.gz")))
    assert packed.images[0].path != record.images[0].path
    assert packed.images[0].digest == record.images[0].digest
    with pytest.raises(UserError, match=r"data\.images=nowhere not found"):
        load_records(DataSection(path=path, images="nowhere"))


def test_parquet_as_hugging_face_writes_it(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    import datasets

    rows = {
        "instruction": ["What?", "Which?"],
        "output": ["One.", "Two."],
        "image": [str(folder / f"{n}.png") for n in (1, 2)],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    embedded = data.map(lambda row: row)  # reading and writing again puts the bytes into the rows
    for number, made in enumerate((data, embedded)):
        made.to_parquet(str(folder / f"{number}.parquet"))
        loaded = load_data(DataSection(path=str(folder / f"{number}.parquet")), tokenizer)
        assert [len(images) for images in loaded.train.images] == [1, 1]
