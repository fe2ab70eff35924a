"""What stands before every request: its size, its patience, and its key. Plain ASGI, so that streams pass untouched."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zerogate.serving.problems import ApiError

log = logging.getLogger("zerogate.serving")
LINGER = 2**26
"""Bytes of a refused body that are still read and thrown away: who is hung up on while sending never sees why."""

CLOSE = {"Connection": "close"}
"""For answers to bodies that were not read to their end."""

OPEN = ("/health",)
"""What needs no key."""


class Guard:
    """Refuses bodies that are too large or too slow, and requests without a key.

    Args:
        app: what is guarded.
        keys: any of these opens; none of them means that no key is asked for.
        most_bytes: of a body.
        patience: seconds that a body may take to arrive.
        gated: paths that ask for the key themselves, and all below them; of `/` nothing below.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str] = (),
        most_bytes: int = 2**24,
        patience: float = 30.0,
        gated: Sequence[str] = (),
    ) -> None:
        self.app, self.most_bytes, self.patience = app, most_bytes, patience
        self.gated, self.below = gated, tuple(f"{place}/" for place in gated if place != "/")
        self.keys = [key.encode() for key in keys]

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
            await self._admit(scope, headers, receive)
            await self.app(scope, bounded, sending)
        except ApiError as error:
            if not begun:
                await _answer(send, error)
        except Exception:  # nothing of it goes to the client; the log has it whole
            log.exception("a request failed")
            if not begun:
                await _answer(send, ApiError(500, "The request failed in the server.", "internal_error"))

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
