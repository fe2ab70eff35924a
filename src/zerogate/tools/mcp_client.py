"""The tools of a server of the Model Context Protocol, as tools of ours.

with remote_tools("http://localhost:8000/mcp") as tools: ...
with remote_tools(["npx", "some-server"]) as tools: ...        # started, and spoken to over its standard input
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2  # what the SDK speaks HTTP with
from anyio.from_thread import start_blocking_portal
from mcp import Client, MCPError, StdioServerParameters, types

from zerogate.errors import UserError
from zerogate.tools.tool import Limits, Tool, ToolError


@contextmanager
def remote_tools(
    server: str | Sequence[str], limits: Limits | None = None, *, patience: float = 60.0
) -> Iterator[list[Tool]]:
    """A server's tools, for as long as the connection is held.

    Args:
        server: a URL (Streamable HTTP), or a command and its arguments.
        limits: of each call.
        patience: seconds for each thing that is asked, the greeting first; a command may have to load itself.

    Raises:
        UserError: the server cannot be reached or is none.
    """
    if not server:
        raise UserError("no MCP server is named: give its URL, or the command that starts it (mcp=URL, mcp=COMMAND)")
    limits = limits or Limits(seconds=30.0, output_characters=4_000)
    target: Any = server if isinstance(server, str) else StdioServerParameters(command=server[0], args=list(server[1:]))
    shown = server if isinstance(server, str) else shlex.join(server)
    problem: BaseException | None = None
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        try:
            connection = portal.wrap_async_context_manager(Client(target, read_timeout_seconds=patience))
            client = connection.__enter__()
            # Closed without the caller's exceptions, which the SDK's task groups would put into groups.
            stack.callback(connection.__exit__, None, None, None)
            listed = portal.call(_list_tools, client)
        except* (OSError, httpx2.HTTPError, MCPError) as group:
            problem = group
        if problem is not None:  # raised out here, where it is not put into a group
            while isinstance(problem, BaseExceptionGroup):
                problem = problem.exceptions[0]
            if isinstance(problem, MCPError):
                raise UserError(
                    f"{shown} does not answer as an MCP server ({problem.message}): give the URL of one, or a command "
                    "that speaks MCP over its standard input and output"
                ) from None
            raise UserError(f"the MCP server {shown} cannot be reached: {problem}") from None

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


async def _list_tools(client: Client) -> list[types.Tool]:
    """All tools: a server may list them in pages."""
    page = await client.list_tools()
    found = list(page.tools)
    while page.next_cursor:
        page = await client.list_tools(cursor=page.next_cursor)
        found += page.tools
    return found


def _identifier(name: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter == "_") else "_" for letter in name)
    return kept if kept and not kept[0].isdigit() else f"_{kept}"
