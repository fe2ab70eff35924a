"""`zerogate mcp` as a real process, asked by the MCP SDK's own client and by ours."""

from __future__ import annotations

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


def test_a_mistake_is_said_before_anything_is_served() -> None:
    command = [*COMMAND[:-1], "calculater"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "did you mean calculator?" in done.stderr and not done.stdout
