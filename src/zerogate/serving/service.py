"""Between the HTTP interface and the engine: a question becomes jobs, and their events become text.

Runs in the event loop of the server. What takes long (loading an adapter, looking at pictures, a very long text) goes
to threads; what is begun there and no longer wanted is undone when it comes back.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from zerogate.bases.decode import end_tokens
from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.serving.engine import Engine, Event, Job
from zerogate.serving.metrics import Metrics
from zerogate.serving.names import base_name, unknown_model, without_folders
from zerogate.serving.pool import AdapterPool, Held, NoRoomError, written_out
from zerogate.serving.problems import ApiError, busy
from zerogate.serving.sampling import Choice, Likelihood
from zerogate.serving.text import Writer
from zerogate.vision.adapter_encoders import warn_of_other_weights
from zerogate.vision.encoder import VisionEncoder, load_encoder
from zerogate.vision.images import open_image
from zerogate.vision.source import ImageSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_REMEMBERED_PICTURES = 256


@dataclass(frozen=True)
class Ask:
    """What is asked of a model, all of it checked.

    Attributes:
        model: the base's name or an adapter's.
        prompt: token ids.
        sampling: settings, with the seed and the most new tokens.
        n: how many answers; the i-th has the seed + i.
        seeded: whether the seed was the client's.
        top, frequency, presence, bias: see `sampling.Choice`.
        images: what the adapter is shown.
        ignore_ends: go on to the length limit.
    """

    model: str
    prompt: list[int]
    sampling: Sampling
    n: int = 1
    seeded: bool = False
    top: int | None = None
    frequency: float = 0.0
    presence: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    images: tuple[ImageSource, ...] = ()
    ignore_ends: bool = False


@dataclass(frozen=True)
class Piece:
    """Some more of one answer.

    Attributes:
        text: what is new, possibly nothing.
        tokens: the new ids, end token included, and what each was worth where that was asked.
        finish: `stop` or `length` with the last piece.
    """

    text: str
    tokens: list[int]
    likelihoods: list[Likelihood]
    finish: str | None


class Line:
    """One answer on its way, for one reader."""

    def __init__(self, service: Service, job: Job, stop: Sequence[str]) -> None:
        self.service, self.job = service, job
        self.writer = Writer(service.tokenizer, stop)
        self.events: list[Event] = []
        self.news = asyncio.Event()
        self.done = False
        self.tokens = 0

    def put(self, event: Event) -> None:
        """From the engine, in the event loop."""
        self.events.append(event)
        self.news.set()

    async def next(self) -> Piece | None:
        """What has come since; None after the last.

        Raises:
            ApiError: the engine could not go on.
        """
        if self.done:
            return None
        await self.news.wait()
        self.news.clear()
        events, self.events = self.events, []
        text, tokens, likelihoods = "", list[int](), list[Likelihood]()
        finish: str | None = None
        for event in events:
            if event.finish == "error":
                self.done = True
                raise ApiError(503 if "shutting down" in event.error else 500, "The request failed in the server.")
            text += self.writer.add(event.tokens)
            tokens += event.tokens
            likelihoods += event.likelihoods
            if event.finish is not None:
                text += self.writer.end()
                finish = "stop" if event.finish == "end" else "length"
            if self.writer.stopped:
                finish = "stop"
                self.service.engine.cancel(self.job)
                break
        self.tokens += len(tokens)
        self.done = finish is not None
        return Piece(text, tokens, likelihoods, finish)


class Answering:
    """The answers to one question."""

    def __init__(self, service: Service, ask: Ask, arrived: float) -> None:
        self.service, self.ask, self.arrived = service, ask, arrived
        self.lines: list[Line] = []
        self._first = False
        self._closed = False

    def came(self, piece: Piece) -> None:
        """Count a piece."""
        if piece.tokens and not self._first:
            self._first = True
            self.service.metrics.first.observe(time.monotonic() - self.arrived)

    def close(self, outcome: str) -> None:
        """The reader is done, or gone: stop what still runs, and count it. Only the first call counts."""
        if self._closed:
            return
        self._closed = True
        for line in self.lines:
            if not line.done:
                self.service.engine.cancel(line.job)
        metrics, model = self.service.metrics, self.ask.model
        metrics.requests.labels(model, outcome).inc()
        metrics.prompt_tokens.labels(model).inc(len(self.ask.prompt))
        metrics.tokens.labels(model).inc(sum(line.tokens for line in self.lines))
        metrics.whole.observe(time.monotonic() - self.arrived)


class _Lease:
    """An adapter, and prompts of the request's own, for as long as its last job is in a step."""

    def __init__(self, jobs: int, release: Callable[[], None]) -> None:
        self.left, self.release, self.lock = jobs, release, threading.Lock()

    def one_less(self) -> None:
        with self.lock:
            self.left -= 1
            last = self.left == 0
        if last:
            self.release()


class Service:
    """One base with its adapters, behind an event loop.

    Args:
        engine: not started yet; its `deliver` must be this service's.
        pool: the adapters.
        tokenizer: the base's.
        base: the base's name as it was loaded.
        template: how the base itself wants to be asked, where that is recorded.
        queue: most requests that are accepted and not finished; more get 429.
    """

    def __init__(
        self,
        engine: Engine,
        pool: AdapterPool,
        tokenizer: PreTrainedTokenizerBase,
        base: str,
        template: str | None = None,
        queue: int = 1024,
    ) -> None:
        self.engine, self.pool, self.tokenizer = engine, pool, tokenizer
        self.base, self.template, self.queue = base_name(base), template, queue
        self.metrics = Metrics(engine, pool)
        self.ends = end_tokens(engine.model, tokenizer)
        self.vocabulary = int(engine.model.config.get_text_config().vocab_size)
        self.longest_token = max(len(token) for token in tokenizer.get_vocab())
        self.accepted = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.leaving: list[Callable[[], None]] = []  # called when the server begins to stop, in the event loop
        self._ids = itertools.count()
        self._count = threading.Lock()
        self._encoders: dict[tuple[str, tuple[int, ...]], VisionEncoder] = {}
        self._pictures: OrderedDict[tuple[int, str], torch.Tensor] = OrderedDict()
        self._looking = threading.Lock()

    # --- events ------------------------------------------------------------------------------------------------------

    def deliver(self, events: list[tuple[Job, Event]]) -> None:
        """Called in the engine's thread, once a step."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._dispatch, events)

    @staticmethod
    def _dispatch(events: list[tuple[Job, Event]]) -> None:
        for job, event in events:
            job.listener.put(event)

    # --- models ------------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """The names that a request may ask for."""
        return [self.base, *(entry.name for entry in list(self.pool.entries.values()) if not entry.problem)]

    def known(self, name: str) -> str:
        """The name, if a request may ask for it.

        Raises:
            ApiError: 404 with those there are.
        """
        if name == self.base:
            return name
        entry = self.pool.entries.get(name)
        if entry is None:
            raise ApiError(404, unknown_model(name, self.models()), "model_not_found", "model")
        if entry.problem:
            raise ApiError(404, f"The adapter {name!r} cannot be used: {entry.public}", "model_not_found", "model")
        return name

    def template_for(self, name: str) -> str:
        """How a model was taught to be asked."""
        recorded = self.template if name == self.base else self.pool.entries[name].template
        return recorded or ("alpaca" if self.tokenizer.chat_template is None else "chat")

    def sees(self, name: str) -> bool:
        """Whether a model takes images."""
        if name == self.base:
            return False
        files = self.pool.entries[name].files
        return files is not None and bool(files.config.get("image_layers"))

    def room(self, prompt: int, asked: int | None, default: int) -> int:
        """How many new tokens an answer may have.

        Raises:
            ApiError: 400, prompt and answer do not fit into the context.
        """
        limit = self.engine.context
        if prompt == 0:
            raise ApiError(400, "The prompt is empty: there is nothing to continue.", "invalid_prompt", "prompt")
        if limit is None:
            limit = self.engine.batch.capacity // 2
        if prompt >= limit or (asked is not None and prompt + asked > limit):
            wanted = f" and {asked} tokens for the answer were asked for" if asked is not None else ""
            raise ApiError(
                400,
                f"The model has room for {limit} tokens, prompt and answer together; the prompt has {prompt}{wanted}.",
                "context_length_exceeded",
            )
        return min(default, limit - prompt) if asked is None else asked

    # --- answering ---------------------------------------------------------------------------------------------------

    async def start(self, ask: Ask) -> Answering:
        """Give a question to the engine.

        Raises:
            ApiError: too many requests, or the adapter or an image cannot be used.
        """
        arrived = time.monotonic()
        if not self.engine.alive:
            raise ApiError(503, "The engine does not run any more; the server needs a restart.")
        with self._count:
            if self.accepted + ask.n > self.queue:
                raise busy(f"The server has {self.accepted} requests and takes no more than {self.queue}; try again.")
            self.accepted += ask.n
        try:
            return await self._start(ask, arrived)
        except BaseException:
            self._finished(ask.n)
            raise

    async def _start(self, ask: Ask, arrived: float) -> Answering:
        held = None if ask.model == self.base else await self._hold(ask.model)
        placed, key = (held.placed, held.key) if held is not None else (None, b"")
        own = False
        try:
            if ask.images:
                assert held is not None  # the API has asked `sees`
                written = await asyncio.to_thread(self._look, held, ask.images)
                put = asyncio.wrap_future(self.engine.call(lambda: self.engine.store.put(written)))
                placed, own = (
                    await _or_undo(put, lambda late: self.engine.call(lambda: self.engine.store.drop(late))),
                    True,
                )
                key = b"%s:%s" % (key, ",".join(image.digest for image in ask.images).encode())
        except BaseException:
            if held is not None:
                self.pool.release(held)
            raise

        def release() -> None:  # in the engine's thread
            if own and placed is not None:
                self.engine.store.drop(placed)
            if held is not None:
                self.pool.release(held)
            self._finished(ask.n)

        lease = _Lease(ask.n, release)
        answering = Answering(self, ask, arrived)
        for number in range(ask.n):
            sampling = ask.sampling.updated({"seed": ask.sampling.seed + number})
            choice = Choice(sampling, ask.seeded, ask.top, ask.frequency, ask.presence, ask.bias, ask.prompt)
            job = Job(
                f"job-{next(self._ids)}", ask.prompt, sampling.max_new_tokens, [] if ask.ignore_ends else self.ends,
                choice, placed, key, held.lane if held is not None else None, release=lease.one_less,
            )  # fmt: skip
            job.listener = Line(self, job, sampling.stop)
            answering.lines.append(job.listener)
            self.engine.submit(job)
        return answering

    def _finished(self, requests: int) -> None:
        with self._count:
            self.accepted -= requests

    async def _hold(self, name: str) -> Held:
        try:
            held = self.pool.holding(name)
            if held is not None:
                return held
            loop = asyncio.get_running_loop()
            return await _or_undo(loop.run_in_executor(None, self.pool.hold, name), self.pool.release)
        except KeyError:
            self.known(name)  # says why, if it has just turned out to be broken
            raise ApiError(404, unknown_model(name, self.models()), "model_not_found", "model") from None
        except UserError as error:
            raise ApiError(
                404, f"The adapter {name!r} cannot be used: {without_folders(str(error))}", "model_not_found", "model"
            ) from error
        except NoRoomError as error:
            raise busy(str(error)) from error

    def _look(self, held: Held, images: Sequence[ImageSource]) -> dict[int, Any]:
        """What an adapter adds to a request that shows images. In a thread, one at a time."""
        with self._looking:
            encoder = self._encoder(held)
            found = []
            for image in images:
                place = (id(encoder), image.digest)
                if place not in self._pictures:
                    self._pictures[place] = encoder.features([open_image(image)])[0]
                self._pictures.move_to_end(place)
                found.append(self._pictures[place])
            while len(self._pictures) > _REMEMBERED_PICTURES:
                self._pictures.popitem(last=False)
            assert held.twin is not None  # an adapter that sees keeps it
            tuner: Any = held.twin.base_model
            return written_out(tuner, torch.stack(found))

    def _encoder(self, held: Held) -> VisionEncoder:
        config = held.config
        if config.image_encoder is None:
            raise ApiError(400, f"The adapter {held.name!r} does not record which vision encoder it looks with.")
        name = (config.image_encoder, tuple(config.image_layers))
        try:
            if name not in self._encoders:
                self._encoders[name] = load_encoder(*name, device=str(self.engine.model.device))
        except UserError as error:
            raise ApiError(
                503, f"The vision encoder of {held.name!r} cannot be loaded: {without_folders(str(error))}"
            ) from error
        encoder = self._encoders[name]
        if encoder.channels != config.image_channels:
            raise ApiError(
                503,
                f"The vision encoder {without_folders(name[0])!r} is another one than {held.name!r} was trained with.",
            )
        warn_of_other_weights(held.name, config, encoder)
        return encoder


def random_seed() -> int:
    """A seed for a request that names none."""
    return random.SystemRandom().randrange(2**31)


async def _or_undo(work: Awaitable[T], undo: Callable[[T], Any]) -> T:
    """The result of work that cannot be stopped; if nobody waits for it any more, it is undone when it comes."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:

        def late(done: asyncio.Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                undo(done.result())

        future.add_done_callback(late)
        raise
