"""Read rows from a JSON, JSONL or Parquet file, a folder, or a data set on the Hub. Rows keep their number for errors.

`.xz`, `.gz` and `.bz2` are opened as they are. A broken file is a `UserError` that names the file and the line.
"""

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from zerogate.errors import UserError

Row = tuple[int, dict[str, Any]]

_OPENERS: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_FILE_SUFFIXES = {".json", ".jsonl", ".ndjson", ".parquet", *_OPENERS}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def read_rows(path: str, split: str = "train") -> list[Row]:
    """Read every row of a data set.

    Args:
        path: a file, a folder of files, or a data set id on the Hub.
        split: which split to take, for folders and the Hub.

    Returns:
        Pairs of row number (the line of a JSONL file, else the position; from 1) and the row's fields.

    Raises:
        UserError: no such file or data set, broken JSON (with its line), no rows, or rows that are not objects.
    """
    file = Path(path).expanduser()
    if file.is_file():
        rows = _read_file(file)
    elif file.suffix.lower() in _FILE_SUFFIXES:
        raise UserError(f"data file not found: {path} (looked in {Path.cwd()})")
    elif file.is_dir() or _HUB_ID.fullmatch(path):
        rows = _read_with_datasets(path, split)
    else:
        raise UserError(f"data not found: {path} is neither a file, a folder, nor a data set id such as owner/name")
    if not rows:
        raise UserError(f"{path} holds no records")
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: expected an object with named fields, found {type(row).__name__}")
    return rows


def read_text(file: Path) -> str:
    """The text of a file, unpacked where its name ends on `.xz`, `.gz` or `.bz2`.

    Raises:
        UserError: it cannot be read, is not UTF-8, or is empty.
    """
    kinds = [suffix.lower() for suffix in file.suffixes]
    opener = _OPENERS.get(kinds[-1] if kinds else "", open)
    try:
        with opener(file, "rt", encoding="utf-8-sig") as stream:
            text: str = stream.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text: {error}") from error
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not text.strip():
        raise UserError(f"{file} is empty")
    return text


def _read_file(file: Path) -> list[Row]:
    kinds = [suffix.lower() for suffix in file.suffixes]
    if kinds[-1:] == [".parquet"]:
        return _read_parquet(file)
    text = read_text(file)
    if ".jsonl" in kinds or ".ndjson" in kinds:
        return list(_json_lines(file, text))
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return list(_json_lines(file, text))  # JSON lines under a .json name
        raise UserError(f"{file}, line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}") from error
    if not isinstance(data, list):
        raise UserError(f"{file}: expected a list of records, found one {type(data).__name__}")
    return list(enumerate(data, start=1))


def _json_lines(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}, column {error.colno}: malformed JSON: {error.msg}") from error


def _read_parquet(file: Path) -> list[Row]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise UserError(f"cannot read {file} as Parquet: {error}") from error
    return list(enumerate(table.to_pylist(), start=1))


def _read_with_datasets(path: str, split: str) -> list[Row]:
    import datasets
    import datasets.exceptions

    try:
        data = datasets.load_dataset(path, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        first_line = str(error).split("\n")[0]
        raise UserError(f"cannot load data set {path!r} (split {split!r}): {first_line}") from error
    return list(enumerate(data.to_list(), start=1))
