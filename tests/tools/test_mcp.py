"""`zerogate mcp` as a real process, asked by the MCP SDK's own client and by ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio
from mcp import Client, StdioServerParameters

from zerogate.errors import UserError
from zerogate.tools.mcp_client import remote_tools
from zerogate.tools.named import known_words, named_tools

COMMAND = [sys.executable, "-m", "zerogate.cli.main", "mcp", "--tools", "calculator,calendar"]


def test_the_sdks_client_lists_and_calls() -> None:
    async def talk() -> list[Any]:
        async with Client(StdioServerParameters(command=COMMAND[0], args=COMMAND[1:])) as client:
            listed = (await client.list_tools()).tools
            good = await client.call_tool("Calculator", {"input": "1,075 / 1,250 * 100"})
            bad = await client.call_tool("Calculator", {"input": "__import__('os')"})
            wrong = await client.call_tool("Calculator", {"expression": "1"})
            unknown = await client.call_tool("Shell", {"input": "ls"})
            day = await client.call_tool("Calendar", {})
            return [client.server_info.name, listed, good, bad, wrong, unknown, day]

    name, listed, good, bad, wrong, unknown, day = anyio.run(talk)
    assert name == "zerogate"
    assert [(tool.name, tool.input_schema["required"]) for tool in listed] == [
        ("Calculator", ["input"]),
        ("Calendar", []),
    ]
    assert not good.is_error and good.content[0].text == "86"
    assert bad.is_error and "is neither a number" in bad.content[0].text
    assert wrong.is_error and unknown.is_error and "there is no tool 'Shell'" in unknown.content[0].text
    assert day.content[0].text.startswith("Today is ")


def test_our_client_has_the_servers_tools_as_its_own() -> None:
    with remote_tools(COMMAND) as tools:
        calculator, calendar = tools
        assert calculator.name == "Calculator" and calculator.call("6 * 7").result == "42"
        assert calculator.call("6 *").error == "a number is missing at the end"
        assert calendar.call("").result.startswith("Today is ")
    with pytest.raises(UserError, match=r"the MCP server .* cannot be reached"), remote_tools(["no-such-command-here"]):
        pass
    mute = remote_tools(["sleep", "1000"], patience=0.5)  # a command that waits for nobody
    with pytest.raises(UserError, match=r"sleep 1000 does not answer as an MCP server \(.* timed out\)"), mute:
        pass


SERVER = """
import sys
from mcp.server import MCPServer

server = MCPServer("jars")

@server.tool()
def jars(crates: int) -> str:
    "How many jars are in some crates."
    if crates < 0:
        raise ValueError("no such crates")
    return str(crates * 18)

server.run("streamable-http", port=int(sys.argv[1]))
"""


@pytest.fixture
def address() -> Iterator[str]:
    """An MCP server of the SDK's, on a port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    process.terminate()
    process.wait(timeout=20)


def test_tools_of_a_server_over_http(address: str) -> None:
    with remote_tools(address) as (jars,):
        assert jars.name == "jars" and jars.call({"crates": 12}).result == "216"
        assert jars.call('{"crates": 2}').result == "36"
        assert "Error executing tool jars" in (jars.call({"crates": -1}).error or "")
        assert "type integer" in (jars.call({"crates": "twelve"}).error or "")
    command = [sys.executable, "-c", NAMED, f"mcp={address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["jars", "216"], done.stderr
    with pytest.raises(UserError, match="cannot be reached"), remote_tools("http://127.0.0.1:9/mcp"):
        pass


NAMED = """
import sys
from zerogate.tools.named import named_tools
tools = named_tools(sys.argv[1:])
print(*tools, tools.call("jars", {"crates": 12}).result)
"""


PAGED = """
import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def list_tools(context, params):
    page = int(params.cursor) if params is not None and params.cursor else 0
    tools = [types.Tool(name=f"tool_{page}_{n}", input_schema={"type": "object", "properties": {}}) for n in range(2)]
    return types.ListToolsResult(tools=tools, next_cursor=str(page + 1) if page < 2 else None)

async def call_tool(context, params):
    return types.CallToolResult(content=[types.TextContent(type="text", text=f"this is {params.name}")])

async def run():
    server = Server("pages", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(run)
"""


def test_tools_are_listed_to_the_last_page() -> None:
    with remote_tools([sys.executable, "-c", PAGED]) as tools:
        assert [tool.name for tool in tools] == [f"tool_{page}_{n}" for page in range(3) for n in range(2)]
        assert tools[-1].call("").result == "this is tool_2_1"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("mcp=true", r"true does not answer as an MCP server \(Connection closed\): give the URL of one, or a command"),
        ("mcp=cat", r"cat does not answer as an MCP server \(Method not found\)"),
        ("mcp=echo 'two words'", "echo 'two words' does not answer as an MCP server"),
        ("mcp=", r"no MCP server is named: give its URL, or the command that starts it \(mcp=URL, mcp=COMMAND\)"),
        ("mcp='open", "mcp='open: the command cannot be read: No closing quotation"),
    ],
)
def test_what_is_no_server_is_said_so(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_tools([word])


TOOLLESS = """
import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def run():
    server = Server("no tools")
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(run)
"""


def test_a_server_without_tools_is_said_to_be_none() -> None:
    server = remote_tools([sys.executable, "-c", TOOLLESS])
    with pytest.raises(UserError, match=r"does not answer as an MCP server \(Method not found\)"), server:
        pass


def test_an_error_of_the_users_own_is_not_taken_for_the_servers() -> None:
    with pytest.raises(FileNotFoundError, match="mine"), remote_tools([sys.executable, "-c", PAGED]):
        raise FileNotFoundError("mine")


def test_the_help_names_every_tool() -> None:
    command = [*COMMAND[:-2], "--help"]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "250"}
    ).stdout
    assert [word for word in known_words() if word.split("=")[0] not in said] == []
    assert "qa=DOCUMENTS@MODEL" in said and "translate=MODEL" in said and "mcp=URL" in said


def test_a_mistake_is_said_before_anything_is_served() -> None:
    command = [*COMMAND[:-1], "calculater"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "did you mean calculator?" in done.stderr and not done.stdout
