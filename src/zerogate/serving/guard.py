"""What stands before every request: its sender, size, patience and key. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zerogate.serving.problems import ApiError

log = logging.getLogger("zerogate.serving")
LINGER = 2**26
"""Bytes of a refused body that are still read and thrown away: who is hung up on while sending never sees why."""

CLOSE = {"Connection": "close"}
"""For answers to bodies that were not read to their end."""

OPEN = ("/health",)
"""What needs no key."""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def accepted_hosts(host: str, keys: Sequence[str], origins: Sequence[str]) -> Collection[str] | None:
    """The `hosts` of a `Guard`: on a loopback address without keys, the names of the allowed sites; else all (None)."""
    if keys or "*" in origins or not is_loopback(host):
        return None
    return {name for origin in origins if (name := _host_of(origin)) is not None}


def _host_of(origin: str) -> str | None:
    """The name in an origin, or in a `//` and a Host header, without its port."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


class Guard:
    """Refuses pages of other sites, bodies that are too large or too slow, and requests without a key.

    A browser lets any page send requests, and only keeps the answers from it. Each is therefore refused whose Origin
    is neither the server itself nor allowed. A site whose name is made to point here (DNS rebinding) has the right
    Origin, but a Host that is none of ours.

    Args:
        app: what is guarded.
        keys: any of these opens; none of them means that no key is asked for.
        most_bytes: of a body.
        patience: seconds that a body may take to arrive.
        gated: paths that ask for the key themselves, and all below them; of `/` nothing below.
        origins: sites whose pages may ask, as `https://page.example`; `*` are all.
        hosts: names that a Host header may have besides loopback's, and besides those without a dot, which no site on
            the Internet can have; None takes any.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str] = (),
        most_bytes: int = 2**24,
        patience: float = 30.0,
        gated: Sequence[str] = (),
        origins: Sequence[str] = (),
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self.most_bytes, self.patience = app, most_bytes, patience
        self.gated, self.below = gated, tuple(f"{place}/" for place in gated if place != "/")
        self.keys = [key.encode() for key in keys]
        self.origins, self.hosts = {origin.lower() for origin in origins}, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False
        bounded = self._bounded(receive)

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._known_sender(headers)
            await self._admit(scope, headers, receive)
            await self.app(scope, bounded, sending)
        except ApiError as error:
            if not begun:
                await _answer(send, error)
        except Exception:  # nothing of it goes to the client; the log has it whole
            log.exception("a request failed")
            if not begun:
                await _answer(send, ApiError(500, "The request failed in the server.", "internal_error"))

    def _known_sender(self, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host and not {"*", origin} & self.origins:
            message = "Pages of other sites may not ask this server (--cors ORIGIN lets them)."
            raise ApiError(403, message, "origin_refused", headers=CLOSE)
        if self.hosts is None or not host:
            return
        name = (_host_of(f"//{host}") or "").rstrip(".")
        if not name or not ({".", ":"}.isdisjoint(name) or is_loopback(name) or name in self.hosts):
            message = (
                "As long as it asks for no key (--api-key), this server answers to names of its own machine alone; "
                "--cors https://NAME adds one."
            )
            raise ApiError(403, message, "host_refused", headers=CLOSE)

    async def _admit(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> None:
        path, method = scope["path"], scope["method"]
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.most_bytes:
            await self._read_off(receive)
            raise self._too_large()
        if not self.keys or path in OPEN or method == "OPTIONS":
            return
        if path in self.gated or path.startswith(self.below):
            return
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        # Every key is compared, and in constant time: how long it takes tells nothing.
        if kind.lower() != b"bearer" or not any([hmac.compare_digest(key.strip(), known) for known in self.keys]):
            raise ApiError(
                401,
                "A key is needed, as `Authorization: Bearer KEY`, and the one that came is none of the server's."
                if key
                else "A key is needed, as `Authorization: Bearer KEY`.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _bounded(self, receive: Receive) -> Receive:
        read, whole = 0, False
        end = asyncio.get_running_loop().time() + self.patience

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # what follows is the client leaving, whenever that is
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    408, f"The body took longer than {self.patience:g} seconds.", "timeout", headers=CLOSE
                ) from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if read > self.most_bytes:
                    await self._read_off(receive)
                    raise self._too_large()
            return message

        return bounded

    async def _read_off(self, receive: Receive) -> None:
        read, more = 0, True
        try:
            async with asyncio.timeout(self.patience):
                while more and read < LINGER:
                    message = await receive()
                    read += len(message.get("body", b""))
                    more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            pass

    def _too_large(self) -> ApiError:
        message = f"The body is larger than {self.most_bytes / 2**20:g} MiB."
        return ApiError(413, message, "request_too_large", headers=CLOSE)


async def _answer(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
