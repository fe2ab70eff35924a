"""A reader behind an OpenAI-compatible endpoint: the openai package against a real server, by the name of the tool."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from zerogate.errors import UserError
from zerogate.tools.named import named_tools

pytest.importorskip("openai")


class Handler(BaseHTTPRequestHandler):
    """Says the last word of a passage about an owl, `None.` of others, and breaks where it is asked about the sea."""

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "words", "object": "model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == "words"
        said = asked["messages"][0]["content"]
        passage = said.split("Passage: ")[1].split("\n")[0]
        if "sea" in said:
            self.answer(400, {"error": {"message": "no sea here"}})
            return
        text = passage.rstrip(".").split()[-1] if "owl" in passage else "None."
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        self.answer(200, {"id": "1", "object": "chat.completion", "choices": [message]})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_an_endpoint_reads_what_a_search_finds(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "Fox.txt").write_text("The fox lives in the den, and the fox is red.")
    (notes / "Night.txt").write_text("The owl lives in Brenna.")
    tools = named_tools([f"qa={notes}@{address}"])
    assert tools.call("QA", "Where do fox and owl live?").result == "Brenna"
    assert "no passage answers" in (tools.call("QA", "Which den?").error or "")
    assert "no sea here" in (tools.call("QA", "Where is the sea?").error or "")
    with pytest.raises(UserError, match="cannot be asked for its models"):
        named_tools([f"qa={notes}@http://127.0.0.1:9/v1"])
