"""The engine: one thread that runs the batches. It knows token ids, prompts in the store, and nothing of text or HTTP.

    engine = Engine(model, deliver=print)
    engine.start()
    engine.submit(Job("a", prompt=[0, 17, 4], limit=20, ends=[1], choice=Choice(Sampling(temperature=0))))
    engine.stop()                                  # running requests finish first

Every step's new tokens go to `deliver` at once. Other threads submit, cancel, and have things done between two steps
(`call`): only this thread touches the batch and the prompt store, so an adapter comes and goes without a pause.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from zerogate.bases.decode import context_length
from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.serving.attention import NAME
from zerogate.serving.batching import Batch
from zerogate.serving.prompts import Placed, PromptStore
from zerogate.serving.sampling import Choice, Likelihood, choose

log = logging.getLogger("zerogate.serving")
T = TypeVar("T")

FAILURES_IN_A_ROW = 5
"""After so many failed steps with none between that went well, the engine calls itself broken."""


@dataclass(eq=False)
class Job:
    """One request.

    Attributes:
        id: its name, never used twice.
        prompt: token ids.
        limit: most new tokens.
        ends: tokens that end it.
        choice: how its tokens are chosen.
        placed, key, lane: its adapter, as `batching.Carried` has them.
        listener: whom its events are for; the engine only carries it.
        release: called once when it is in no step any more, by the engine's thread.
    """

    id: str
    prompt: list[int]
    limit: int
    ends: list[int]
    choice: Choice
    placed: Placed | None = None
    key: bytes = b""
    lane: nn.Module | None = None
    listener: Any = None
    release: Callable[[], None] = lambda: None
    told: int = 0


@dataclass(frozen=True)
class Event:
    """What a step made of one request.

    Attributes:
        tokens: new ids; the end token, where one came, is the last.
        likelihoods: one per token, where they were asked for.
        finish: `end` (an end token), `length`, `error`; None where it goes on.
        error: what went wrong.
    """

    tokens: list[int]
    likelihoods: list[Likelihood] = field(default_factory=list)
    finish: Literal["end", "length", "error"] | None = None
    error: str = ""


class Engine:
    """Runs requests on one model.

    Args:
        model: a causal language model of transformers, without adapters; its attention function is exchanged for as
            long as the engine lives.
        deliver: takes the events of each step, in the engine's thread.
        streams: most requests in one step.
        step_tokens: most tokens in one step; long prompts are read in several.
        cache_bytes: memory for keys and values, reserved at once; None: what is free on a GPU, else half a GiB, or
            as much as all streams could fill.

    Raises:
        UserError: the base cannot be served: its attention is of another kind, or gives other results this way.
    """

    def __init__(
        self,
        model: Any,
        deliver: Callable[[list[tuple[Job, Event]]], None],
        *,
        streams: int = 256,
        step_tokens: int = 512,
        cache_bytes: int | None = None,
    ) -> None:
        self.model, self.deliver = model, deliver
        self.original = model.config._attn_implementation
        probe = [token % model.config.get_text_config().vocab_size for token in range(3, 40)]
        expected = [_plain_scores(model, probe[:length]) for length in (23, 37)]
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise UserError(
                f"{type(model).__name__} does not use transformers' attention interface: it cannot be served"
            )
        self.context = context_length(model)
        self.store = PromptStore(model.device, model.dtype)
        self.jobs: dict[str, Job] = {}
        self.generator = torch.Generator(device=model.device)
        self.generator.seed()
        if cache_bytes is None and model.device.type == "cpu":
            cache_bytes = 2**29
        cache_tokens = None if cache_bytes is None else self._cache_tokens(cache_bytes, streams)
        self.batch = Batch(
            model, self.store, self.jobs.__getitem__, self._choose, self._collect, streams, step_tokens, cache_tokens
        )
        self.batch.cache.cache_tensor.zero_()  # now, and not page by page under load
        self._check(probe, expected)
        self.tokens_made = 0
        self.steps = 0
        self.broken = ""
        self._failures = 0
        self._events: list[tuple[Job, Event]] = []
        self._gone: list[Job] = []
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopping: Literal["", "drain", "now"] = ""
        self._thread = threading.Thread(target=self._run, name="zerogate-engine", daemon=True)

    def _cache_tokens(self, cache_bytes: int, streams: int) -> int:
        config = self.model.config.get_text_config()
        per_token = config.num_hidden_layers * FullAttentionCacheAllocator.get_bytes_per_page(
            find_num_key_value_heads(config), find_head_dim(config), self.model.dtype, 1
        )
        longest = self.context or 4096
        if cache_bytes < longest * per_token:
            raise UserError(
                f"the cache has room for {cache_bytes // per_token} tokens in {cache_bytes / 2**20:.0f} MiB, and one "
                f"request of {longest} tokens needs {longest * per_token / 2**20:.0f} MiB: give it more"
            )
        # What cannot be filled is not reserved; the scheduler keeps a share free.
        return min(cache_bytes // per_token, int(1.5 * streams * longest))

    # --- for other threads -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run; harmless where it does already."""
        if not self._thread.is_alive():
            self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job into the queue."""
        self._do(lambda: self._add(job))

    def cancel(self, job: Job) -> None:
        """Stop a job; no more events of it come after those under way. Harmless where it has ended."""
        self._do(lambda: self._cancel(job))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Have something done between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._do(run)
        return future

    def stop(self, drain: bool = True, timeout: float | None = None) -> None:
        """End the thread: after the jobs that are there have finished, or at once (they then fail)."""
        self._stopping = "drain" if drain else "now"
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._stopping = "now"
            self._thread.join()
        self.model.set_attn_implementation(self.original)

    @property
    def alive(self) -> bool:
        """Whether the thread runs, and gets something done."""
        return self._thread.is_alive() and not self.broken

    def _do(self, what: Callable[[], None]) -> None:
        self._inbox.append(what)
        self._wake.set()

    # --- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.clear()
            while self._inbox:
                self._inbox.popleft()()
            if self._stopping == "now":
                for job in list(self.jobs.values()):
                    self._events.append((job, Event([], finish="error", error="the server is shutting down")))
                    self._leave(job)
            busy = self._step()
            self._hand_out()
            if self._stopping and not self.jobs and not self._inbox:
                return
            if not busy and not self._inbox:
                self._wake.wait(timeout=1.0)

    def _step(self) -> bool:
        try:
            busy = self.batch.step()
        except Exception as error:  # a failed step has failed its requests; the others go on
            log.exception("a step failed")
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                self.broken = f"{self._failures} steps failed one after the other: {type(error).__name__}"
            return True
        if busy:
            self.steps += 1
            self._failures, self.broken = 0, ""
        return busy

    def _hand_out(self) -> None:
        events, self._events = self._events, []
        if events:
            self.deliver(events)
        gone, self._gone = self._gone, []
        for job in gone:
            job.release()

    def _add(self, job: Job) -> None:
        assert job.id not in self.jobs
        self.jobs[job.id] = job
        self.batch.add(job.id, job.prompt, job.limit, job.ends)

    def _cancel(self, job: Job) -> None:
        if self.jobs.get(job.id) is job:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        """The next step begins with it gone, and its adapter is free once that step has been laid out."""
        self.batch.cancel(job.id)
        self._gone.append(job)
        self.batch.scheduler.clear_cancelled_requests()
        del self.jobs[job.id]

    def _choose(self, ids: list[str], scores_NV: Tensor) -> Tensor:
        return choose([self.jobs[i].choice for i in ids], scores_NV, self.generator)

    def _collect(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            job = self.jobs.get(output.request_id)
            if job is None:
                continue
            tokens = output.generated_tokens[job.told :]
            likelihoods = job.choice.told[job.told : job.told + len(tokens)]
            job.told += len(tokens)
            self.tokens_made += len(tokens)
            finish: Literal["end", "length", "error"] | None = None
            if output.status == RequestStatus.FAILED:
                finish = "error"
            elif output.status == RequestStatus.FINISHED:
                finish = "end" if tokens and tokens[-1] in job.ends else "length"
            self._events.append((job, Event(tokens, likelihoods, finish, output.error or "")))
            if finish is not None:
                del self.jobs[job.id]
                self._gone.append(job)

    # --- at the start ------------------------------------------------------------------------------------------------

    def _check(self, probe: list[int], expected: list[Tensor]) -> None:
        """Two prompts, one a part of the other and longer than a step may be, as the batch reads them and as the plain
        model does. A family whose attention has parts that are unknown here shows."""
        seen: dict[str, Tensor] = {}
        real = self._choose

        def look(ids: list[str], scores_NV: Tensor) -> Tensor:
            seen.update(zip(ids, scores_NV.clone(), strict=True))
            return real(ids, scores_NV)

        self.batch.runner.choose = look
        self._events, self._gone, self.tokens_made = [], [], 0
        greedy = Sampling(temperature=0)
        for name, length in (("check-0", 23), ("check-1", 37)):
            self._add(Job(name, probe[:length], 1, [], Choice(greedy)))
        while self.jobs:
            self.batch.step()
        self.batch.runner.choose = real
        for name, plain in zip(("check-0", "check-1"), expected, strict=True):
            spread = float(plain.max() - plain.min())
            if not float((seen[name] - plain).abs().max()) <= 0.05 * spread:
                self.model.set_attn_implementation(self.original)
                raise UserError(
                    f"{type(self.model).__name__} cannot be served: over the paged cache it gives other scores than by "
                    "itself, so its attention has a part that the server does not know"
                )


@torch.no_grad()
def _plain_scores(model: Any, tokens: list[int]) -> Tensor:
    """The model's own scores [V] after a text."""
    logits: Tensor = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits
    return logits[0, -1].float()
