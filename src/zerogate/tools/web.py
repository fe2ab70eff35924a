"""A tool that asks a web address: only those on its own list, and nothing that they send their caller on to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from zerogate.tools.tool import Limits, Tool, ToolError

_MOST_BYTES = 100_000


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def web(
    name: str,
    description: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    answer: str | None = None,
    limits: Limits | None = None,
) -> Tool:
    """The tool: fetches one address with the input in it.

    Args:
        name, description: of the tool.
        url: with `{input}` where the input goes, percent-encoded, after the host; scheme and host are fixed, and are
            all that may ever be asked.
        headers: to send, such as a key.
        answer: of a JSON answer, the field to give, with dots (`result.text`); None: the whole text.
        limits: of a call.

    Raises:
        ValueError: no web address, or the input would choose the host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url is to begin with https:// or http:// and a host, not {url!r}")
    if "{input}" not in url or "{" in parts.netloc:
        raise ValueError(f"url needs {{input}} in its path or query, and none in its host: {url!r}")
    limits = limits or Limits(seconds=10.0)
    opener = build_opener(_Stay)
    segments = [segment for segment in parts.path.split("/") if "{input}" in segment]

    def run(input: str) -> str:
        given = quote(input, safe="")
        # Quoting leaves dots as they are, and to a server these segments are folders to stay in or to leave.
        if any(segment.replace("{input}", given) in (".", "..") for segment in segments):
            raise ToolError(f"{input!r} cannot be a part of a path: {parts.hostname} is not asked")
        request = Request(url.replace("{input}", given), headers=dict(headers or {}))
        try:
            with opener.open(request, timeout=limits.seconds) as response:
                data = response.read(_MOST_BYTES + 1)
        except HTTPError as error:
            raise ToolError(f"{parts.hostname} answered {error.code} {error.reason}") from error
        except (URLError, OSError, ValueError) as error:
            raise ToolError(f"{parts.hostname} cannot be reached: {getattr(error, 'reason', error)}") from error
        if len(data) > _MOST_BYTES:
            raise ToolError(f"{parts.hostname} sent more than {_MOST_BYTES:,} bytes")
        text = data.decode("utf-8", "replace")
        return text if answer is None else _field(text, answer)

    return Tool(name, description, run, limits=limits)


def _field(text: str, path: str) -> str:
    try:
        found = json.loads(text)
        for key in path.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ToolError(f"the answer has no field {path!r}") from error
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
