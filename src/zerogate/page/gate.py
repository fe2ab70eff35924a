"""What stands before the page: the key, an allow-list of paths, and a policy that keeps the browser at this server.

Gradio brings more routes than a page needs (a proxy, a run history, an API of its own) and would fetch addresses that
a visitor names. Of all that only what is in `PATHS` is let through, no address is, and pages of other sites are
refused. A visitor logs in with the server's API key and gets a cookie that is good for `HOURS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Collection, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "zerogate_page"
HOURS = 12.0
WRONG_KEY_SECONDS = 0.5
"""How long a wrong key waits for its answer."""

PATHS = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(?:static|assets|svelte)/.+"
    r"|/gradio_api/(?:queue/join|queue/data|upload|upload_progress|startup-events|info/?"
    r"|heartbeat/[A-Za-z0-9_-]+|file=.+)"
)

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's page is built so
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class PageGate:
    """Guards the application that is the page.

    Args:
        app: what is guarded, mounted at `prefix`.
        prefix: where.
        events: numbers of the events that the page has.
        keys: any of these opens; with none, everyone may come in.
    """

    def __init__(self, app: ASGIApp, prefix: str, events: Collection[int], keys: Sequence[str] = ()) -> None:
        self.app, self.prefix, self.events = app, prefix, events
        self.keys = [key.encode() for key in keys]
        self.secret = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # nothing here speaks it
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        path = scope["path"].removeprefix(self.prefix) or "/"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*_without(message["headers"], HEADERS), *ours]}
            await send(message)

        answer = await self._refusal(request, path)
        if answer is None and path == "/gradio_api/queue/join" and request.method == "POST":
            body = await request.body()
            wrong = _wrong(body, self.events)
            if wrong:
                answer = PlainTextResponse(wrong, 400)
            receive = _again(body, receive)
        await (answer or self.app)(scope, receive, sending)

    async def _refusal(self, request: Request, path: str) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("Pages of other sites may not ask this one.", 403)
        if path == "/login" and request.method == "POST":
            return await self._login(request)
        if path == "/logout" and request.method in ("GET", "POST"):
            left = RedirectResponse(f"{self.prefix}/", 303)
            left.delete_cookie(COOKIE, path=self.prefix)
            return left
        if not self._known(request):
            if path in ("/", "/login") and request.method in ("GET", "HEAD"):
                return HTMLResponse(_login_page(self.prefix), 401)
            return PlainTextResponse("Log in with a key of the server.", 401)
        if path == "/login":
            return RedirectResponse(f"{self.prefix}/", 303)
        if not PATHS.fullmatch(path) or "://" in path:
            return PlainTextResponse("There is no such thing here.", 404)
        return None

    # --- the key -----------------------------------------------------------------------------------------------------

    def _known(self, request: Request) -> bool:
        if not self.keys:
            return True
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_key(key.strip()):
            return True
        end, _, mark = request.cookies.get(COOKIE, "").partition(".")
        if not (end.isascii() and end.isdigit() and len(end) < 16 and int(end) > time.time()):
            return False
        return hmac.compare_digest(mark.encode(), self._mark(end).encode())

    def _is_key(self, key: str) -> bool:
        given = key.encode("utf-8", errors="replace")
        return any([hmac.compare_digest(given, known) for known in self.keys])  # all of them, in constant time

    def _mark(self, end: str) -> str:
        return hmac.new(self.secret, end.encode(), hashlib.sha256).hexdigest()

    async def _login(self, request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=1)
        key = form.get("key")
        if not (isinstance(key, str) and self._is_key(key.strip())):
            await asyncio.sleep(WRONG_KEY_SECONDS)
            return HTMLResponse(_login_page(self.prefix, "That is none of this server's keys."), 401)
        end = str(int(time.time() + HOURS * 3600))
        answer = RedirectResponse(f"{self.prefix}/", 303)
        answer.set_cookie(
            COOKIE,
            f"{end}.{self._mark(end)}",
            max_age=int(HOURS * 3600),
            path=self.prefix,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer


def _without(headers: Any, names: Any) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.decode("latin-1").lower() not in names]


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands out a body that was read, and then what comes after it: the client leaving."""
    told = False

    async def receiving() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


def _wrong(body: bytes, events: Collection[int]) -> str:
    """Why this is no event of the page; empty if it is one."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return "The body is not valid JSON."
    if not isinstance(event, dict) or not isinstance(event.get("data"), list):
        return "The page has no such event."
    number = event.get("fn_index")
    if not isinstance(number, int) or number not in events:
        return "The page has no such event."
    waiting: list[Any] = event["data"]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if isinstance(path := found.get("path"), str) and "://" in path:
                return "Nothing is fetched: upload the file."
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return ""


def _login_page(prefix: str, wrong: str = "") -> str:
    said = f'<p role="alert">{escape(wrong)}</p>' if wrong else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>zerogate: log in</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0 1rem; }}
form {{ display: grid; gap: .75rem; width: min(22rem, 100%); }}
h1 {{ font-size: 1.3rem; margin: 0; }} p {{ margin: 0; }} [role=alert] {{ color: #c8442c; }}
input, button {{ font: inherit; padding: .55rem .7rem; border-radius: .5rem; border: 1px solid #8888; }}
button {{ background: #2a6f97; color: #fff; border: 0; cursor: pointer; }}
</style></head><body><form method="post" action="{escape(prefix)}/login">
<h1>zerogate</h1><label for="key">This server asks for a key.</label>
<input id="key" name="key" type="password" autocomplete="current-password" autofocus required>
{said}<button>Log in</button></form></body></html>"""
