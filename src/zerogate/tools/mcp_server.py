"""The registry as a server of the Model Context Protocol, for any client that speaks it."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from zerogate.tools.registry import Toolbox


def make_server(tools: Toolbox) -> Server[Any]:
    """A server with these tools. A call that fails is a result with `is_error`, as the protocol wants it."""

    async def list_tools(context: Any, params: Any) -> types.ListToolsResult:
        listed = [
            types.Tool(name=name, description=tool.description, input_schema=dict(tool.parameters))
            for name, tool in tools.items()
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        # In a thread: a tool may take its time, and the server has others to answer.
        called = await anyio.to_thread.run_sync(partial(tools.call, params.name, params.arguments or {}))
        text = called.result if called.error is None else called.error
        content: list[Any] = [types.TextContent(type="text", text=text)]
        return types.CallToolResult(content=content, is_error=called.error is not None)

    from importlib.metadata import version

    return Server("zerogate", version=version("zerogate"), on_list_tools=list_tools, on_call_tool=call_tool)


def serve_stdio(tools: Toolbox) -> None:
    """Serve one client over standard input and output, until it hangs up."""
    server = make_server(tools)

    async def run() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)
