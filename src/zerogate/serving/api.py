"""The HTTP interface: OpenAI's chat, completions and models, and what a server of adapters needs besides.

    app = create_app(service, Limits(), keys=["secret"])

`server.py` runs it. The document that describes it is at `/openapi.json`, for people at `/docs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from zerogate.errors import UserError
from zerogate.serving import schema
from zerogate.serving.guard import Guard
from zerogate.serving.names import unknown_model, without_folders
from zerogate.serving.pool import Entry, NoRoomError
from zerogate.serving.problems import ApiError, busy, error_body
from zerogate.serving.questions import chat_question, completion_questions
from zerogate.serving.replies import Reply
from zerogate.serving.service import Answering, Service

T = TypeVar("T")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Error, "description": text}
    for status, text in {
        400: "The request cannot be answered: the message says why.",
        401: "A key is needed.",
        403: "A page of another site asks, or the Host is none of this server's names.",
        404: "No such model; the message lists those there are.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        429: "Too many requests at once.",
        500: "The request failed in the server.",
        503: "The engine does not run, or the server is stopping.",
        504: "The answer took too long.",
    }.items()
}
_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class GoneError(Exception):
    """The client is not there any more."""


@dataclass(frozen=True)
class Limits:
    """How much a request may want.

    Attributes:
        body: bytes.
        arrival: seconds until a body is there.
        answer: seconds until an answer is.
        images: in one request.
    """

    body: int = 2**24
    arrival: float = 30.0
    answer: float = 600.0
    images: int = 16


def create_app(
    service: Service,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    gated: Sequence[str] = (),
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application.

    Args:
        service: what answers; its engine is started and stopped with the application.
        limits: what requests may want.
        keys: any of these is asked for; none: everyone may.
        origins: pages of which sites may call this from a browser (CORS); none by default.
        hosts: see `Guard`.
        gated: paths of what is mounted later and asks for the key itself.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.loop = asyncio.get_running_loop()
        service.engine.start()
        yield
        # uvicorn has waited for the answers under way; what is left by now had its time.
        await asyncio.to_thread(service.engine.stop, False)

    app = FastAPI(
        title="zerogate",
        version=version("zerogate"),
        description="One frozen base, many adapters, one batch. As OpenAI's interface; the model field picks.",
        lifespan=lifespan,
    )
    _describe(app, bool(keys), service.models())
    _route_errors(app)
    _route_answers(app, service, limits)
    _route_adapters(app, service)
    _route_state(app, service)
    app.add_middleware(
        Guard,
        keys=keys,
        most_bytes=limits.body,
        patience=limits.arrival,
        gated=gated,
        origins=origins,
        hosts=hosts,
    )
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    return app


def _route_answers(app: FastAPI, service: Service, limits: Limits) -> None:
    @app.post("/v1/chat/completions", responses={**_ERRORS, **_STREAM}, response_model=dict[str, Any])
    async def chat(request: Request, body: schema.ChatRequest) -> Response:
        """Answer a conversation; with `stream: true` as server-sent events."""
        ask = await chat_question(service, body, limits.images)
        tools = [tool.function.name for tool in body.tools or [] if body.tool_choice != "none"]
        usage = body.stream_options is not None and body.stream_options.include_usage
        reply = Reply(service, [await service.start(ask)], "chat", tools, usage)
        return await _send(request, reply, bool(body.stream), limits.answer)

    @app.post("/v1/completions", responses={**_ERRORS, **_STREAM}, response_model=dict[str, Any])
    async def completions(request: Request, body: schema.CompletionRequest) -> Response:
        """Go on with texts as they stand, or with token ids; nothing is put around them."""
        asks = await completion_questions(service, body)
        usage = body.stream_options is not None and body.stream_options.include_usage
        answerings: list[Answering] = []
        try:
            for ask in asks:
                answerings.append(await service.start(ask))
        except BaseException:
            for answering in answerings:
                answering.close("refused")
            raise
        return await _send(
            request, Reply(service, answerings, "completion", usage=usage), bool(body.stream), limits.answer
        )


async def _send(request: Request, reply: Reply, stream: bool, limit: float) -> Response:
    if stream:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(reply.events(limit), media_type="text/event-stream", headers=headers)
    outcome = "failed"
    try:
        async with asyncio.timeout(limit):
            body = await _unless_gone(request, reply.whole())
        outcome = "answered"
        return JSONResponse(body)
    except TimeoutError:
        outcome = "timeout"
        raise ApiError(504, f"The answer took longer than {limit:g} seconds.", "timeout") from None
    except GoneError:
        outcome = "gone"
        return Response(status_code=499)  # nobody reads it
    finally:
        reply.close(outcome)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result; as soon as the client hangs up, the work is stopped."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GoneError
    finally:
        working.cancel()
        leaving.cancel()


def _route_adapters(app: FastAPI, service: Service) -> None:
    pool = service.pool

    def found(name: str) -> Entry:
        entry = pool.entries.get(name)
        if entry is None:
            raise ApiError(404, unknown_model(name, list(pool.entries)), "model_not_found", "name")
        return entry

    @app.get("/v1/models", responses=_pick(401))
    async def models() -> dict[str, Any]:
        """The base, and every adapter that can be asked for."""
        return {"object": "list", "data": [_model(service, name) for name in service.models()]}

    @app.get("/v1/models/{name:path}", responses=_pick(401, 404))
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        return _model(service, service.known(name))

    @app.get("/v1/adapters", responses=_pick(401))
    async def adapters() -> dict[str, Any]:
        """All that is known of the adapters, those that cannot be used with the reason."""
        entries = list(pool.entries.values())
        return {
            "object": "list",
            "bytes": pool.bytes,
            "budget": pool.budget,
            "data": [_adapter(entry) for entry in entries],
        }

    @app.post("/v1/adapters/rescan", responses=_pick(401, 503))
    async def rescan() -> dict[str, Any]:
        """Look through the folder of adapters again: new ones, those that are gone, and those that were broken."""
        try:
            entries = await asyncio.to_thread(pool.scan)
        except UserError as error:
            raise ApiError(503, without_folders(str(error))) from error
        return {"object": "list", "data": [_adapter(entry) for entry in entries]}

    @app.post("/v1/adapters/{name}/load", responses=_pick(400, 401, 404, 408, 413, 429))
    async def load(name: str, body: schema.LoadRequest | None = Body(None)) -> dict[str, Any]:  # noqa: B008
        """Have an adapter in memory before it is asked for; `pinned` keeps it there."""
        found(name)
        await _loaded(service, name, again=False)
        entry = found(name)  # it may have gone from the folder since
        if body is not None and body.pinned is not None:
            pool.pin(name, body.pinned)
        return _adapter(entry)

    @app.post("/v1/adapters/{name}/reload", responses=_pick(400, 401, 404, 429))
    async def reload(name: str) -> dict[str, Any]:
        """Read an adapter anew. Requests under way end with the version they began with."""
        found(name)
        await _loaded(service, name, again=True)
        return _adapter(found(name))

    @app.post("/v1/adapters/{name}/unload", responses=_pick(401, 404))
    async def unload(name: str) -> dict[str, Any]:
        """Take an adapter out of memory, when its requests have ended. The next request loads it again."""
        entry = found(name)
        pool.unload(name)
        return _adapter(entry)


async def _loaded(service: Service, name: str, again: bool) -> None:
    try:
        held = await asyncio.to_thread(service.pool.load, name, again)
    except UserError as error:
        reason = without_folders(str(error))
        raise ApiError(400, f"The adapter {name!r} cannot be loaded: {reason}", "adapter_broken", "name") from error
    except NoRoomError as error:
        raise busy(str(error)) from error
    except KeyError:  # a scan has found its folder gone
        raise ApiError(404, unknown_model(name, list(service.pool.entries)), "model_not_found", "name") from None
    service.pool.release(held)


def _route_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=_pick(503))
    async def health() -> dict[str, Any]:
        """Whether the server answers requests. Needs no key."""
        if not service.engine.alive:
            raise ApiError(503, service.engine.broken or "The engine does not run.")
        return {"status": "ok", "running": service.engine.batch.running, "waiting": service.engine.batch.waiting}

    @app.get("/metrics", response_class=PlainTextResponse, responses=_pick(401))
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _route_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> JSONResponse:
        texts = {404: f"There is no {request.url.path} here.", 405: f"{request.method} is not for {request.url.path}."}
        message = texts.get(error.status_code, str(error.detail))
        code = "unknown_url" if error.status_code in texts else None
        return JSONResponse(error_body(error.status_code, message, code), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        if first["type"] == "json_invalid":
            return JSONResponse(error_body(400, "The body is not valid JSON.", "invalid_json"), 400)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            message = "The body must be JSON, with the header Content-Type: application/json."
            return JSONResponse(error_body(400, message, "invalid_content_type"), 400)
        param = ".".join(place)[:200] or None
        where = f"{param}: " if param else ""
        return JSONResponse(error_body(400, f"{where}{first['msg']}"[:500], "invalid_value", param), 400)


def _describe(app: FastAPI, keyed: bool, models: Sequence[str]) -> None:
    """The OpenAPI document: errors have our shape and 400 where FastAPI would say 422, and keys are mentioned."""
    made = app.openapi
    said = {"messages": [{"role": "user", "content": "Where does the fox live?"}]}
    examples = {
        "/v1/chat/completions": {"model": models[0], "max_tokens": 16, **said},
        "/v1/completions": {"model": models[0], "max_tokens": 16, "prompt": "The fox lives in a"},
    }

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = made()
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if path in examples:
                    operation["requestBody"]["content"]["application/json"]["example"] = examples[path]
                for parameter in operation.get("parameters", []):
                    parameter["example"] = models[-1]
                if keyed and path != "/health":
                    operation["security"] = [{"key": []}]
        if keyed:
            document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _pick(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _ERRORS[status] for status in (403, *statuses)}


_STARTED = int(time.time())


def _model(service: Service, name: str) -> dict[str, Any]:
    entry = service.pool.entries.get(name)
    base = None if entry is None else service.base
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "zerogate",
        "parent": base,
        "images": service.sees(name),
        "context": service.engine.context,
    }


def _adapter(entry: Entry) -> dict[str, Any]:
    held = entry.held
    return {
        "id": entry.name,
        "object": "adapter",
        "state": entry.state,
        "problem": entry.public or None,
        "method": None if entry.files is None else entry.files.method,
        "base": None if entry.files is None or entry.files.base is None else without_folders(entry.files.base),
        "template": entry.template,
        "pinned": entry.pinned,
        "bytes": 0 if held is None else held.size,
        "requests": 0 if held is None else held.users,
        "loads": entry.loads,
        "load_seconds": round(entry.seconds, 4),
    }
