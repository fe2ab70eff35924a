"""Tools by the words of a command line: `calculator`, `calendar`, `search=notes/`, `bm25=notes/`, `facts=known.json`,
`mymodule:my_tool`, `mcp=http://localhost:8000/mcp`."""

from __future__ import annotations

import atexit
import difflib
import importlib.util
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from zerogate.cache import cache_folder
from zerogate.errors import UserError
from zerogate.tools.answers import Read, facts, reader
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar
from zerogate.tools.registry import Toolbox
from zerogate.tools.search.engine import open_engine, search
from zerogate.tools.tool import Tool
from zerogate.tools.translation import marian, translation

_PLAIN = ("calculator", "calendar")
_WITH_FILE: dict[str, Callable[[str], Tool]] = {
    "search": lambda path: search(open_engine("fts5", path, cache_folder() / "search")),
    "bm25": lambda path: search(open_engine("bm25", path, cache_folder() / "search"), "Search2"),
    "facts": lambda path: facts(_table(path)),
    "translate": lambda model: translation(marian(model)),
}


def named_tools(
    words: Iterable[str], today: Callable[[], date] = date.today, reader_of: Callable[[str], Read] | None = None
) -> Toolbox:
    """The tools that some words name; commas part them too.

    Args:
        words: as in the list above.
        today: the calendar's clock.
        reader_of: makes the reader of `qa=DOCUMENTS@MODEL` by the model's name; `zerogate.inference.reading` has one
            that also knows runs of `zerogate train`.

    Raises:
        UserError: no such tool, a file that is missing or is none, or two of one name.
    """
    tools = Toolbox()
    for word in (part.strip() for given in words for part in given.split(",")):
        if word:
            for tool in _tools(word, today, reader_of):
                tools.add(tool)
    if not tools:
        raise UserError(f"name a tool: {', '.join(known_words())}")
    return tools


def known_words() -> list[str]:
    """How tools can be named."""
    return [*_PLAIN, *(f"{name}=FILE" for name in _WITH_FILE), "qa=DOCUMENTS@MODEL", "mcp=URL", "MODULE:TOOL"]


def _tools(word: str, today: Callable[[], date], reader_of: Callable[[str], Read] | None) -> list[Tool]:
    name, given, rest = word.partition("=")
    if name == "qa":
        return [_reader(*_two(rest, "qa=DOCUMENTS@MODEL"), reader_of)]
    return _remote(rest) if name == "mcp" and given else [_tool(word, today)]


def _remote(server: str) -> list[Tool]:
    """The tools of an MCP server, by its address or its command; connected as long as this process lives."""
    if importlib.util.find_spec("mcp") is None:
        raise UserError("mcp= needs the MCP SDK: pip install 'zerogate[tools]'")
    from zerogate.tools.mcp_client import remote_tools

    try:
        address = server if server.startswith(("http://", "https://")) else shlex.split(server)
    except ValueError as error:
        raise UserError(f"mcp={server}: the command cannot be read: {error}") from error
    logging.getLogger("mcp").addHandler(logging.NullHandler())  # a server's stray lines are not shown as tracebacks
    connection = ExitStack()
    found = connection.enter_context(remote_tools(address))
    atexit.register(connection.close)
    return found


def _tool(word: str, today: Callable[[], date]) -> Tool:
    name, given, path = word.partition("=")
    if name in _WITH_FILE and given:
        return _WITH_FILE[name](path)
    if word in _PLAIN:
        return calculator() if word == "calculator" else calendar(today)
    if name in _WITH_FILE:
        raise UserError(f"the tool {name} needs a file: {name}=FILE")
    if ":" in word:
        return _own(*word.split(":", 1))
    near = difflib.get_close_matches(name, [*_PLAIN, *_WITH_FILE], n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    raise UserError(f"unknown tool {word!r}{hint} tools are named {', '.join(known_words())}")


def _two(words: str, how: str) -> tuple[str, str]:
    first, at, second = words.rpartition("@")
    if not at or not first or not second:
        raise UserError(f"{words!r}: expected {how}")
    return first, second


def _reader(documents: str, model: str, reader_of: Callable[[str], Read] | None) -> Tool:
    if reader_of is None:
        from zerogate.tools import reading

        reader_of = reading.reader_of
    return reader(open_engine("fts5", documents, cache_folder() / "search"), reader_of(model))


def _own(module: str, name: str) -> Tool:
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UserError(f"{module}:{name} names no tool: expected MODULE:TOOL, such as mytools:weather")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -m` has it; a console script has its own folder there instead
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the tool {module}:{name} cannot be imported: {error}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(found, Tool):
        raise UserError(
            f"{module}:{name} is a {type(found).__name__}, not a tool: put @zerogate.tools.functions.tool on it"
        )
    return found


def _table(path: str) -> dict[str, str]:
    try:
        table = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"facts={path}: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(answer, str) for answer in table.values()):
        raise UserError(f"facts={path}: expected a JSON object of questions and answers")
    return table
