"""What goes wrong in a request, with the status and in the shape that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException


class ApiError(HTTPException):
    """A request that is answered with an error.

    It is one of Starlette's, which FastAPI lets through wherever it is raised, also while a body is read.

    Args:
        status: of HTTP.
        message: for whoever reads it.
        code: for programs.
        param: the field that is at fault.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return error_body(self.status, self.message, self.code, self.param)


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The answer to a request that failed."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def busy(message: str) -> ApiError:
    """Too much at once: the client may try again."""
    return ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": "1"})
