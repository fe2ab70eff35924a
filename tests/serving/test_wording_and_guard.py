"""Parts of the interface without a server: what a message becomes, what counts as a call, and who may ask."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from openai.types.chat import ChatCompletionMessage
from tiny_eye import make_picture

from zerogate.data.formats import to_records
from zerogate.serving import schema
from zerogate.serving.guard import Guard, accepted_hosts
from zerogate.serving.questions import _turn
from zerogate.serving.replies import Reply
from zerogate.vision.source import ImageSource

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "calculator", "arguments": '{"expression": "12 * 18"}'},
}


def turns(messages: list[dict[str, Any]]) -> list[Any]:
    request = schema.ChatRequest.model_validate({"model": "pocket", "messages": messages})
    pictures: list[ImageSource] = []
    return [_turn(message, number, pictures) for number, message in enumerate(request.messages)]


def test_calls_are_worded_as_in_training() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "What is 12 * 18?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "216"},
    ]
    found = turns(messages)
    assert found == list(to_records([(1, {"messages": messages})], "messages", "x.jsonl")[0].turns)
    call = '{"name": "calculator", "arguments": {"expression": "12 * 18"}}'
    assert found[1].content == f"{call}\n{call}"
    messages[1] = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
    assert turns(messages)[1].content == f"Let me see.\n{call}"


def test_parts_are_worded_as_in_training(tmp_path: Path) -> None:
    picture = base64.b64encode(make_picture(tmp_path / "a.png", "red").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    words = [{"type": "text", "text": text} for text in ("Look: ", "what", " is it?")]
    answer = {"role": "assistant", "content": "A circle."}
    for parts in (
        words,
        [image, *words],
        [*words, image],
        [image, words[0], image, image, *words[1:], image],
    ):
        messages = [{"role": "user", "content": [image, words[1]]}, answer, {"role": "user", "content": parts}]
        record = to_records([(1, {"messages": messages})], "messages", "x.jsonl")[0]
        assert [turn.content for turn in turns(messages)] == [turn.content for turn in record.turns]


def test_the_clients_own_message_comes_back() -> None:
    message = ChatCompletionMessage(role="assistant", content="Hello.").model_dump()
    assert {"annotations", "audio", "function_call", "refusal"} <= message.keys()
    assert turns([{"role": "user", "content": "Hi"}, message])[1].content == "Hello."


def said(text: str, tools: list[str], size: int = 4) -> tuple[Any, Any]:
    """The message, and the deltas of the stream put together, for an answer that is this text."""

    def reply() -> Reply:
        ends = [*range(size, len(text), size), len(text)]
        pieces = [
            SimpleNamespace(text=text[start:end], tokens=[1], likelihoods=[], finish=None)
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        pieces[-1].finish = "stop"

        async def following() -> Any:
            return pieces.pop(0) if pieces else None

        line = SimpleNamespace(writer=SimpleNamespace(text=text), tokens=1, next=following)
        ask = SimpleNamespace(model="m", prompt=[1])
        answering: Any = SimpleNamespace(ask=ask, lines=[line], came=lambda piece: None, close=lambda outcome: None)
        return Reply(cast("Any", None), [answering], "chat", tools)

    async def streamed() -> list[dict[str, Any]]:
        events = [event async for event in reply().events(10.0)]
        return [json.loads(event[6:])["choices"][0] for event in events if b"[DONE]" not in event]

    whole = asyncio.run(reply().whole())["choices"][0]
    chunks = asyncio.run(streamed())
    assert chunks[-1]["finish_reason"] == whole["finish_reason"]
    content = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    return (
        (whole["message"]["content"], [call["function"]["name"] for call in whole["message"].get("tool_calls", ())]),
        (content or None, [call["function"]["name"] for call in calls]),
    )


MARKED = '<tool_call>{"name": "search", "arguments": {"q": "fox"}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "Bob", "age": 31}', '{"name": "Bob", "age": 31}', []),
        ('{"name": "Bob", "arguments": {}}', '{"name": "Bob", "arguments": {}}', []),
        ('{"name": "search", "age": 31}', '{"name": "search", "age": 31}', []),
        ('{"name": "search", "parameters": {"q": "fox"}}', None, ["search"]),
        (MARKED, None, ["search"]),
        (f"\n{MARKED}\n{MARKED}", None, ["search", "search"]),
        (f"Let me look that up.\n{MARKED}", "Let me look that up.\n", ["search"]),
        (f'{{"a": 1}} {MARKED}', '{"a": 1} ', ["search"]),
        (MARKED.replace("search", "other"), MARKED.replace("search", "other"), []),
        (f"{MARKED.replace('search', 'other')}\n{MARKED}", None, ["search"]),
    ],
)
def test_only_offered_tools_are_called(text: str, content: str | None, calls: list[str]) -> None:
    assert said(text, ["search"]) == ((content, calls), (content, calls))
    assert said(text, []) == ((text, []), (text, []))


def status(headers: dict[str, str], **settings: Any) -> int:
    """What a guarded application answers."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def keep(message: Any) -> None:
        sent.append(message)

    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": "/v1/adapters/rescan", "method": "POST", "headers": pairs}
    asyncio.run(Guard(app, **settings)(scope, receive, keep))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("host", "origin", "status_wanted"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "https://evil.example", 403),
        ("127.0.0.1:8000", "null", 403),
        ("127.0.0.1:8000", "https://page.example", 200),
        ("127.0.0.1:8000", "https://Page.example", 200),
        ("LOCALHOST:8000", "http://localhost:8000", 200),
    ],
)
def test_pages_of_other_sites(host: str, origin: str, status_wanted: int) -> None:
    assert status({"Host": host, "Origin": origin}, origins=["https://page.example"]) == status_wanted
    assert status({"Host": host, "Origin": origin}, origins=["*"]) == 200
    assert status({"Host": host}) == 200


def test_names_that_are_made_to_point_here() -> None:
    hosts = accepted_hosts("127.0.0.1", [], ["https://page.example:444"])
    for host in ("127.0.0.1:8000", "127.8.8.8", "localhost", "localhost.:8000", "[::1]:8000", "app.localhost",
                 "workstation:8000", "page.example", ""):  # fmt: skip
        assert status({"Host": host}, hosts=hosts) == 200, host
    for host in ("evil.example:8000", "evil.example.", "127.0.0.1.evil.example", "[::2]", "[", ":80", "8.8.8.8"):
        assert status({"Host": host, "Origin": f"http://{host}"}, hosts=hosts) == 403, host
    assert accepted_hosts("127.0.0.1", ["key"], []) is None
    assert accepted_hosts("localhost", [], ["*"]) is None
    assert accepted_hosts("0.0.0.0", [], []) is None and accepted_hosts("box.example", [], []) is None
    assert status({"Host": "evil.example"}) == 200
