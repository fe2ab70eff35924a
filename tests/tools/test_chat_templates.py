"""The registry through real chat templates (TRL ships them): what the model is told, and how its calls come back."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from tiny_base import make_tokenizer

from zerogate.data import Turn
from zerogate.data.templates import prompt_segments
from zerogate.tools import Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar
from zerogate.tools.render import Asked, descriptions, read_calls

TOOLS = Toolbox([calculator(), calendar()])
CALL = Asked("Calculator", {"input": "12 * 18"})


def rendered(template: str, turns: list[Turn]) -> str:
    """The prompt of a conversation, as `zerogate chat` sends it."""
    shipped = files("trl").joinpath("chat_templates", f"{template}.jinja").read_text(encoding="utf-8")
    tokenizer = make_tokenizer(shipped)
    return "".join(one.text for one in prompt_segments(tuple(turns), "chat", tokenizer, tuple(descriptions(TOOLS))))


@pytest.mark.parametrize(
    ("template", "begins", "ends"),
    [
        ("qwen2_5", "<|im_start|>assistant\n", "<|im_end|>"),
        ("qwen3", "<|im_start|>assistant\n", "<|im_end|>"),
        ("llama3_1", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ],
)
def test_tools_are_described_and_calls_go_there_and_back(template: str, begins: str, ends: str) -> None:
    first = [Turn("user", "How many jars?")]
    asked = rendered(template, first)
    for name, tool in TOOLS.items():
        assert f'"{name}"' in asked and tool.description in asked
    assert asked.endswith(begins)
    # The call as the template writes it is what the model was trained to write, and is read as the call that it was.
    call = Turn("assistant", "", tool_calls=({"name": CALL.name, "arguments": CALL.arguments},))
    whole = rendered(template, [*first, call, Turn("tool", TOOLS.call(CALL.name, CALL.arguments).result)])
    assert whole.startswith(asked)
    said, _, after = whole.removeprefix(asked).partition(ends)
    assert read_calls(said) == read_calls(said + ends) == [CALL]
    assert "216" in after and json.dumps(CALL.arguments) in said and whole.endswith(begins)
