"""Files of prompts: every row answered, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_base import make_adapter, make_base

from zerogate.data import jsonl
from zerogate.errors import UserError
from zerogate.inference import BASE, Engine, Sampling
from zerogate.inference.batch import answer_file

ROWS: list[dict[str, Any]] = [
    {"instruction": "Where does the fox live?", "adapter": "one"},
    {"instruction": "Name it.", "input": "red \u00e9", "output": "known", "adapter": "two"},
    {"prompt": "Hi.", "adapter": BASE},
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "gone"}]},
    {"prompt": "Again."},
]
SAMPLING = Sampling(temperature=1.0, max_new_tokens=6, seed=11)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("file")
    base = make_base(root / "base")
    return Engine.load(
        str(base), {name: make_adapter(root / name, base, seed) for seed, name in enumerate(("one", "two"))}
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def run(engine: Engine, source: Path, name: str = "out.jsonl", **options: Any) -> list[dict[str, Any]]:
    target = source.parent / name
    options = {"template": None, "models": {"base": "tiny"}, "batch_size": 2} | options
    answer_file(engine, source, target, options.pop("sampling", SAMPLING), **options)
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_rows_with_their_adapters_and_settings(engine: Engine, source: Path) -> None:
    lines = run(engine, source)
    assert [line["record"] for line in lines] == ROWS
    assert [line["row"] for line in lines] == [1, 2, 3, 4, 5]
    prompts = [engine.prompt("Where does the fox live?"), engine.prompt("Name it.", "red \u00e9"), engine.prompt("Hi."),
               engine.prompt("Who?"), engine.prompt("Again.")]  # fmt: skip
    names = ["one", "two", BASE, None, None]
    alone = [
        engine.answer([p], SAMPLING, [a], [11 + n])[0] for n, (p, a) in enumerate(zip(prompts, names, strict=True))
    ]
    assert [line["response"] for line in lines] == [answer.text for answer in alone]
    assert [line["tokens"] for line in lines] == [len(answer.ids) for answer in alone]
    assert lines[0]["decoding"] == SAMPLING.as_dict() | {"template": "auto", "base": "tiny"}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("cut", [1, 40, 200, 1100])
def test_a_torn_file_is_gone_on_with(engine: Engine, source: Path, batch_size: int, cut: int) -> None:
    whole = run(engine, source)
    content = (source.parent / "out.jsonl").read_bytes()
    assert cut < len(content)
    (source.parent / "torn.jsonl").write_bytes(content[:-cut])
    assert run(engine, source, "torn.jsonl", batch_size=batch_size) == whole
    assert (source.parent / "torn.jsonl").read_bytes() == content


def test_stopped_between_batches(engine: Engine, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(engine, source)

    def stop_after(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(engine, source, "stopped.jsonl", progress=stop_after)
    assert len((source.parent / "stopped.jsonl").read_text().splitlines()) == 2
    asked: list[int] = []
    answer = Engine.answer
    monkeypatch.setattr(
        Engine, "answer", lambda self, prompts, *rest: asked.append(len(prompts)) or answer(self, prompts, *rest)
    )
    assert run(engine, source, "stopped.jsonl") == whole
    assert sum(asked) == 3  # the first two were not answered again


def test_a_full_disk_leaves_whole_lines_or_a_torn_last_one(
    engine: Engine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(engine, source)
    calls = iter([None, OSError(28, "No space left on device")])

    def full(descriptor: int) -> None:
        error = next(calls)
        if error is not None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(jsonl.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            run(engine, source, "full.jsonl")
    assert run(engine, source, "full.jsonl") == whole


def test_other_settings_or_input_are_refused(engine: Engine, source: Path) -> None:
    whole = run(engine, source)
    with pytest.raises(UserError, match=r"temperature: 1\.0 -> 0\.5"):
        run(engine, source, sampling=Sampling(temperature=0.5, max_new_tokens=6, seed=11))
    with pytest.raises(UserError, match="base: tiny -> other"):
        run(engine, source, models={"base": "other"})
    assert run(engine, source, sampling=Sampling(temperature=0, max_new_tokens=2), overwrite=True) != whole
    (source.parent / "out.jsonl").write_text("not JSON\n")
    with pytest.raises(UserError, match="line 1 is not valid JSON"):
        run(engine, source)
    run(engine, source, overwrite=True)
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS[1:]))
    with pytest.raises(UserError, match="5 rows, the input only 4"):
        run(engine, source)
    source.write_text("".join(json.dumps(row) + "\n" for row in reversed(ROWS)))
    with pytest.raises(UserError, match="another row"):
        run(engine, source)


def test_rows_without_room(engine: Engine, source: Path) -> None:
    rows = [{"prompt": "short"}, {"prompt": "long " * 200}, {"prompt": "short again"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"1 of 3 prompts.*row 2.*--skip-long"):
        run(engine, source)
    assert not (source.parent / "out.jsonl").exists()
    lines = run(engine, source, skip_long=True)
    assert "no room" in lines[1]["error"] and lines[1]["response"] is None
    assert lines[0]["response"] and lines[2]["response"]
    assert run(engine, source, skip_long=True) == lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2"),
        ('{"question": "a"}\n', "question"),
        ('{"prompt": 3}\n{"instruction": ["a"]}\n', "row 2"),
        ('{"prompt": "a", "adapter": "three"}\n', "row 1.*three"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "row 1.*no question"),
    ],
)
def test_bad_input(engine: Engine, source: Path, text: str, says: str) -> None:
    source.write_text(text)
    with pytest.raises(UserError, match=says):
        run(engine, source)
    assert not (source.parent / "out.jsonl").exists()


def test_half_characters_are_written_as_question_marks(engine: Engine, source: Path) -> None:
    """JSON can spell a lone surrogate; what was answered before it is not lost, and a second run goes on after it."""
    rows = [
        {"prompt": "Hi."},
        {"prompt": "Who \ud83d?", "note \udc00": ["\ud83d", {"a": 1}]},
        {"prompt": "\ud83e\udd8a"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = run(engine, source, batch_size=1)
    assert lines[1]["record"] == {"prompt": "Who ??", "note ?": ["?", {"a": 1}]}
    assert lines[2]["record"] == {"prompt": "\N{FOX FACE}"}
    content = (source.parent / "out.jsonl").read_bytes()
    (source.parent / "out.jsonl").write_bytes(content[: content.rindex(b'{"row"')])
    assert run(engine, source) == lines
    file = source.parent / "any.jsonl"
    with file.open("wb") as opened:
        jsonl.append_lines(opened, [{"a": "\ud83d"}, {"a": "b"}])
    assert jsonl.whole_lines(file) == [{"a": "?"}, {"a": "b"}]


def test_the_questions_are_not_written_over(engine: Engine, source: Path) -> None:
    before = source.read_bytes()
    for name in ("in.jsonl", "../" + source.parent.name + "/in.jsonl"):
        with pytest.raises(UserError, match="choose another --out"):
            run(engine, source, name, overwrite=True)
    assert source.read_bytes() == before


def test_no_such_folder(engine: Engine, source: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run(engine, source, "not/there.jsonl")
