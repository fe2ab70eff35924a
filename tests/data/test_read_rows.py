"""Reading rows: every container, and every way a file can be broken."""

import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from zerogate.data.read import read_rows
from zerogate.errors import UserError

ROWS = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "ü"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_containers_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "lines.json").write_text(LINES)
    (tmp_path / "a.json.xz").write_bytes(lzma.compress(json.dumps(ROWS).encode()))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.json", "a.jsonl", "lines.json", "a.json.xz", "a.jsonl.gz", "a.parquet"):
        assert read_rows(str(tmp_path / name)) == [(1, ROWS[0]), (2, ROWS[1])], name


def test_a_folder_is_read_as_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / "test.jsonl").write_text(LINES.splitlines()[0] + "\n")
    assert len(read_rows(str(tmp_path))) == 2
    assert len(read_rows(str(tmp_path), split="test")) == 1
    with pytest.raises(UserError, match="split 'nope'"):
        read_rows(str(tmp_path), split="nope")


def test_jsonl_rows_are_numbered_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [number for number, _ in read_rows(str(tmp_path / "a.jsonl"))] == [1, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 1,}\n', "line 2.*malformed JSON"),
        ("a.json", '[{"a": 1},\n {"a": }]', "line 2, column 8: malformed JSON"),
        ("a.json", '{"a": 1}', "expected a list of records"),
        ("a.json", "[]", "holds no records"),
        ("a.json", "[1, 2]", "row 1: expected an object"),
        ("a.json", "  \n", "is empty"),
        ("a.json.xz", "not xz", "cannot read"),
        ("a.parquet", "not parquet", "as Parquet"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(str(tmp_path / name))
    assert name in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data file not found"):
        read_rows(str(tmp_path / "no.json"))
    with pytest.raises(UserError, match="neither a file"):
        read_rows(str(tmp_path / "no" / "folder"))


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(UserError, match="UTF-8"):
        read_rows(str(tmp_path / "a.json"))
