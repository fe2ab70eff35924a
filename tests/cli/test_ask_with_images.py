"""Asking with images on the command line, as users meet it: generate, chat, eval and inspect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from test_command_line import refused, zerogate
from tiny_base import make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.inference import Engine, Sampling
from zerogate.vision import source_from

GREEDY = ("--greedy", "--max-new-tokens", "8")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ask")
    base, eye = make_base(root / "base", context=512), make_eye(root / "eye")
    for colour in COLOURS:
        make_picture(root / f"{colour}.png", colour)
    (root / "bad.png").write_bytes(b"<html>")
    pictures = root / "easy" / "test" / "images"
    pictures.mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        make_picture(pictures / f"{number}.png", colour)
    asked = [["what color is the shape?", colour, number] for number, colour in enumerate(COLOURS)]
    asked += [["is there a red shape?", "yes" if colour == "red" else "no", n] for n, colour in enumerate(COLOURS)]
    (root / "easy" / "test" / "questions.json").write_text(json.dumps(asked))
    return {
        "root": root,
        "base": base,
        "eye": make_seeing_adapter(root / "seeing", base, eye),
        "text": make_adapter(root / "text", base, 3),
        "easy": root / "easy",
    }


def test_generate_one_prompt(folders: dict[str, Path]) -> None:
    words = ("generate", "What colour is it?", "--adapter", folders["eye"], *GREEDY)
    engine = Engine.load(str(folders["base"]), {"eye": folders["eye"]})
    red = source_from("red.png", folders["root"])
    wanted = engine.ask("What colour is it?", sampling=Sampling(temperature=0, max_new_tokens=8), images=[red])
    seen = zerogate(*words, "--image", "red.png", cwd=folders["root"])
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout == wanted.text + "\n"
    assert zerogate(*words).stdout != seen.stdout
    marked = ("generate", "<image>\nWhat colour is it?", *words[2:])
    assert zerogate(*marked, "--image", folders["root"] / "red.png").stdout == seen.stdout
    assert zerogate(*words, "--image", f"file://{folders['root']}/red.png").stdout == seen.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hi", "--adapter", "{eye}", "--image", "{root}/none.png"], "none.png: no such file"),
        (["hi", "--adapter", "{eye}", "--image", "data:image/png;base64,xx"], "is a data: URL whose base64 is broken"),
        (["hi", "--adapter", "{eye}", "--image", "file://red.png"], "a file on the machine 'red.png'"),
        (["hi", "--adapter", "{eye}", "--image", "a\0b"], "is a path with a null character"),
        (["hi", "--adapter", "{eye}", "--image", "~nobody-of-that-name/x.png"], "x.png: no such file"),
        (["hi", "--adapter", "~nobody-of-that-name/x"], "there is no such user's folder"),
        (["hi", "--adapter", "{eye}", "--image", "{root}/bad.png"], "bad.png: not an image (it is a web page"),
        (["hi", "--adapter", "{text}", "--image", "{root}/red.png"], "the adapter 'text' takes no images, and there"),
        (["hi", "--base", "{base}", "--image", "{root}/red.png"], "the base without an adapter takes no images"),
        (["hi <image><image>", "-a", "{eye}", "--image", "{root}/red.png"], "2 times the marker <image>, there are 1"),
        (["--in", "a.json", "--out", "b", "--image", "{root}/red.png"], "name theirs in a column `image`"),
    ],
)
def test_generate_with_what_cannot_be_shown(
    words: list[str], says: str, folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert says in refused(capsys, monkeypatch, "generate", *[word.format(**folders) for word in words])


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def test_generate_a_file_of_rows_with_images(folders: dict[str, Path], tmp_path: Path) -> None:
    for colour in COLOURS:
        make_picture(tmp_path / f"{colour}.png", colour)
    rows: list[dict[str, Any]] = [
        {"instruction": "<image>\nWhat is it?", "image": "red.png"},
        {"prompt": "What is it?", "images": ["red.png", "blue.png"]},
        {"instruction": "What is it?", "adapter": "text"},
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "green.png"},
                                                   {"type": "text", "text": "What is it?"}]}]},
        {"instruction": "What is it?", "adapter": "__base__"},
    ]  # fmt: skip
    rows_file(tmp_path, rows)
    adapters = ("--adapter", f"eye={folders['eye']}", "--adapter", f"text={folders['text']}")
    words = ("generate", "--in", tmp_path / "in.jsonl", *adapters, *GREEDY, "--batch-size", "2")
    done = zerogate(*words, "--out", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "out.jsonl").read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["record"] for line in lines] == rows
    assert [line.get("images") for line in lines] == [["red.png"], ["red.png", "blue.png"], None, ["green.png"], None]

    engine = Engine.load(str(folders["base"]), {"eye": folders["eye"], "text": folders["text"]})
    sampling = Sampling(temperature=0, max_new_tokens=8)
    for line, row in zip(lines, rows, strict=True):
        shown = [source_from(name, tmp_path) for name in line.get("images", ())]
        alone = engine.ask("What is it?", sampling=sampling, adapter=row.get("adapter"), images=shown)
        assert line["response"] == alone.text
    (tmp_path / "torn.jsonl").write_bytes(content[: len(content) // 2])
    (tmp_path / "red.png").unlink()  # of rows that are answered nothing is looked at again
    again = zerogate(*words, "--out", "torn.jsonl", cwd=tmp_path)
    assert again.returncode == 0 and "by an earlier run" in again.stderr, again.stderr
    assert (tmp_path / "torn.jsonl").read_bytes() == content


def test_rows_that_cannot_be_shown_are_named_before_the_start(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_picture(tmp_path / "red.png", "red")
    (tmp_path / "bad.png").write_bytes(b"<html>")
    out = tmp_path / "out.jsonl"

    def said(rows: list[dict[str, Any]], adapter: str = "eye") -> str:
        words = ("generate", "--in", rows_file(tmp_path, rows), "--out", out, "--adapter", folders[adapter], *GREEDY)
        message = refused(capsys, monkeypatch, *words)
        assert not out.exists()
        return message

    good = {"instruction": "What?", "image": "red.png"}
    message = said([good, {"instruction": "What?", "image": "bad.png"}, {"prompt": "What?", "image": "none.png"}])
    assert "in.jsonl: 2 rows have images that cannot be used:" in message
    assert "row 2: bad.png: not an image" in message and "row 3: none.png: no such file" in message
    assert "in.jsonl, row 1: the adapter 'text' takes no images, and there is red.png" in said([good], "text")
    assert "row 2: the text has 1 times the marker <image>" in said([good, {"instruction": "<image> What?"}])
    assert "in.jsonl, row 1: " in said([{"instruction": "What?", "image": {"name": "red.png"}}])


def test_parquet_rows_with_encoded_images(folders: dict[str, Path], tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    encoded = [
        {"bytes": (folders["root"] / f"{colour}.png").read_bytes(), "path": f"{colour}.png"} for colour in COLOURS
    ]
    parquet.write_table(
        pyarrow.table({"instruction": ["What colour is it?"] * 3, "image": encoded}), tmp_path / "in.parquet"
    )
    words = ("generate", "--in", "in.parquet", "--out", "out.jsonl", "-a", folders["eye"], *GREEDY)
    done = zerogate(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "out.jsonl").read_text()
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["images"] for line in lines] == [["red.png"], ["green.png"], ["blue.png"]]
    assert lines[0]["record"]["image"]["bytes"].startswith("sha256:")
    engine, sampling = (
        Engine.load(str(folders["base"]), {"eye": folders["eye"]}),
        Sampling(temperature=0, max_new_tokens=8),
    )
    shown = [[source_from(f"{colour}.png", folders["root"])] for colour in COLOURS]
    alone = [engine.ask("What colour is it?", sampling=sampling, images=images).text for images in shown]
    assert [line["response"] for line in lines] == alone and len(set(alone)) > 1
    again = zerogate(*words, cwd=tmp_path)
    assert again.returncode == 0 and (tmp_path / "out.jsonl").read_text() == content


def talk(folders: dict[str, Path], cwd: Path, *lines: str, adapters: tuple[str, ...] = ("eye",)) -> str:
    """What a conversation from a pipe prints; it must end well."""
    words = [word for name in adapters for word in ("--adapter", f"{name}={folders[name]}")]
    said = "".join(f"{line}\n" for line in ("/params max_new_tokens=8 temperature=0", *lines))
    done = run_command("chat", *words, stdin=said, cwd=cwd, env={"XDG_STATE_HOME": str(cwd), "COLUMNS": "200"})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_chat_shows_a_picture_with_the_next_message(folders: dict[str, Path], tmp_path: Path) -> None:
    make_picture(tmp_path / "my red.png", "red")
    (tmp_path / "bad.png").write_bytes(b"<html>")
    said = talk(
        folders, tmp_path,
        "/image", "/image none.png", "/image bad.png", f"/image file://{tmp_path}/my%20red.png", "/image drop",
        "/image 'my red.png'", "/image", "/image drop", "/image drop",
        "/image my red.png", "What colour is it?", "/image", "/regen", "/save talk.json", "/undo", "/undo",
        "/load talk.json", "/help", "/adapter base", "/regen",
    )  # fmt: skip
    parts = [
        "with your next message: none; /image FILE shows one",
        "none.png: no such file", "bad.png: not an image (it is a web page",
        f"{tmp_path}/my red.png (40 x 30) goes with your next message", "dropped: ",
        "my red.png (40 x 30) goes with your next message", "with your next message: my red.png", "dropped: my red.png",
        "dropped: there was none", "goes with your next message", "(shown: my red.png)", "shown before: my red.png",
        "saved in talk.json", "taken back: [my red.png] What colour is it?", "nothing was said yet",
        "What colour is it?", "/image [FILE | drop]", "[base]", "the base without an adapter takes no images",
    ]  # fmt: skip
    place = 0
    for part in parts:
        assert part in said[place:], f"{part!r} is not where it should be in {said}"
        place += said[place:].index(part) + len(part)
    engine = Engine.load(str(folders["base"]), {"eye": folders["eye"]})
    red = source_from("my red.png", tmp_path)
    wanted = engine.ask("What colour is it?", sampling=Sampling(temperature=0, max_new_tokens=8), images=[red])
    saved = json.loads((tmp_path / "talk.json").read_text())["exchanges"]
    assert saved[0]["assistant"] == wanted.text and saved[0]["images"] == [str(tmp_path / "my red.png")]


def test_chat_and_an_adapter_that_takes_none(folders: dict[str, Path], tmp_path: Path) -> None:
    make_picture(tmp_path / "red.png", "red")
    lines = ["/image red.png", "/adapter text", "What is it?", "/image red.png", "/adapter eye", "What is it?",
             "/adapter text", "And now?"]  # fmt: skip
    said = talk(folders, tmp_path, *lines, adapters=("eye", "text"))
    assert "the adapter 'text' takes no images, and red.png waits to be shown: /image drop takes it back" in said
    assert "the adapter 'text' takes no images, and there is red.png: ask without it, or choose" in said
    assert said.count("(shown: red.png)") == 1
    assert "(answered without a look at red.png: this adapter takes no images)" in said


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_eval_shows_the_images_none_or_others(folders: dict[str, Path], tmp_path: Path) -> None:
    words = ("eval", "-t", "easy-vqa", "-d", folders["easy"], "-a", folders["eye"], "--max-new-tokens", "6")
    found = {}
    for name, options in {"own": [], "none": ["--blind"], "other": ["--shuffle-images"]}.items():
        done = zerogate(*words, *options, "--num-beams", "2", "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "takes no images" not in done.stderr
        found[name] = lines_of(tmp_path / name / "easy-VQA.jsonl")
        assert {row["decoding"]["images"] for row in found[name]} == {name}
        report = json.loads((tmp_path / name / "results.json").read_text())
        assert report["tasks"]["easy-VQA"]["decoding"]["images"] == name
    own, none, other = ([row["response"] for row in rows] for rows in found.values())
    assert len(set(own[:3])) == 3 and len(set(none[:3])) == 1, "only who sees tells the same question's images apart"
    shown = {tuple(row["images"]): row["response"] for row in found["own"][:3]}
    assert [row["images"] for row in found["other"]] != [row["images"] for row in found["own"]]
    assert other[:3] == [shown[tuple(row["images"])] for row in found["other"][:3]]

    again = zerogate(*words, "--num-beams", "2", "--blind", "--out", tmp_path / "own")
    assert again.returncode == 2 and "images: own -> none" in again.stderr


def test_eval_without_eyes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("eval", "-t", "easy-vqa", "-d", folders["easy"], "-a", folders["text"], "--max-new-tokens", "4")
    done = zerogate(*words, "--out", tmp_path / "text")
    assert done.returncode == 0, done.stderr
    assert "easy-VQA: this model takes no images: its questions are asked without them." in done.stderr
    assert "images" not in lines_of(tmp_path / "text" / "easy-VQA.jsonl")[0]["decoding"]
    said = refused(capsys, monkeypatch, *words, "--shuffle-images", "--out", tmp_path / "other")
    assert "easy-VQA: there is nothing to shuffle: the model takes no images" in said
    assert "choose one" in refused(capsys, monkeypatch, *words, "--shuffle-images", "--blind")


def test_inspect_says_how_an_adapter_looks(folders: dict[str, Path]) -> None:
    done = zerogate("inspect", folders["eye"])
    assert done.returncode == 0, done.stderr
    assert f"by {folders['root'] / 'eye'}, M=2 layers (2, 4) of 16 channels" in done.stdout
    assert "32 to 5 to C=32: 357 parameters" in done.stdout  # 32 * 5 + 5, 5 * 32 + 32
    settings = re.search(r"settings.*", done.stdout)
    assert settings is not None and "image" not in settings[0]
    assert "images" not in zerogate("inspect", folders["text"]).stdout
