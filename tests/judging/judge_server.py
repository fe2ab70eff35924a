"""A real HTTP server that speaks the OpenAI chat API and judges by a plain rule, on a port of its own, in a thread.

It also does what servers do on bad days: says 429 or 500, cuts the line half way, answers late or with something that
is no chat completion. `faults` names one for each request: it gets how often this very body has come (from 1) and how
many requests came in all, and returns "" for a good reply.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Rule = Callable[[list[str]], str]
PART = re.compile(r"^(?P<bar>=+) (?P<title>[^=\n]+) (?P=bar)\n(?P<text>.*?)\n(?P=bar) end (?P=bar)$", re.DOTALL | re.M)


def longer_wins(answers: list[str]) -> str:
    """The longer answer wins, in prose that names the other verdict first; equal lengths are a tie."""
    first, second = (0 if text == "(nothing was written)" else len(text) for text in answers)
    right, wrong = ("[[A]]", "[[B]]") if first > second else ("[[B]]", "[[A]]")
    return f"One might think {wrong}, but I counted.\n\n{'[[tie]]' if first == second else right}"


def first_wins(answers: list[str]) -> str:
    """Whatever stands first wins."""
    return "The first of two is always better. [[A]]"


class JudgeServer(ThreadingHTTPServer):
    """The server; what came to it is counted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule: Rule = longer_wins
        self.rules: dict[str, Rule] = {}  # of models that have one of their own
        self.faults: Callable[[int, int], str] = lambda times, number: ""
        self.delay = 0.0
        self.finish = "stop"
        self.key = ""
        self.bodies: list[dict[str, Any]] = []
        self.times: Counter[str] = Counter()
        self.begun: list[float] = []
        self.now = 0
        self.most_at_once = 0
        self.good = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        server = self.server
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.loads(text)
        with server.lock:
            server.times[text] += 1
            server.bodies.append(body)
            server.begun.append(time.monotonic())
            number, times = len(server.bodies), server.times[text]
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        try:
            self._answer(body, server.faults(times, number))
        finally:
            with server.lock:
                server.now -= 1

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        server = self.server
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": f"no such path: {self.path}"}})
        if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            return self._send(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        if body["model"] == "nobody":
            return self._send(404, {"error": {"message": "the model 'nobody' does not exist; there are: judge"}})
        time.sleep(server.delay)
        if fault.isdigit():
            return self._send(int(fault), {"error": {"message": f"a fault: {fault}"}})
        if fault == "quota":
            return self._send(429, {"error": {"message": "You have spent it all", "code": "insufficient_quota"}})
        if fault == "slow":
            time.sleep(2.0)
        if fault == "garbage":
            return self._send(200, "<html>a proxy's page</html>")
        if fault == "shape":
            return self._send(200, {"choices": []})
        parts = PART.findall(body["messages"][-1]["content"])
        asked = [text for _, title, text in parts if title.startswith("Answer")]
        reply = {
            "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": server.finish, "message": {"role": "assistant", "content": ""}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip
        reply["choices"][0]["message"]["content"] = server.rules.get(body["model"], server.rule)(
            asked or [body["messages"][-1]["content"]]
        )
        self._send(200, reply, cut=fault == "cut", bare=fault == "bare")
        with server.lock:
            server.good += 1

    def _send(self, status: int, content: Any, cut: bool = False, bare: bool = False) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if bare:  # no length is told: a body that ends early looks whole
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut or bare else data)
        if cut or bare:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def serving() -> Iterator[JudgeServer]:
    """A running server."""
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
