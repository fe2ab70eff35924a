"""Formats: each layout becomes the same records, and rows that do not fit are refused by number."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zerogate.data.formats import detect_format, to_records
from zerogate.data.read import read_rows
from zerogate.data.records import Turn
from zerogate.errors import UserError

ONE_TALK = {
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "prompt_completion": {"prompt": "Hi", "completion": "Hello"},
}


@pytest.mark.parametrize("name", ONE_TALK)
def test_detected_and_equal(name: str) -> None:
    row = ONE_TALK[name]
    assert detect_format(row) == name
    (record,) = to_records([(7, row)], name, "x")
    assert record.row == 7
    assert record.turns == (Turn("user", "Hi"), Turn("assistant", "Hello"))


def test_unknown_fields() -> None:
    with pytest.raises(UserError, match="the first row has the fields question, answer"):
        detect_format({"question": "a", "answer": "b"})


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("alpaca", {"instruction": "a"}, "row 3: the field 'output' is missing"),
        ("alpaca", {"instruction": ["a"], "output": "b"}, "row 3: the field 'instruction' holds list"),
        ("sharegpt", {"conversations": [{"from": "cat", "value": "a"}]}, "unknown speaker 'cat'"),
        ("sharegpt", {"conversations": []}, "at least one"),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "{oops"}]}, "malformed JSON"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text parts"),
    ],
)
def test_bad_rows_are_refused_by_number(name: str, row: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_records([(3, row)], name, "file.json")


def test_openai_tool_calls() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
        ]
    }
    (record,) = to_records([(1, row)], "messages", "x")
    assert record.turns[1].tool_calls == ({"name": "add", "arguments": {"a": 1}},)
    assert json.loads(record.turns[1].content) == {"name": "add", "arguments": {"a": 1}}
    assert [turn.role for turn in record.turns] == ["user", "assistant", "tool", "assistant"]
    assert record.turns[3].content == "Two."


def test_real_tool_call_file(real_data: Callable[[str], Path]) -> None:
    path = real_data("formats/glaive_toolcall_en_demo.json")
    rows = read_rows(str(path))
    assert detect_format(rows[0][1]) == "sharegpt"
    records = to_records(rows, "sharegpt", "x")
    raw = json.loads(path.read_text())
    assert len(records) == len(raw) == 300
    for record, row in zip(records, raw, strict=True):
        assert [turn.content for turn in record.turns] == [turn["value"] for turn in row["conversations"]]
    calls = sum(turn["from"] == "function_call" for row in raw for turn in row["conversations"])
    assert sum(bool(turn.tool_calls) for record in records for turn in record.turns) == calls > 0
    assert all(tool["name"] for record in records for tool in record.tools)


def test_real_alpaca_files(real_data: Callable[[str], Path]) -> None:
    for name in ("formats/alpaca_en_demo.json", "formats/identity.json"):
        rows = read_rows(str(real_data(name)))
        assert detect_format(rows[0][1]) == "alpaca"
        records = to_records(rows, "alpaca", name)
        assert all(record.turns[-1].content == row["output"] for record, (_, row) in zip(records, rows, strict=True))
