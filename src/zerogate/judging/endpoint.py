"""An OpenAI-compatible endpoint: one request, one reply, with the `openai` package doing the talking.

The package tries again after 408, 409, 429, 5xx, timeouts and broken connections, waits longer each time (or as long as
the server says), and so does this file after a reply that is no chat completion. What is left over is an `AskError`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zerogate.data.jsonl import whole_text
from zerogate.errors import UserError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "none"  # servers of one's own ask for no key, but the package wants one
_HOPELESS = (401, 403, 404, 405)


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how hard.

    Attributes:
        url: such as http://127.0.0.1:8000/v1.
        key_variable: the environment variable that holds the API key.
        concurrency: requests under way at once.
        per_minute: requests begun in a minute at the most; None is no limit.
        timeout: seconds that a reply may take.
        retries: how often a request is tried again.
    """

    url: str
    key_variable: str = KEY_VARIABLE
    concurrency: int = 8
    per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 6

    def check(self) -> None:
        """Look at what can be looked at without asking.

        Raises:
            UserError: no http(s) address, one that is too long by the path of the request, or no key in the variable.
        """
        if find_spec("openai") is None:
            raise UserError("asking an endpoint needs the package openai: pip install 'zerogate[judge]'")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UserError(f"--url {self.url} is no address; it looks like http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UserError("--url holds a name or a password, which reports would show; put the key into a variable")
        if parts.path.rstrip("/").endswith("/completions"):
            base = self.url.rstrip("/").removesuffix("/completions").removesuffix("/chat")
            raise UserError(f"--url {self.url} is the address of a request; give what stands before it: --url {base}")
        if self.key_variable != KEY_VARIABLE and not os.environ.get(self.key_variable):
            raise UserError(f"the environment variable {self.key_variable} holds no key")

    def open(self) -> AsyncOpenAI:
        """A client. Close it in the event loop that used it."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(self.key_variable) or _NO_KEY,
            timeout=self.timeout,
            max_retries=self.retries,
        )


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: the message.
        finish: why it ended, as the endpoint says: `stop`, `length`, ...
        input_tokens: as the endpoint counted; 0 where it does not.
        output_tokens: the same.
        model: who the endpoint says answered.
        url: where it was asked.
        retries: how often it had to be asked again.
        seconds: how long all that took.
    """

    text: str
    finish: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    url: str = ""
    retries: int = 0
    seconds: float = 0.0


class AskError(Exception):
    """A request that came to nothing. `hopeless`: so would all others."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


async def complete(client: AsyncOpenAI, endpoint: Endpoint, body: Mapping[str, Any]) -> Reply:
    """Send one request and wait for its reply.

    Raises:
        AskError: it failed for good.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    begun = time.monotonic()
    fields = dict(body)
    model, messages = fields.pop("model"), fields.pop("messages")
    retries = 0
    while True:
        try:
            raw = await client.chat.completions.with_raw_response.create(
                model=model, messages=messages, extra_body=fields
            )
        except APITimeoutError as error:
            raise AskError(f"no reply within {endpoint.timeout:g} s, {endpoint.retries + 1} times") from error
        except APIConnectionError as error:
            raise AskError(f"the connection failed {endpoint.retries + 1} times: {_cause(error)}") from error
        except APIStatusError as error:
            raise AskError(*_status(error)) from error
        retries += raw.retries_taken
        try:
            reply = read_completion(raw.text)
        except ValueError as error:
            if retries >= endpoint.retries:
                raise AskError(f"{error}, {retries + 1} times") from error
            await asyncio.sleep(min(0.5 * 2**retries, 8.0))
            retries += 1
            continue
        return Reply(**reply, url=endpoint.url, retries=retries, seconds=round(time.monotonic() - begun, 3))


def read_completion(text: str) -> dict[str, Any]:
    """The message, its end and the tokens of a chat completion.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the endpoint's reply is no JSON ({_cut(text, 60)!r})") from error
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    # Models that think aloud, or decline, may leave the content empty.
    content = message.get("content") or "" if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise ValueError(f"the endpoint's reply is no chat completion ({_cut(text, 60)!r})")
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else {}
    return {
        "text": whole_text(content),
        "finish": whole_text(str(choice.get("finish_reason") or "")),
        "input_tokens": _count(usage.get("prompt_tokens")),
        "output_tokens": _count(usage.get("completion_tokens")),
        "model": whole_text(str(found.get("model") or "")),
    }


def _status(error: APIStatusError) -> tuple[str, bool]:
    """What a refusal says, and whether the next request would meet the same."""
    body = error.body
    told = body.get("message") if isinstance(body, dict) else None
    code = body.get("code") if isinstance(body, dict) else None
    text = _cut(str(told or error.response.text).strip(), 300)
    return f"HTTP {error.status_code}: {text or 'no reason given'}", (
        error.status_code in _HOPELESS or code == "insufficient_quota"
    )


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
