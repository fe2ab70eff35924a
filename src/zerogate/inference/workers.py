"""Chunks of work over several processes, each with a model of its own, when any of them may be killed at any time.

    with Workers(partial(answering, "pocket", ...), 2) as workers:
        for answers in workers.map(chunks):
            ...

What loads is called once in each process, and returns the function that does one chunk. Results come in the order of
the chunks, each once. A worker is a Ray actor. When one dies, its chunk is given to another and a new one takes its
place; a chunk with which several have died ends the work. The process that calls `map` is the only one that writes
anything, so what it has written is whole whatever happens to the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, Self, TypeVar

import torch

from zerogate.errors import UserError
from zerogate.inference.cluster import Places, cluster

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
MOST_DEATHS = 3
"""Workers that may die with the same chunk, or one after the other while they load."""

AHEAD = 4
"""Chunks per worker that may be done before an earlier one is: what a killed command loses, and what memory holds."""


class _Worker:
    """One process: nothing until `load` is called, so that what goes wrong there comes back as an error of a call."""

    def load(self, load: Callable[[str], Callable[[Any], Any]], places: Places) -> None:
        torch.set_num_threads(places.threads)  # Ray shares cores out, and does not tell torch
        self.work = load(places.device)

    def do(self, chunk: Any) -> Any:
        return self.work(chunk)


@dataclass
class _Todo(Generic[Chunk]):
    """A chunk with its place in the order, and how many workers have died with it."""

    place: int
    chunk: Chunk
    deaths: int = 0


@dataclass
class _Call(Generic[Chunk]):
    """What a worker is doing: a chunk, or loading."""

    worker: Any
    todo: _Todo[Chunk] | None = field(default=None)


class Workers(Generic[Chunk, Result]):
    """Several processes. Nothing starts before the first chunk is given to `map`; leaving the context ends them.

    Args:
        load: called in each process with its device; returns what does a chunk. It is pickled: what it needs has to be
            installed there.
        count: how many processes.
        address, device: see `cluster`.
        name: how messages call a chunk, such as `rows 9 to 16`.
        told: called with a line about what happens.
    """

    def __init__(
        self,
        load: Callable[[str], Callable[[Chunk], Result]],
        count: int,
        *,
        address: str | None = None,
        device: str | None = None,
        name: Callable[[Chunk], str] = str,
        told: Callable[[str], None] = print,
    ) -> None:
        self.load, self.count, self.address, self.device = load, count, address, device
        self.name, self.told = name, told
        self.places: Places | None = None
        self.running = ExitStack()
        self.calls: dict[Any, _Call[Chunk]] = {}
        self.idle: list[Any] = []
        self.failed_loads = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.running.close()

    def map(self, chunks: Iterable[Chunk]) -> Iterator[Result]:
        """The results of the chunks, in their order, each once.

        Raises:
            UserError: as `cluster`, `load` and the work itself; or workers that die again and again, with the name of
                their chunk.
        """
        waiting: Iterator[_Todo[Chunk]] = (_Todo(place, chunk) for place, chunk in enumerate(chunks))
        first = next(waiting, None)
        if first is None:
            return
        waiting = chain([first], waiting)
        again: deque[_Todo[Chunk]] = deque()
        done: dict[int, Result] = {}
        given = next_out = 0
        exhausted = False
        if self.places is None:
            self.places = self.running.enter_context(cluster(self.address, self.count, self.device))
            self.told(f"{self.count} workers load the model.")
            for _ in range(self.count):
                self._start()
        import ray

        while True:
            while self.idle and (again or (not exhausted and given < next_out + AHEAD * self.count)):
                todo = again.popleft() if again else next(waiting, None)
                if todo is None:
                    exhausted = True
                    break
                given = max(given, todo.place + 1)
                worker = self.idle.pop()
                self.calls[worker.do.remote(todo.chunk)] = _Call(worker, todo)
            if exhausted and not again and next_out == given:
                return
            ready, _ = ray.wait(list(self.calls))
            for reference in ready:
                call = self.calls.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    self.idle.append(call.worker)
                    cause = error.cause
                    raise (cause if isinstance(cause, UserError) else error) from None
                except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                    self._died(call, error)
                    again += [call.todo] if call.todo is not None else []
                    continue
                self.idle.append(call.worker)
                if call.todo is None:
                    self.failed_loads = 0
                else:
                    done[call.todo.place] = result
            while next_out in done:
                yield done.pop(next_out)
                next_out += 1

    def _start(self) -> None:
        import ray

        assert self.places is not None
        actor: Any = ray.remote(_Worker)
        worker = actor.options(**self.places.options()).remote()
        self.calls[worker.load.remote(self.load, self.places)] = _Call(worker)

    def _died(self, call: _Call[Chunk], error: Exception) -> None:
        """Have another in its place, unless that has been tried often enough."""
        why = " ".join(str(error).split())[:500]
        if call.todo is None:
            self.failed_loads += 1
            if self.failed_loads >= MOST_DEATHS:
                raise UserError(
                    f"{self.failed_loads} workers have died one after the other while they loaded the model; is there "
                    f"memory for {self.count} of it? {why}"
                )
            self.told("A worker died while it loaded the model; another one takes its place.")
        else:
            call.todo.deaths += 1
            name = self.name(call.todo.chunk)
            if call.todo.deaths >= MOST_DEATHS:
                raise UserError(
                    f"{call.todo.deaths} workers have died with {name}, one after the other: leave them out, or take "
                    f"a smaller --batch-size if memory was short. What came before is kept. {why}"
                )
            self.told(f"A worker died with {name}: given to another one, and a new worker takes its place.")
        self._start()
