"""What strangers send: malformed, enormous, slow, half-closed. Right status, no trace of the inside, server alive."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import Live, wait_until
from tiny_eye import make_picture

CHAT: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
TEXT: dict[str, Any] = {"model": "one", "prompt": "Hi", "max_tokens": 4}
INSIDE = ("Traceback", 'File "', ".py", "site-packages", "pydantic", "torch", "/tmp", "/home")


def send(live: Live, path: str, body: Any = None, method: str = "POST", headers: dict[str, str] | None = None) -> Any:
    """(status, answer as JSON) to a body that is JSON unless it is bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    for word in INSIDE:
        assert word not in text, f"{word} is nobody's business: {text[:500]}"
    return answer.status, json.loads(text)


def refused(live: Live, status: int, path: str, body: Any = None, code: str | None = None, **more: Any) -> str:
    """Checks that a request is refused in OpenAI's shape; the message."""
    found, answer = send(live, path, body, **more)
    assert found == status, answer
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"]
    if code is not None:
        assert answer["error"]["code"] == code, answer
    return str(answer["error"]["message"])


@pytest.fixture(autouse=True)
def _alive_afterwards(live: Live) -> Iterator[None]:
    yield
    assert live.process.poll() is None
    status, answer = send(live, "/v1/chat/completions", CHAT)
    assert status == 200 and answer["choices"]
    wait_until(lambda: send(live, "/health", method="GET")[1]["running"] == 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "one", ', b"nonsense", b"\xff\xfe\x00", b'{"model": "\xff"}', b"[" * 100_000, b"null",
     b"[]",
     b'"text"', b"1" * 10_000, b'{"model": 1e999}', b'{"a": ' * 20_000],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_malformed_bodies(live: Live, path: str, body: bytes) -> None:
    refused(live, 400, path, body)


def test_a_body_of_another_type(live: Live) -> None:
    message = refused(live, 400, "/v1/completions", b"model=one", headers={"Content-Type": "text/plain"})
    assert "application/json" in message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "5"}]}, "messages"),
        ({"messages": [None]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1"}}]}]}, "messages"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 10_000}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": "a" * 10_000}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": ["\udfff"]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 500}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"999999999999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1e6}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": "\ud800"}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"store": True}, "store"),
        ({"unknown_field": 1}, "unknown_field"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
def test_wrong_values_are_named(live: Live, change: dict[str, Any], param: str) -> None:
    found, answer = send(live, "/v1/chat/completions", {**CHAT, **change})
    assert found == 400, answer
    assert answer["error"]["param"].split(".")[0].split("[")[0] == param


@pytest.mark.parametrize(
    "prompt", [None, [], "", [[]], [0, -1], [0, 10**9], [10**30], ["a", 5], {"a": 1}, ["a"] * 1000, [True], "\ud800"]
)
def test_wrong_prompts(live: Live, prompt: Any) -> None:
    found, answer = send(live, "/v1/completions", {**TEXT, "prompt": prompt})
    # An empty text is a beginning-of-text token and nothing more, which can be continued.
    assert found == (200 if prompt == "" else 400), answer


@pytest.mark.parametrize(
    "name",
    ["nope", "../one", "..", ".", "/etc/passwd", "one/../one", "adapters/one", "%2e%2e/one", "one\x00", "\u202eeno",
     "one ", "ONE", "__base__", "a" * 250, "broken", "pickled"],
)  # fmt: skip
def test_unknown_models_get_404_and_the_list(live: Live, name: str) -> None:
    message = refused(live, 404, "/v1/chat/completions", {**CHAT, "model": name}, code="model_not_found")
    assert name in ("broken", "pickled") or ("tiny" in message and "one" in message)
    refused(live, 404, "/v1/completions", {**TEXT, "model": name}, code="model_not_found")


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "%2e%2e", "..", "one%00", "%ff", "nope", "a" * 5000, "one/../../x"])
@pytest.mark.parametrize("what", ["load", "unload", "reload"])
def test_adapter_paths_lead_nowhere(live: Live, name: str, what: str) -> None:
    refused(live, 404, f"/v1/adapters/{name}/{what}")
    refused(live, 404, f"/v1/models/{name}", method="GET")


@pytest.mark.parametrize(
    "extreme",
    [{"temperature": 1e-320}, {"temperature": 2, "top_p": 1e-320}, {"repetition_penalty": 100, "temperature": 2},
     {"logit_bias": {"5": -100}, "temperature": 1e-4}, {"frequency_penalty": 2, "presence_penalty": -2}],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("seed", [None, -(2**63)])
def test_extreme_settings_are_answered(live: Live, extreme: dict[str, Any], seed: int | None) -> None:
    status, answer = send(live, "/v1/chat/completions", {**CHAT, **extreme, "seed": seed, "logprobs": True})
    assert status == 200, answer


def test_a_pickle_is_never_opened(live: Live) -> None:
    assert "pickle" in refused(live, 400, "/v1/adapters/pickled/load", code="adapter_broken")
    assert "safetensors" in refused(live, 400, "/v1/adapters/broken/load", code="adapter_broken")


def test_over_long_prompts(live: Live) -> None:
    for text in ("word " * 400, "x" * 100_000):
        message = refused(
            live, 400, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": text}]},
            code="context_length_exceeded",
        )  # fmt: skip
        assert "512" in message
    refused(live, 400, "/v1/completions", {**TEXT, "max_tokens": 512}, code="context_length_exceeded")
    refused(live, 400, "/v1/completions", {**TEXT, "prompt": [5] * 600}, code="context_length_exceeded")
    refused(live, 400, "/v1/completions", {**TEXT, "max_tokens": 2**62}, code="context_length_exceeded")
    assert send(live, "/v1/completions", {**TEXT, "prompt": [5] * 508})[0] == 200


def test_bodies_that_are_too_large(live: Live) -> None:
    refused(live, 413, "/v1/completions", {**TEXT, "prompt": "x" * 17_000_000}, code="request_too_large")
    chunks = (b"x" * 65536 for _ in range(280))  # no length said beforehand
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    connection.request("POST", "/v1/completions", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    with pytest.raises(OSError):
        raw(live, head(10**12) + b"x" * 2**27)


def image(url: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {**CHAT, "model": "eye", "messages": [{"role": "user", "content": parts}]}


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def bomb() -> bytes:
    """A PNG whose header promises 60,000 times 60,000 pixels."""
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_bad_images(live: Live, tmp_path: Path) -> None:
    good = make_picture(tmp_path / "good.png", "red").read_bytes()
    assert send(live, "/v1/chat/completions", image(data(good)))[0] == 200
    wrong = [
        "https://example.org/a.png", "http://127.0.0.1/", "file:///etc/passwd", "/etc/passwd", "good.png", "", "data:",
        str(tmp_path / "good.png"), "data:image/png;base64,@@@", "data:image/png;base64," + "A" * 31, data(b""),
        data(b"no image"), data(good[: len(good) // 2]), data(bomb()), data(b"<svg/>", "image/svg+xml"),
        data(b"\x80\x04\x95cos\nsystem\n(S'true'\ntR."),
    ]  # fmt: skip
    for url in wrong:
        refused(live, 400, "/v1/chat/completions", image(url))
    for url in (5, None, {"a": 1}):
        refused(live, 400, "/v1/chat/completions", image(url))
    many = image(data(good))
    many["messages"][0]["content"] *= 4
    assert "more than the 3" in refused(live, 400, "/v1/chat/completions", many)


def raw(live: Live, content: bytes, wait: float = 10.0) -> bytes:
    """What the server answers to bytes on a socket."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=wait) as sock:
        sock.sendall(content)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    return answer


def head(length: int, path: str = "/v1/chat/completions") -> bytes:
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"A" * 200_000,
     b"GET /health HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
     b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_what_is_hardly_http(live: Live, content: bytes) -> None:
    try:
        answer = raw(live, content)
    except OSError:  # it has hung up before we were done
        return
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert b"Traceback" not in answer


def test_sockets_that_close_halfway(live: Live) -> None:
    body = json.dumps({**CHAT, "max_tokens": 300, "stream": True, "ignore_eos": True}).encode()
    raw(live, head(len(body)) + body[:20])  # half a body, then no more
    raw(live, head(len(body)) + body)  # a whole request, and no more to say: the answer may come or not
    for _ in range(5):
        sock = socket.create_connection(("127.0.0.1", live.port), timeout=10)
        sock.sendall(head(len(body)) + body)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, in the middle of it
        sock.close()


def test_slow_clients_hold_nobody_up(live: Live) -> None:
    """Bodies that come a byte at a time, and streams that nobody reads, beside requests that are answered."""
    slow = [socket.create_connection(("127.0.0.1", live.port), timeout=10) for _ in range(20)]
    for sock in slow:
        sock.sendall(head(500) + b"{")
    body = json.dumps(
        {**CHAT, "max_tokens": 400, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 4}
    ).encode()
    unread = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    unread.sendall(head(len(body)) + body)
    start = time.monotonic()
    for sock in slow:
        sock.sendall(b" ")
    assert send(live, "/v1/chat/completions", CHAT)[0] == 200
    assert time.monotonic() - start < 20
    for sock in (*slow, unread):
        sock.close()


def test_a_body_that_never_comes_is_given_up(made: tuple[Path, Path]) -> None:
    """The guard alone, over its real clock: thirty seconds are too long for a test."""
    import asyncio

    from zerogate.serving.guard import Guard

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def receive() -> Any:
        await asyncio.sleep(10)

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/completions", "method": "POST", "headers": []}
    asyncio.run(Guard(app, patience=0.1)(scope, receive, keep))
    assert sent[0]["status"] == 408


def test_wrong_places_and_methods(live: Live) -> None:
    refused(live, 404, "/nope", method="GET", code="unknown_url")
    refused(live, 404, "/v1/../../etc/passwd", method="GET")
    refused(live, 405, "/v1/chat/completions", method="GET")
    refused(live, 405, "/health", {}, method="DELETE")


def test_other_sites_do_nothing_here(live: Live) -> None:
    for path in ("/v1/adapters/one/unload", "/v1/adapters/rescan", "/v1/chat/completions"):
        refused(live, 403, path, CHAT, code="origin_refused", headers={"Origin": "https://evil.example"})
        there = {"Host": f"evil.example:{live.port}", "Origin": f"http://evil.example:{live.port}"}
        refused(live, 403, path, CHAT, code="host_refused", headers=there)
    assert send(live, "/v1/chat/completions", CHAT, headers={"Origin": live.url})[0] == 200


def test_many_bad_requests_at_once(live: Live) -> None:
    bodies = [b"{", json.dumps({**CHAT, "model": "nope"}).encode(), json.dumps({**CHAT, "max_tokens": -1}).encode()]
    statuses: list[int] = []

    def hammer() -> None:
        for body in bodies * 10:
            statuses.append(send(live, "/v1/chat/completions", body)[0])

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(statuses)) == [400, 404] and len(statuses) == 240
