"""The web tool against a real server: one address, no way to another, and what a bad answer comes to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from zerogate.tools.tool import Limits
from zerogate.tools.web import web


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret")
            self.end_headers()
            return
        body = {"/big": b"x" * 200_000, "/json": json.dumps({"a": [{"b": "found"}], "n": 3}).encode()}
        found = next((b for start, b in body.items() if self.path.startswith(start)), self.path.encode())
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_input_is_a_part_of_the_address_and_nothing_more(address: str) -> None:
    tool = web("Ask", "Asks.", address + "/ask?q={input}&lang=en")
    assert tool.call("two words").result == "/ask?q=two%20words&lang=en"
    hostile = tool.call("x&lang=de#/../@example.org:80\r\nHost: evil")
    assert hostile.error is None and hostile.result.startswith("/ask?q=x%26lang%3Dde%23%2F..%2F%40example.org%3A80")
    assert hostile.result.endswith("&lang=en")


def test_no_input_leaves_its_folder(address: str) -> None:
    tool = web("Ask", "Asks.", address + "/users/{input}/public")
    for given in (".", ".."):
        assert tool.call(given).error == f"'{given}' cannot be a part of a path: 127.0.0.1 is not asked"
    assert tool.call("...").result == "/users/.../public" and tool.call("a..b").result == "/users/a..b/public"
    assert tool.call("../..").result == "/users/..%2F../public"
    assert tool.call("%2e%2e").result == "/users/%252e%252e/public"
    half = web("Ask", "Asks.", address + "/files/.{input}?q={input}")
    assert "cannot be a part" in (half.call(".").error or "") and half.call("..").result == "/files/...?q=.."
    assert web("Ask", "Asks.", address + "/ask?q={input}").call("..").result == "/ask?q=.."


def test_answers_are_bounded_and_redirections_are_not_followed(address: str) -> None:
    def ask(path: str, **settings: Any) -> str | None:
        return web("Ask", "Asks.", address + path + "?{input}", **settings).call("x").error

    assert ask("/away") == "127.0.0.1 answered 302 Found"
    assert ask("/missing") == "127.0.0.1 answered 404 Not Found"
    assert ask("/big") == "127.0.0.1 sent more than 100,000 bytes"
    assert ask("/json", answer="a.1.b") == "the answer has no field 'a.1.b'"
    assert ask("/plain", answer="a") == "the answer has no field 'a'"
    assert web("Ask", "", address + "/json?{input}", answer="a.0.b").call("x").result == "found"
    assert web("Ask", "", address + "/json?{input}", answer="n").call("x").result == "3"
    nobody = web("Ask", "", "http://127.0.0.1:1/{input}", limits=Limits(seconds=3)).call("x").error
    assert nobody is not None and nobody.startswith("127.0.0.1 cannot be reached")


@pytest.mark.parametrize(
    "url", ["file:///{input}", "ftp://host/{input}", "http://{input}/", "http://host/", "/{input}"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        web("Ask", "", url)
