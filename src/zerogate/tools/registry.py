"""`Toolbox`: the tools there are, by name. Names that are not in it never run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zerogate.errors import UserError
from zerogate.tools.tool import Called, Tool


class Toolbox(Mapping[str, Tool]):
    """Tools by name, with a record of every call.

    Attributes:
        calls: what was called, in order.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self.calls: list[Called] = []
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        """Put in one more.

        Raises:
            UserError: there is one of that name, case aside.
        """
        if self.find(tool.name) is not None:
            raise UserError(f"two tools are called {tool.name!r}; give each a name of its own")
        self._tools[tool.name] = tool

    def find(self, name: str) -> Tool | None:
        """The tool of that name, case aside; None if there is none."""
        return next((tool for known, tool in self._tools.items() if known.lower() == name.lower()), None)

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def call(self, name: str, given: str | Mapping[str, Any]) -> Called:
        """Run a tool and keep the record; a name that is not there is an error in it, not an exception."""
        tool = self.find(name)
        if tool is None:
            near = difflib.get_close_matches(name, self._tools, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(self._tools) or "none"
            arguments = {"input": given} if isinstance(given, str) else dict(given)
            called = Called(name, arguments, "", f"there is no tool {name!r}{hint} Known tools: {known}")
        else:
            called = tool.call(given)
        self.calls.append(called)
        return called
