"""All images of a data set are looked at before anything starts; bad rows are listed with what is wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from zerogate.errors import UserError
from zerogate.vision import check_images, source_from


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "blue.jpg")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:-30])
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def test_good_images_are_counted_once(folder: Path) -> None:
    rows = [(row, [source_from(name, folder)]) for row in range(1, 5) for name in ("red.png", "blue.jpg", "moving.gif")]
    report = check_images([*rows, (9, [])])
    assert (report.images, report.several_frames, report.bad) == (3, 1, {})
    assert report.lines() == [
        "3 images",
        "1 images are animated or have several pages: the first frame is used",
    ]
    report.refuse("data.json")


def test_bad_rows_are_all_listed(folder: Path) -> None:
    names = {1: ["red.png"], 2: ["red.png", "cut.png"], 5: ["text.png"], 7: ["no.png"], 8: ["cut.png"]}
    report = check_images([(row, [source_from(name, folder) for name in listed]) for row, listed in names.items()])
    assert sorted(report.bad) == [2, 5, 7, 8]
    with pytest.raises(UserError) as refused:
        report.refuse("data.json", " (drop them)")
    lines = str(refused.value).splitlines()
    assert lines[0] == "data.json: 4 rows have images that cannot be used (drop them):"
    assert lines[1].startswith("  row 2: cut.png: broken or truncated")
    assert lines[2].startswith("  row 5: text.png: not an image")
    assert lines[3].startswith("  row 7: no.png: no such file")
    assert "4 rows with images that cannot be used left out: row 2, cut.png" in report.lines()[1]
    with pytest.raises(UserError, match="and 3 more"):
        report.refuse("data.json", most=1)


def test_no_images_no_words() -> None:
    report = check_images([(1, ()), (2, ())])
    assert report.lines() == []
    report.refuse("data.json")


def test_the_digest_is_the_content_and_known_after_the_check(folder: Path) -> None:
    source = source_from("red.png", folder)
    check_images([(1, [source])])
    content = (folder / "red.png").read_bytes()
    (folder / "red.png").unlink()
    assert source.digest == hashlib.sha256(content).hexdigest()


def test_many_images_show_progress_only_to_people(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(600):
        Image.new("RGB", (2, 2), (number % 256, number // 256, 0)).save(folder / f"{number}.png")
    report = check_images([(number, [source_from(f"{number}.png", folder)]) for number in range(600)])
    assert report.images == 600 and not report.bad
    assert capfd.readouterr().out == ""
