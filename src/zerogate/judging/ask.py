"""Many requests at once, none of them twice: what is kept is taken, the rest is asked and written as it comes.

Stopped or killed at any moment, a run goes on from what its file holds. A request that fails is left out and the next
one is sent; what no request can get past (a wrong key, an unknown model, an endpoint that is down) ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from zerogate.errors import UserError
from zerogate.judging.endpoint import AskError, Endpoint, Reply, complete
from zerogate.judging.items import Item
from zerogate.judging.kept import Cache, RunFile

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Read = Callable[[str], Mapping[str, Any]]
_ALL_FAIL = 10  # so many in a row, and as many as are under way at once: the next would fail, too


@dataclass
class Asked:
    """What a run has come to so far.

    Attributes:
        replies: by the requests' keys, the earlier ones included.
        failed: why requests came to nothing, by key.
        sent: the replies of this run only.
    """

    replies: dict[str, Reply]
    failed: dict[str, str] = field(default_factory=dict)
    sent: list[Reply] = field(default_factory=list)


def recall(
    items: Sequence[Item], file: RunFile, cache: Cache | None, usable: Callable[[Reply], bool]
) -> dict[str, Reply]:
    """The replies that are kept, in the run's file or in the cache; those not `usable` are to be asked again."""
    kept = {}
    for key in dict.fromkeys(item.key for item in items):
        reply = file.replies.get(key) or (cache.find(key) if cache is not None else None)
        if reply is not None and usable(reply):
            kept[key] = reply
    return kept


def ask(
    items: Sequence[Item],
    kept: Mapping[str, Reply],
    endpoint: Endpoint,
    file: RunFile,
    cache: Cache | None,
    read: Read,
    progress: Callable[[int, int, int], None] | None = None,
) -> Asked:
    """Have a reply for each item.

    Args:
        items: the requests; those of one key are sent once.
        kept: from `recall`.
        endpoint: where.
        file: where replies are written.
        cache: where they are kept for other runs; None keeps none.
        read: what of a reply's meaning is written beside it.
        progress: called with replies there, failures, and requests in all.

    Raises:
        UserError: another run is writing to the file, or the endpoint will not answer any request. What came before is
            in the file.
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.key, []).append(item)
    file.begin()
    try:
        with FileLock(file.path.with_name(f".{file.path.name}.lock"), timeout=0):
            for key, reply in kept.items():
                if file.replies.get(key) != reply:
                    file.add(groups[key], reply, read(reply.text))
            asked = Asked(dict(kept))
            run = _Run(groups, endpoint, file, cache, read, asked, progress)
            if len(kept) < len(groups):
                asyncio.run(run.all())
            return asked
    except Timeout as error:
        raise UserError(f"another run is writing to {file.path}; wait for it, or name another --out") from error


@dataclass
class _Run:
    groups: Mapping[str, Sequence[Item]]
    endpoint: Endpoint
    file: RunFile
    cache: Cache | None
    read: Read
    asked: Asked
    progress: Callable[[int, int, int], None] | None
    failures: int = 0  # in a row
    next_start: float = 0.0

    async def all(self) -> None:
        """Send everything that is missing."""
        queue = iter([key for key in self.groups if key not in self.asked.replies])
        self._show()
        try:
            async with self.endpoint.open() as client, asyncio.TaskGroup() as group:
                for _ in range(self.endpoint.concurrency):
                    group.create_task(self._work(client, queue))
        except ExceptionGroup as failed:  # of one worker; the others were cancelled then
            raise failed.exceptions[0] from failed

    async def _work(self, client: AsyncOpenAI, queue: Iterator[str]) -> None:
        for key in queue:
            await self._pace()
            items = self.groups[key]
            try:
                reply = await complete(client, self.endpoint, items[0].body)
            except AskError as error:
                self._failed(key, error)
            else:
                self.failures = 0
                self.file.add(items, reply, self.read(reply.text))
                self.asked.replies[key] = reply
                self.asked.sent.append(reply)
                if self.cache is not None:
                    self.cache.keep(key, reply)
            self._show()

    def _failed(self, key: str, error: AskError) -> None:
        self.asked.failed[key] = str(error)
        self.failures += 1
        if error.hopeless or self.failures >= max(_ALL_FAIL, self.endpoint.concurrency):
            there = len(self.asked.replies)
            kept = (
                f"; {there} of {len(self.groups)} replies are in {self.file.path}, the same command goes on from there"
            )
            raise UserError(f"{self.endpoint.url}: {error}{kept if there else ''}") from error

    async def _pace(self) -> None:
        """Wait for one's turn where only so many requests may begin in a minute."""
        if self.endpoint.per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self.next_start)
        self.next_start = start + 60.0 / self.endpoint.per_minute
        await asyncio.sleep(start - now)

    def _show(self) -> None:
        if self.progress is not None:
            self.progress(len(self.asked.replies), len(self.asked.failed), len(self.groups))
