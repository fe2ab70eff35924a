"""`zerogate mcp` as a real process, asked by the MCP SDK's own client and by ours."""

from __future__ import annotations

import subprocess
import sys
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


def test_a_mistake_is_said_before_anything_is_served() -> None:
    command = [*COMMAND[:-1], "calculater"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "did you mean calculator?" in done.stderr and not done.stdout
