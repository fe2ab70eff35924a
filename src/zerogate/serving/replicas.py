"""Several copies of the server behind one address: Ray Serve keeps them alive, a router in front loses no request.

Each replica is a process with a base, adapters and the whole application of `api.py`, run by Ray Serve, which starts
another one when it dies. Ray Serve's own HTTP proxy answers a request whose replica dies with an error, so it stays
off. In its place stands the router here: it takes requests as the single server does (size, patience, keys), hands each
to a replica, and holds its answer back until that is whole. When the replica dies before, the request goes to another.
Only a stream is passed on as it comes; one that was cut ends with an error event.

What is done to adapters (load, unload, reload, rescan) is done in every replica, and again in one that comes later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zerogate.errors import UserError
from zerogate.inference.cluster import Places, cluster, from_anywhere
from zerogate.serving import server
from zerogate.serving.guard import Guard
from zerogate.serving.merged_metrics import merged
from zerogate.serving.problems import ApiError, busy, error_body

ATTEMPTS = 3
"""Replicas that may die with a request before it is held responsible."""

_COMMANDS = "/v1/adapters/"
_SCOPE = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers")
_BREATH = 0.1
"""Seconds before a request goes to another replica: one that is only out of reach may be back then."""

_WATCH = 1.0
"""Seconds between looks at which replicas there are."""


@dataclass(frozen=True)
class Whole:
    """An answer in one piece, and the number of the replica that gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    replica: int = 0


class Replica:
    """One server without a socket: requests come as ASGI's scope and body, answers go as ASGI's messages."""

    def __init__(self, settings: server.Settings, places: Places) -> None:
        import torch
        from ray import serve

        torch.set_num_threads(places.threads)
        self.number = int(serve.get_replica_context().rank.rank)
        self.name = secrets.token_hex(8)
        self.service, self.app = server.build(settings)
        server.begin(self.service, settings)
        self.living: Any = None

    def about(self) -> tuple[list[str], list[tuple[str, str]]]:
        """The models it has, and the adapters that it cannot use with the reason."""
        return self.service.models(), server.not_served(self.service)

    def who(self) -> str:
        """A name that no other replica ever has."""
        return self.name

    async def check_health(self) -> None:
        """Ray Serve asks this, and replaces the replica if it raises."""
        if self.service.engine.broken:
            raise RuntimeError(self.service.engine.broken)

    async def ask(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
        """The messages of an answer as they come, several at a time where they come fast."""
        if self.living is None:  # the event loop of requests is known only now
            self.living = self.app.router.lifespan_context(self.app)
            await self.living.__aenter__()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        gone, given = asyncio.Event(), False

        async def receive() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                # By this version of the protocol a stream looks for itself whether its reader is still there.
                await self.app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, messages.put)
            finally:
                messages.put_nowait(None)

        answering = asyncio.create_task(run())
        try:
            ended = False
            while not ended:
                batch = [await messages.get()]
                while not messages.empty():
                    batch.append(messages.get_nowait())
                ended = batch[-1] is None
                if some := [message for message in batch if message is not None]:
                    yield some
            await answering
        finally:
            gone.set()  # where the router hung up, the application sees its client leave, and ends by itself

    async def whole(self, scope: dict[str, Any], body: bytes) -> Whole:
        """The answer in one piece."""
        messages = [message async for some in self.ask(scope, body) for message in some]
        said = b"".join(message.get("body", b"") for message in messages[1:])
        return Whole(messages[0]["status"], list(messages[0]["headers"]), said, self.number)


class Router:
    """What stands in front: an ASGI application that hands requests to replicas.

    Args:
        handle: Ray Serve's, of the replicas.
        wanted: how many there should be.
        settings: as they were started with.
    """

    def __init__(self, handle: Any, wanted: int, settings: server.Settings) -> None:
        self.handle, self.wanted, self.settings = handle, wanted, settings
        self.under_way = self.retried = 0
        self.commands: dict[tuple[str, str], tuple[dict[str, Any], bytes]] = {}
        self.known: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        asked = {name: scope[name] for name in _SCOPE if name in scope}
        # The guard in front has looked at it, and the replicas' own knows of no sites that are allowed.
        asked["headers"] = [(name, value) for name, value in scope["headers"] if name != b"origin"]
        path, method = scope["path"], scope["method"]
        if path == "/health" and method == "GET":
            await _send_whole(send, await self._health(asked))
        elif path == "/metrics" and method == "GET":
            await _send_whole(send, await self._metrics(asked))
        elif path.startswith(_COMMANDS) and method == "POST":
            await _send_whole(send, await self._command(asked, body))
        else:
            await self._answer(asked, body, receive, send)

    # --- one replica -------------------------------------------------------------------------------------------------

    async def _answer(self, asked: dict[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        most = self.settings.queue * self.wanted
        if self.under_way >= most:
            raise busy(f"The server has {self.under_way} requests and takes no more than {most}; try again.")
        self.under_way += 1
        answering = asyncio.create_task(self._try(asked, body, send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            self.under_way -= 1
            leaving.cancel()
            answering.cancel()

    async def _try(self, asked: dict[str, Any], body: bytes, send: Send) -> None:
        """Have it answered, by another replica if one dies before anything of the answer was passed on."""
        limit = self.settings.limits.answer
        end = asyncio.get_running_loop().time() + limit + 5.0  # a replica that is there says so itself, and earlier
        for _ in range(ATTEMPTS):
            passed = _Passed(send)
            try:
                async with asyncio.timeout_at(end):
                    await self._once(asked, body, passed)
                return
            except _deaths():
                if passed.begun:
                    message = "The replica that answered has died; what came so far is not the whole answer."
                    await passed.cut(error_body(503, message, "replica_died"))
                    return
                self.retried += 1
                await asyncio.sleep(_BREATH)
            except TimeoutError:
                if passed.begun:
                    await passed.cut(error_body(504, f"The answer took longer than {limit:g} seconds.", "timeout"))
                    return
                raise ApiError(504, f"The answer took longer than {limit:g} seconds.", "timeout") from None
        raise ApiError(500, f"{ATTEMPTS} replicas have died with this request, one after the other.", "replica_died")

    async def _once(self, asked: dict[str, Any], body: bytes, passed: _Passed) -> None:
        stream = self.handle.options(stream=True).ask.remote(asked, body)
        held: list[Message] = []
        try:
            async for messages in stream:
                held += messages
                if passed.begun or _is_stream(held[0]):
                    for message in held:
                        await passed.on(message)
                    held = []
        except asyncio.CancelledError:
            stream.cancel()
            raise
        for message in held:
            await passed.on(message)

    # --- all replicas ------------------------------------------------------------------------------------------------

    async def _all(self, asked: dict[str, Any], body: bytes = b"") -> list[Whole]:
        """What each replica that lives answers."""
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            # Ray's own time limit, cancelled, would leave a traceback in the log.
            async with asyncio.timeout(self.settings.limits.answer):
                found = await self.handle.broadcast("whole", asked, body).results_async(return_exceptions=True)
        except (DeploymentUnavailableError, TimeoutError):
            found = []
        answers = [answer for answer in found if not isinstance(answer, BaseException)]
        if not answers:
            raise ApiError(503, "No replica is there at the moment; new ones are on their way. Try again.")
        return answers

    async def _command(self, asked: dict[str, Any], body: bytes) -> Whole:
        """The same in every replica; the worst answer is the one that is given."""
        answer = max(await self._all(asked, body), key=lambda found: found.status)
        name, _, verb = asked["path"].removeprefix(_COMMANDS).rpartition("/")
        if answer.status == 200:  # for replicas that come later; they read adapters anew by themselves
            if verb in ("load", "rescan"):
                self.commands[name, verb] = asked, body
            elif verb == "unload":
                self.commands.pop((name, "load"), None)
        return answer

    async def _health(self, asked: dict[str, Any]) -> Whole:
        answers = await self._all(asked)
        good = [json.loads(answer.body) for answer in answers if answer.status == 200]
        if not good:
            return answers[0]
        counts = {name: sum(one[name] for one in good) for name in ("running", "waiting")}
        return _json({"status": "ok", **counts, "replicas": len(good), "wanted": self.wanted})

    async def _metrics(self, asked: dict[str, Any]) -> Whole:
        answers = await self._all(asked)
        texts = {answer.replica: answer.body.decode() for answer in answers}
        text = merged(texts, len(answers), self.wanted, self.retried)
        return Whole(200, [(b"content-type", CONTENT_TYPE_LATEST.encode())], text)

    # --- as time goes ------------------------------------------------------------------------------------------------

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's beginning and end; other kinds of connection than HTTP are refused."""
        if scope["type"] != "lifespan":
            await send({"type": "websocket.close"})
            return
        await receive()
        watching = asyncio.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watching.cancel()
        await asyncio.wait([watching])
        await send({"type": "lifespan.shutdown.complete"})

    async def _watch(self) -> None:
        """Tell replicas that come later what the others were told."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        while True:
            with suppress(RayError, RayServeException, TimeoutError):
                async with asyncio.timeout(_WATCH * 10):
                    names = set(await self.handle.broadcast("who").results_async())
                if self.known and names - self.known:
                    for asked, body in list(self.commands.values()):
                        await self._all(asked, body)
                self.known |= names
            await asyncio.sleep(_WATCH)


class _Passed:
    """What has gone to the client of one answer."""

    def __init__(self, send: Send) -> None:
        self.send, self.begun = send, False

    async def on(self, message: Message) -> None:
        self.begun = True
        await self.send(message)

    async def cut(self, error: Mapping[str, Any]) -> None:
        """End a stream with an error event."""
        event = b"data: " + json.dumps(error).encode() + b"\n\n"
        await self.send({"type": "http.response.body", "body": event, "more_body": False})


def run(
    settings: server.Settings,
    count: int,
    address: str | None,
    sock: socket.socket,
    ready: Callable[[Sequence[str], Sequence[tuple[str, str]]], None],
) -> None:
    """Serve by replicas until stopped.

    Args:
        settings: of each replica; its limits hold for each.
        count: how many.
        address: of a Ray cluster that runs; None starts one on this machine.
        sock: a bound socket.
        ready: called with the models and with the adapters that cannot be used, when requests are answered.

    Raises:
        UserError: Ray is not there, or the replicas cannot be started.
    """
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    with cluster(address, count, settings.options.get("device"), logs=True) as places:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        name = f"zerogate-{secrets.token_hex(4)}"
        own = replace(
            settings,
            base=from_anywhere(settings.base),
            options={**settings.options, "device": places.device},
            folder=settings.folder.resolve() if settings.folder is not None else None,
            adapters={name: folder.resolve() for name, folder in settings.adapters.items()},
            origins=(),  # the router's affair, as are hosts
            hosts=None,
        )
        deployment: Any = serve.deployment(
            Replica,
            num_replicas=count,
            ray_actor_options={"num_cpus": 1, "num_gpus": places.gpus},
            max_ongoing_requests=2 * settings.queue + 100,  # the replica refuses what is too much, and in our words
            health_check_period_s=1,
            health_check_timeout_s=60,
            graceful_shutdown_timeout_s=5,
            max_constructor_retry_count=1,
            logging_config={"log_level": "ERROR", "enable_access_log": False},
        )
        try:
            handle = _started(deployment.bind(own, places), name)
            about = handle.about.remote().result()
            app: ASGIApp = Router(handle, count, settings)
            app = Guard(
                app,
                settings.keys,
                settings.limits.body,
                settings.limits.arrival,
                origins=settings.origins,
                hosts=settings.hosts,
            )
            if settings.origins:
                app = CORSMiddleware(app, list(settings.origins), allow_methods=["*"], allow_headers=["*"])
            server.listen(app, settings, sock, lambda: ready(*about))
        finally:
            serve.shutdown() if address is None else serve.delete(name)


def _started(application: Any, name: str) -> Any:
    """Ray Serve's handle of the replicas, once they answer."""
    from ray import serve

    try:
        return serve.run(application, name=name, route_prefix=None)
    except RuntimeError as error:
        # What a replica raised comes as text, with its stack.
        why = "\n".join(found.message for found in serve.status().applications[name].deployments.values())
        said = re.findall(r"UserError: (.+)", why)
        raise UserError(said[-1] if said else f"the replicas cannot be started: {why or error}") from error


def _deaths() -> tuple[type[Exception], ...]:
    """How Ray says that a process is not there any more, or its machine."""
    from ray import exceptions
    from ray.serve.exceptions import ReplicaUnavailableError

    return (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
        ReplicaUnavailableError,
    )


async def _body(receive: Receive) -> bytes | None:
    """A request's body; None if the client left while sending it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_stream(start: Message) -> bool:
    return start["status"] == 200 and _content_type(start["headers"]).startswith(b"text/event-stream")


def _content_type(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return next((bytes(value) for name, value in headers if name.lower() == b"content-type"), b"")


def _json(body: Mapping[str, Any]) -> Whole:
    return Whole(200, [(b"content-type", b"application/json")], json.dumps(body).encode())


async def _send_whole(send: Send, answer: Whole) -> None:
    headers = [(name, value) for name, value in answer.headers if name.lower() != b"content-length"]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
