"""Tools by the words of a command line, and as chat templates and their models know them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from zerogate.errors import UserError
from zerogate.tools import Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar
from zerogate.tools.named import named_tools
from zerogate.tools.render import Asked, descriptions, openai_calls, read_calls, result_message


def test_tools_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "owl.txt").write_text("The owl lives in the tower.")
    (tmp_path / "facts.json").write_text('{"Who?": "the owl"}')
    lines = [
        "from zerogate.tools.functions import tool",
        "@tool",
        "def twice(text: str) -> str:",
        "    return text * 2",
    ]
    (tmp_path / "my_own_tools.py").write_text("\n".join([*lines, "x = 1", ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["calculator, calendar", f"search={tmp_path}/notes", f"facts={tmp_path}/facts.json", "my_own_tools:twice"]
    tools = named_tools(words)
    assert list(tools) == ["Calculator", "Calendar", "Search", "QA", "twice"]
    assert tools.call("search", "owl").result == "owl > The owl lives in the tower."
    assert tools.call("QA", "who").result == "the owl" and tools.call("twice", "ab").result == "abab"
    assert (tmp_path / "cache" / "search").is_dir()
    for word, message in [
        ("calculater", "unknown tool 'calculater'; did you mean calculator\\?"),
        ("", "name a tool: calculator, calendar, search=FILE"),
        ("search", "the tool search needs a file: search=FILE"),
        (f"search={tmp_path}/nowhere", "there are no documents"),
        (f"facts={tmp_path}/my_own_tools.py", "facts=.*Expecting value"),
        ("my_own_tools:x", "my_own_tools:x is a int, not a tool"),
        ("my_own_tools:y", "cannot be imported"),
        (":x", ":x names no tool: expected MODULE:TOOL"),
        ("my_own_tools:", "my_own_tools: names no tool"),
        ("./my_own_tools:twice", "names no tool: expected MODULE:TOOL, such as mytools:weather"),
        ("calculator,calculator", "two tools are called 'Calculator'"),
    ]:
        with pytest.raises(UserError, match=message):
            named_tools([word])


def test_a_module_of_the_working_folder_is_found_by_the_command(tmp_path: Path) -> None:
    """A console script has its own folder in `sys.path`, not the one where it is called."""
    (tmp_path / "help_of_mine.py").write_text("GREETING = 'hello'\n")
    lines = ["import help_of_mine", "from zerogate.tools.functions import tool", "@tool", "def greet() -> str:"]
    (tmp_path / "tools_of_mine.py").write_text("\n".join([*lines, "    return help_of_mine.GREETING", ""]))
    lines = ["from zerogate.tools.named import named_tools", "import sys", "before = list(sys.path)"]
    lines += ["print(named_tools(['tools_of_mine:greet']).call('greet', '').result, sys.path == before)"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "script.py").write_text("\n".join(lines))
    command = [sys.executable, str(tmp_path / "bin" / "script.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["hello", "True"], done.stderr


def test_descriptions_are_openais() -> None:
    (first, second) = descriptions(Toolbox([calculator(), calendar()]))
    assert first["type"] == "function" and first["function"]["name"] == "Calculator"
    assert first["function"]["parameters"]["properties"] == {"input": {"type": "string"}}
    assert second["function"]["parameters"]["properties"] == {}
    json.dumps([first, second])


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>', [Asked("a", {"x": 1})]),
        (
            'So:\n<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b"}</tool_call>',
            [Asked("a", {}), Asked("b", {})],
        ),
        ('<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}', [Asked("a", {"x": 1})]),
        ('{"name": "a", "parameters": {"x": "y"}}', [Asked("a", {"x": "y"})]),
        ('<|python_tag|>{"name": "a", "parameters": {}}<|eom_id|>', [Asked("a", {})]),
        ('I would call {"name": "a", "parameters": {}} here.', []),
        ("<tool_call>{broken</tool_call>", []),
        ('<tool_call>["a"]</tool_call>', []),
        ('<tool_call>{"name": 3}</tool_call>', []),
        ('<tool_call>{"name": "a", "arguments": [1]}</tool_call>', []),
        ("<tool_call>" + "[" * 100_000, []),
        ("plain words", []),
    ],
)
def test_calls_are_read_from_answers(answer: str, calls: list[Asked]) -> None:
    assert read_calls(answer) == calls


def test_results_and_calls_go_back_as_messages() -> None:
    tools = Toolbox([calendar(lambda: date(2023, 1, 30))])
    (asked,) = openai_calls([Asked("Calendar", {})])
    assert asked == {"id": "call_0", "type": "function", "function": {"name": "Calendar", "arguments": "{}"}}
    message = result_message(tools.call("Calendar", {}), asked["id"])
    said = "Today is Monday, January 30, 2023."
    assert message == {"role": "tool", "name": "Calendar", "content": said, "tool_call_id": "call_0"}
    assert result_message(tools.call("Clock", {}))["content"].startswith("error: there is no tool 'Clock'")
