"""The tools of a server of the Model Context Protocol, as tools of ours.

with remote_tools("http://localhost:8000/mcp") as tools: ...
with remote_tools(["npx", "some-server"]) as tools: ...        # started, and spoken to over its standard input
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2  # what the SDK speaks HTTP with
from anyio.from_thread import start_blocking_portal
from mcp import Client, StdioServerParameters, types

from zerogate.errors import UserError
from zerogate.tools.tool import Limits, Tool, ToolError


@contextmanager
def remote_tools(server: str | Sequence[str], limits: Limits | None = None) -> Iterator[list[Tool]]:
    """A server's tools, for as long as the connection is held.

    Args:
        server: a URL (Streamable HTTP), or a command and its arguments.
        limits: of each call.

    Raises:
        UserError: the server cannot be reached or is none.
    """
    limits = limits or Limits(seconds=30.0, output_characters=4_000)
    target: Any = server if isinstance(server, str) else StdioServerParameters(command=server[0], args=list(server[1:]))
    with start_blocking_portal() as portal:
        try:
            with portal.wrap_async_context_manager(Client(target)) as client:
                listed = portal.call(client.list_tools).tools

                def make(found: types.Tool) -> Tool:
                    def run(**arguments: Any) -> str:
                        result = portal.call(client.call_tool, found.name, arguments)
                        text = "\n".join(part.text for part in result.content if isinstance(part, types.TextContent))
                        if result.is_error:
                            raise ToolError(text or "the server reports an error")
                        return text

                    schema = dict(found.input_schema)
                    return Tool(_identifier(found.name), found.description or found.name, run, schema, limits=limits)

                yield [make(found) for found in listed]
        except* (OSError, httpx2.HTTPError) as group:
            raise UserError(f"the MCP server {server} cannot be reached: {group.exceptions[0]}") from None


def _identifier(name: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter == "_") else "_" for letter in name)
    return kept if kept and not kept[0].isdigit() else f"_{kept}"
