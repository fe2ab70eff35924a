"""Replies that are kept: those of a run in its file, those of all runs in the cache. What is kept is not asked again.

A run's file is JSON lines, each on the disk before the reply counts as there; a torn last line is cut off. The cache
has one small file for each reply, under the request's key, and holds no question and no answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zerogate.cache import cache_folder
from zerogate.data.jsonl import append_lines, cut_torn_line, whole_lines
from zerogate.errors import UserError
from zerogate.judging.endpoint import Reply
from zerogate.judging.items import Item

_REPLY = TypeAdapter(Reply)


class RunFile:
    """The replies of one run, on the disk."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left.

        Raises:
            UserError: the file is none of ours, or its folder cannot be made.
        """
        self.path = path
        self.replies: dict[str, Reply] = {}
        if not path.exists():
            return
        for number, line in enumerate(whole_lines(path), start=1):
            key, reply = line.get("key"), _reply(line)
            if not isinstance(key, str) or reply is None:
                raise UserError(f"{path}, line {number} is no judgement, so this is not an output to go on with")
            self.replies[key] = reply

    def begin(self) -> None:
        """Make the file ready to be written to.

        Raises:
            UserError: its folder cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.path.parent}: {error.strerror}") from error
        if self.path.exists():
            cut_torn_line(self.path)

    def add(self, items: Iterable[Item], reply: Reply, said: Mapping[str, Any]) -> None:
        """Write a reply, a line for each item that it is for; `said` is what was read out of it."""
        with self.path.open("ab") as opened:
            append_lines(opened, [{"key": item.key} | item.label | dict(said) | asdict(reply) for item in items])
        self.replies |= {item.key: reply for item in items}


class Cache:
    """The replies of all runs."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use a folder; by default the one of `zerogate.cache`."""
        self.folder = folder or cache_folder() / "judge"

    def find(self, key: str) -> Reply | None:
        """A kept reply, or None."""
        try:
            found = json.loads(self._file(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # what cannot be read can be asked again
            return None
        return _reply(found) if isinstance(found, dict) else None

    def keep(self, key: str, reply: Reply) -> None:
        """Keep a reply.

        Raises:
            UserError: the cache's folder cannot be written.
        """
        file = self._file(key)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(reply), ensure_ascii=False), encoding="utf-8")
            os.replace(partial, file)
        except OSError as error:
            raise UserError(
                f"cannot write {file.parent}: {error.strerror}; name another place with ZEROGATE_CACHE, or do without: "
                "--no-cache"
            ) from error

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _reply(found: Mapping[str, Any]) -> Reply | None:
    try:
        return _REPLY.validate_python(dict(found))
    except ValidationError:
        return None
