"""What the page hands out, and to whom: over plain HTTP, against a real server, without a browser."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from urllib.parse import urlencode

import pytest
from live_server import Live
from visitor import KEY, api

BEARER = {"Authorization": f"Bearer {KEY}"}


def ask(
    served: Live, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    """One request, its path exactly as it stands here."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request(method, path, body, headers or {})
    return connection.getresponse()


def log_in(served: Live, key: str) -> http.client.HTTPResponse:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(served, "/ui/login", "POST", urlencode({"key": key}).encode(), form)


def test_the_page_asks_for_the_key(served: Live) -> None:
    assert ask(served, "/").getheader("location") == "/ui/"
    answer = ask(served, "/ui/")
    assert answer.status == 401 and b'name="key"' in answer.read()
    for path in ("/ui/config", "/ui/gradio_api/info", "/ui/theme.css", "/ui/assets/x.js", "/ui/gradio_api/queue/data"):
        assert ask(served, path).status == 401, path
    assert ask(served, "/v1/models").status == 401  # the API's own guard is as it was
    assert ask(served, "//v1/models").status in (401, 404)


def test_a_key_gets_a_cookie_that_nobody_can_make(served: Live) -> None:
    assert log_in(served, "wrong").status == 401
    assert log_in(served, "").status == 401
    answer = log_in(served, KEY)
    cookie = str(answer.getheader("set-cookie"))
    assert answer.status == 303 and "HttpOnly" in cookie and "SameSite=strict" in cookie and KEY not in cookie
    value = cookie.split(";")[0]
    assert ask(served, "/ui/config", headers={"Cookie": value}).status == 200
    end, mark = value.split("=", 1)[1].split(".")
    for forged in (f"{int(end) + 1}.{mark}", f"{end}.{'0' * 64}", f"{end}.", ".", "x.y", f"-1.{mark}", f"{end}.é"):
        headers = {"Cookie": f"zerogate_page={forged}".encode().decode("latin-1")}
        assert ask(served, "/ui/config", headers=headers).status == 401, forged


def test_the_policy_comes_with_everything(served: Live) -> None:
    for path, headers in (("/ui/", {}), ("/ui/", BEARER), ("/ui/config", BEARER), ("/ui/nothing", BEARER)):
        answer = ask(served, path, headers=headers)
        assert "default-src 'self'" in str(answer.getheader("content-security-policy"))
        assert answer.getheader("x-content-type-options") == "nosniff"


@pytest.mark.parametrize(
    "place",
    [
        "{root}/kept/presets.json",
        "{root}/adapters/fox/adapter_model.safetensors",
        "/etc/passwd",
        "{cwd}/pyproject.toml",
        "../../../../../../etc/passwd",
        "{root}/circle.png",
        "/proc/self/environ",
        "..%2f..%2f..%2fetc/passwd",
    ],
)
def test_no_file_is_handed_out(served: Live, made: Path, place: str) -> None:
    path = place.format(root=made, cwd=os.getcwd())
    for route in (f"/ui/gradio_api/file={path}", f"/ui/static/{path}", f"/ui/assets/{path}", f"/ui/{path}"):
        answer = ask(served, route, headers=BEARER)
        assert answer.status in (400, 403, 404), route


@pytest.mark.parametrize(
    "path",
    [
        "/ui/gradio_api/file=http://127.0.0.1:9/x",
        "/ui/gradio_api/proxy=http://127.0.0.1:9/x",
        "/ui/gradio_api/run/say",
        "/ui/gradio_api/call/say",
        "/ui/gradio_api/openapi.json",
        "/ui/gradio_api/runs",
        "/ui/gradio_api/component_server",
        "/ui/gradio_api/vibe-code",
        "/ui/monitoring",
        "/ui/docs",
        "/ui/openapi.json",
    ],
)
def test_what_the_page_does_not_use_is_closed(served: Live, path: str) -> None:
    for method in ("GET", "POST"):
        assert ask(served, path, method, headers=BEARER).status == 404


def test_nothing_is_fetched_for_a_visitor(served: Live) -> None:
    file = {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [None, {"text": "a", "files": [file]}], "fn_index": 1, "session_hash": "s"}).encode()
    answer = ask(served, "/ui/gradio_api/queue/join", "POST", body, {**BEARER, "Content-Type": "application/json"})
    assert answer.status == 400 and b"Nothing is fetched" in answer.read()


def test_other_sites_are_refused(served: Live) -> None:
    assert ask(served, "/ui/config", headers={**BEARER, "Origin": "https://evil.example"}).status == 403
    assert ask(served, "/ui/config", headers={**BEARER, "Origin": "null"}).status == 403
    assert ask(served, "/ui/config", headers={**BEARER, "Origin": served.url}).status == 200


def upload(served: Live, size: int) -> http.client.HTTPResponse:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../a.png"\r\n\r\n'
    body = head + b"\0" * size + b"\r\n--x--\r\n"
    headers = {**BEARER, "Content-Type": "multipart/form-data; boundary=x"}
    return ask(served, "/ui/gradio_api/upload", "POST", body, headers)


def test_uploads_are_limited_and_stay_in_their_folder(served: Live) -> None:
    assert upload(served, 3 * 2**20).status == 413
    answer = upload(served, 100)
    assert answer.status == 200
    (place,) = json.loads(answer.read())
    assert "zerogate-page-" in place and ".." not in place and Path(place).name == "a.png"
    assert Path(place).parents[1].name.startswith("zerogate-page-")


def test_malformed_requests_leave_it_alive(served: Live) -> None:
    join = {**BEARER, "Content-Type": "application/json"}
    for body in (
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"data": 5}',
        b'{"data": [], "fn_index": 9999}',
        b'{"data": [], "fn_index": []}',
    ):
        assert ask(served, "/ui/gradio_api/queue/join", "POST", body, join).status == 400
    assert json.loads(api(served, "/health"))["status"] == "ok"
    assert ask(served, "/ui/", headers=BEARER).status == 200
