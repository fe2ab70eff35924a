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
OPEN = ("/health",)
"""What needs no key."""


class _TooLargeError(Exception):
    pass


class _TooSlowError(Exception):
    pass


class Guard:
    """Refuses bodies that are too large or too slow, and requests without a key.

    Args:
        app: what is guarded.
        keys: any of these opens; none of them means that no key is asked for.
        most_bytes: of a body.
        patience: seconds that a body may take to arrive.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str] = (), most_bytes: int = 2**24, patience: float = 30.0) -> None:
        self.app, self.most_bytes, self.patience = app, most_bytes, patience
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._admit(scope["path"], scope["method"], headers)
            await self.app(scope, self._bounded(receive), sending)
        except ApiError as error:
            await _answer(send, error)
        except _TooLargeError:
            if not begun:
                await _answer(send, self._too_large())
        except _TooSlowError:
            if not begun:
                await _answer(send, ApiError(408, f"The body took longer than {self.patience:g} seconds.", "timeout"))
        except Exception:  # nothing of it goes to the client; the log has it whole
            log.exception("a request failed")
            if not begun:
                await _answer(send, ApiError(500, "The request failed in the server.", "internal_error"))

    def _admit(self, path: str, method: str, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.most_bytes:
            raise self._too_large()
        if not self.keys or path in OPEN or method == "OPTIONS":
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
                raise _TooSlowError from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if read > self.most_bytes:
                    raise _TooLargeError
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self.most_bytes / 2**20:g} MiB.", "request_too_large")


async def _answer(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    if error.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not wanted
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
