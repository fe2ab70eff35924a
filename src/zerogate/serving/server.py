"""A server from start to end: the base, its adapters, the HTTP interface, and a stop that loses nothing.

A first SIGTERM or Ctrl-C closes the door: requests that were accepted are answered, then the server ends. A second one
ends it at once.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from zerogate.bases import load_base
from zerogate.bases.adapted import recorded_template
from zerogate.bases.load import find_base
from zerogate.errors import UserError
from zerogate.serving.api import Limits, create_app
from zerogate.serving.engine import Engine
from zerogate.serving.pool import AdapterPool, NoRoomError
from zerogate.serving.service import Service


@dataclass(frozen=True)
class Settings:
    """What a server is started with.

    Attributes:
        base: as for `load_base`, with its `options`.
        folder: of adapters, or None; `adapters` are others by name.
        preload: adapters to load at the start and keep in memory.
        host, port: where it listens; port 0 takes any that is free.
        streams: most requests in one step; `queue` most that are accepted and not finished.
        step_tokens: most tokens in one step.
        cache_bytes: for keys and values; None chooses.
        adapter_bytes: for adapters.
        limits: what a request may want.
        keys, origins, gated, hosts: see `create_app`.
        farewell: seconds that requests get to finish when the server is stopped.
    """

    base: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    preload: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    streams: int = 256
    queue: int = 1024
    step_tokens: int | None = None
    cache_bytes: int | None = None
    adapter_bytes: int = 2**30
    limits: Limits = field(default_factory=Limits)
    keys: Sequence[str] = ()
    origins: Sequence[str] = ()
    gated: Sequence[str] = ()
    hosts: Collection[str] | None = None
    farewell: int = 120


def build(settings: Settings) -> tuple[Service, FastAPI]:
    """Load everything; nothing runs yet.

    Raises:
        UserError: the base or a named adapter cannot be served; there is no such folder.
    """
    model, tokenizer = load_base(settings.base, **settings.options)
    waiting: list[Any] = []
    default_step = 512 if model.device.type == "cpu" else 4096
    engine = Engine(
        model,
        lambda events: waiting[0].deliver(events),
        streams=settings.streams,
        step_tokens=settings.step_tokens or max(default_step, settings.streams),
        cache_bytes=settings.cache_bytes,
    )
    pool = AdapterPool(engine, settings.base, settings.adapter_bytes)
    if settings.folder is not None:
        pool.scan(settings.folder)
    pool.add(dict(settings.adapters))
    folder = find_base(settings.base).folder
    template = recorded_template(folder) if folder is not None else None
    service = Service(engine, pool, tokenizer, settings.base, template, settings.queue)
    waiting.append(service)
    missing = [name for name in settings.preload if name not in pool.entries]
    if missing:
        raise UserError(f"there is no adapter {missing[0]!r} to load; there are: {', '.join(pool.entries) or 'none'}")
    app = create_app(service, settings.limits, settings.keys, settings.origins, settings.gated, settings.hosts)
    return service, app


def not_served(service: Service) -> list[tuple[str, str]]:
    """The adapters that cannot be used, with the reason."""
    return [(entry.name, entry.problem) for entry in list(service.pool.entries.values()) if entry.problem]


def open_socket(host: str, port: int) -> socket.socket:
    """The socket to listen on, bound before anything is loaded.

    Raises:
        UserError: the address is taken, or is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(found[0], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return sock


def address(sock: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = sock.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class _Server(uvicorn.Server):
    """Says when it is ready, and when it begins to stop."""

    ready: Callable[[], None]
    leaving: Sequence[Callable[[], None]]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for leave in self.leaving:
            leave()
        await super().shutdown(sockets)


def run(service: Service, app: FastAPI, settings: Settings, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until stopped.

    Args:
        service, app: as `build` made them.
        settings: the same as there.
        sock: a bound socket.
        ready: called when requests are answered.

    Raises:
        UserError: an adapter that was to be preloaded cannot be loaded.
    """
    begin(service, settings)
    listen(app, settings, sock, ready, service.leaving)


def begin(service: Service, settings: Settings) -> None:
    """Start the engine and load what is to be there from the start.

    Raises:
        UserError: an adapter that was to be preloaded cannot be loaded.
    """
    service.engine.start()
    for name in settings.preload:
        try:
            service.pool.release(service.pool.load(name))
        except NoRoomError as error:
            raise UserError(str(error)) from error
        service.pool.pin(name)


def listen(
    app: ASGIApp,
    settings: Settings,
    sock: socket.socket,
    ready: Callable[[], None],
    leaving: Sequence[Callable[[], None]] = (),
) -> None:
    """Answer over HTTP until stopped; arguments as for `run`, and what is to be called when stopping begins."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=settings.farewell,
        lifespan="on",
    )
    server = _Server(config)
    server.ready, server.leaving = ready, leaving
    # uvicorn hands on the signal that stopped it, when all is done: that is then the end, and not a violent one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[sock])
