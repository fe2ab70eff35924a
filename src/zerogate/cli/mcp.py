"""`zerogate mcp`: serve tools over the Model Context Protocol. The work is in `zerogate.tools.mcp_server`."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from zerogate.errors import UserError

EPILOG = """[bold]Examples[/]

zerogate mcp --tools calculator,calendar

zerogate mcp --tools search=notes/ --tools mytools:weather

In a client's configuration: {"command": "zerogate", "args": ["mcp", "--tools", "calculator,calendar"]}
"""


def mcp(
    tools: Annotated[
        list[str],
        typer.Option(
            metavar="TOOL",
            help="calculator, calendar, search=DOCUMENTS, bm25=DOCUMENTS, facts=FILE, qa=DOCUMENTS@MODEL, "
            "translate=MODEL, mcp=URL, mcp=COMMAND, MODULE:TOOL.",
        ),
    ],
) -> None:
    """Serve tools to any client that speaks MCP.

    The client starts this command and speaks to it over standard input and
    output; it ends when the client hangs up.
    """
    if importlib.util.find_spec("mcp") is None:
        raise UserError("`zerogate mcp` needs the MCP SDK: pip install 'zerogate[tools]'")
    from zerogate.inference.reading import reader_of
    from zerogate.tools.mcp_server import serve_stdio
    from zerogate.tools.named import named_tools

    serve_stdio(named_tools(tools, reader_of=reader_of))
