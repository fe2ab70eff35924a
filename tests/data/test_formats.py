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
        ("sharegpt", {"conversations": {"from": "human"}}, "row 3: the field 'conversations' must be a list"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "only text parts"),
        ("messages", {"messages": [{"role": "assistant", "tool_calls": ["f"]}]}, "row 3: a tool call needs a name"),
        (
            "messages",
            {"messages": [{"role": "assistant", "tool_calls": {"name": "f"}}]},
            "'tool_calls' holds dict",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a"}], "tools": ["f"]},
            "'tools' must be a list of",
        ),
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


def test_text_beside_calls_is_kept() -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    asked = {"role": "user", "content": "1+1?"}
    for field in ({"tool_calls": [{"function": call}]}, {"function_call": call | {"arguments": '{"a": 1}'}}):
        row = {"messages": [asked, {"role": "assistant", "content": "Let me add.", **field}], "tools": {"name": "add"}}
        (record,) = to_records([(1, row)], "messages", "x")
        turn = record.turns[1]
        assert (turn.spoken, turn.tool_calls) == ("Let me add.", (call,))
        assert turn.content == f"Let me add.\n{json.dumps(call)}"
        assert record.tools == ({"name": "add"},)


def test_the_layout_of_turns_that_are_no_list_is_told_with_the_row() -> None:
    for turns in ({"from": "human"}, ["a", "b"], None, []):
        assert detect_format({"conversations": turns}) == "sharegpt"


@pytest.mark.parametrize(
    ("name", "row"),
    [("alpaca", {"instruction": "Hi", "output": None}), ("prompt_completion", {"prompt": "Hi", "completion": None})],
)
def test_a_null_answer_is_an_empty_one(name: str, row: dict) -> None:
    (record,) = to_records([(1, row)], name, "x")
    assert record.turns[1] == Turn("assistant", "")


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
