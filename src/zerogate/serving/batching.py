"""transformers' continuous batching, extended at its own seams: an adapter for each request, and sampling of its own.

transformers keeps the paged cache, decides which requests share a step, splits long prompts, shares the pages of
common prefixes and makes room when pages run out. What it cannot carry is added by four subclasses:

- `KeyedCache`: pages are shared only among requests of one adapter and the same images. Above the first adapted
  layer the same text has other keys and values under another adapter.
- `LaneScheduler`: zero-init adapters and the base share every step. An adapter of another method is a part of a model
  of its own (a *lane*, `pool.py`); such models take turns.
- `Runner`: the next token of each request is chosen by its own settings (`sampling.py`).
- `Batch`: one step after the other, for whoever owns the thread (`engine.py`). What fails in a step fails the requests
  of that step and no others.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.initialization import resolve_continuous_batching_config
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
    RequestState,
    RequestStatus,
)
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

from zerogate.serving.attention import Step
from zerogate.serving.prompts import Packing, Placed, PromptStore


class Carried(Protocol):
    """What the batch needs to know of a request beyond its tokens."""

    @property
    def placed(self) -> Placed | None:
        """Where its adapter's prompts lie; None for the base, and in a lane."""

    @property
    def key(self) -> bytes:
        """Tells apart what changes keys and values: adapter, its version, images. Empty for the base."""

    @property
    def lane(self) -> nn.Module | None:
        """The model that runs it; None for the common one."""


Find = Callable[[str], Carried]
Choose = Callable[[list[str], Tensor], Tensor]
"""(ids of requests, their scores [n, V]) -> their next tokens [n]."""


class KeyedCache(PagedAttentionCache):
    """The paged cache, with pages shared by tokens *and* key.

    Attributes:
        find: a request by its id.
        step: the step that runs; the attention reads it.
    """

    find: Find
    step: Step | None = None

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        """As transformers', among the pages of requests with the same key."""
        return int(super().search_prefix_match(request_id, self._keyed(request_id, prompt_ids)))

    def mark_complete_blocks(self, state: RequestState, complete_blocks: dict[str, int]) -> None:
        """As transformers', for requests with the same key only."""
        if not self.allow_block_sharing or not complete_blocks or state.status == RequestStatus.FINISHED:
            return
        token_ids = self._keyed(state.request_id, state.initial_tokens + state.generated_tokens)
        for name, count in complete_blocks.items():
            self.cache_allocators[name].mark_complete_blocks(state.request_id, token_ids, count)

    def _keyed(self, request_id: str, tokens: list[int]) -> list[int]:
        """Tokens whose first two carry the key. Pages are known by 64-bit hashes of their tokens, each page's with
        the one before: what changes the first page's changes them all."""
        key = self.find(request_id).key
        if not key or len(tokens) < 2:
            return tokens
        digest = hashlib.blake2b(key, digest_size=8).digest()
        first, second = (int.from_bytes(part, "little", signed=True) for part in (digest[:4], digest[4:]))
        return [tokens[0] ^ first, tokens[1] ^ second, *tokens[2:]]


class LaneScheduler(FIFOScheduler):
    """First come, first served; where there are several lanes, each step is one lane's, in turn."""

    find: Find
    turn: Any = None  # the lane that had the last step

    def schedule_batch(
        self, token_budget: int, cache_budget: int
    ) -> tuple[list[FutureRequestState] | None, bool, int, int]:
        """The requests of the next step, all of one lane."""
        lanes = {
            id(lane): lane for r in (*self.active_requests, *self.waiting_requests) for lane in [self.find(r).lane]
        }
        if len(lanes) <= 1:
            return super().schedule_batch(token_budget, cache_budget)  # type: ignore[no-any-return]
        order = sorted(lanes)
        later = [lane for lane in order if lane > (self.turn or 0)]
        refused = None
        for lane in [*later, *order]:
            chosen = self._one_lane(lane, token_budget, cache_budget)
            if chosen[0]:
                self.turn = lane
                return chosen
            refused = chosen if chosen[0] is None else refused
        return refused or chosen

    def _one_lane(self, lane: int, token_budget: int, cache_budget: int) -> Any:
        """transformers' own choice, with the other lanes' requests out of sight."""
        active, order = self.active_requests, self.waiting_requests_order
        mine = [r for r in order if id(self.find(r).lane) == lane]
        others = {r: state for r, state in active.items() if id(self.find(r).lane) != lane}
        self.active_requests = {r: state for r, state in active.items() if r not in others}
        self.waiting_requests_order = type(order)(mine)
        try:
            return super().schedule_batch(token_budget, cache_budget)
        finally:
            self.active_requests |= others
            left = set(self.waiting_requests_order)
            started = {r for r in mine if r not in left}
            self.waiting_requests_order = type(order)(r for r in order if r not in started)


class Runner(ModelRunner):
    """Runs the model; asks `choose` for each request's next token."""

    choose: Choose

    def _sample(self, scores: Tensor, output_ids: Tensor) -> None:
        batch: Any = self.inputs_and_outputs
        ids = [future.state.request_id for future in batch.requests_in_batch if future.has_new_token]
        if ids:
            output_ids[0, : len(ids)].copy_(self.choose(ids, scores[0, : len(ids)]))


class Router(OutputRouter):
    """Hands out what a step made to one function, all at once."""

    def __init__(self, deliver: Callable[[list[GenerationOutput]], None]) -> None:
        super().__init__()
        self.to = deliver

    def deliver(self, output: GenerationOutput) -> None:
        """One output."""
        self.to([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """The outputs of a step."""
        self.to(outputs)


class Batch:
    """Requests that run together on one model. Everything here is for one thread.

    Args:
        model: the plain base, its attention set to `zerogate_paged`.
        store: the prompts of the adapters.
        find: what is carried by a request, by its id.
        choose: chooses next tokens.
        deliver: takes what each step gave.
        requests: most that share a step.
        step_tokens: most tokens of a step.
        cache_tokens: room for keys and values; None: what memory allows.
    """

    def __init__(
        self,
        model: Any,
        store: PromptStore,
        find: Find,
        choose: Choose,
        deliver: Callable[[list[GenerationOutput]], None],
        requests: int,
        step_tokens: int,
        cache_tokens: int | None,
        page: int = 16,
    ) -> None:
        self.model, self.store, self.find = model, store, find
        config = model.config.get_text_config()
        helper = DistributedHelper(device_mesh=None, cpu_group_timeout=None)
        nothing = ContinuousBatchingLogitsProcessorList(LogitsProcessorList())
        asked = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=None if cache_tokens is None else -(-cache_tokens // page),
            max_batch_tokens=step_tokens,
            max_requests_per_batch=min(requests, step_tokens),
            max_blocks_per_request=0,  # block tables are for flash-attention's kernels
            use_async_batching=False,
            use_cuda_graph=False,
        )
        settings = resolve_continuous_batching_config(config, asked, None, False, device=model.device)
        self.cache = KeyedCache(config, settings, model.device, helper, model.dtype, model_supports_logits_to_keep=True)
        self.cache.find = find
        self.scheduler = LaneScheduler(self.cache, settings.safety_margin, min(requests, step_tokens))
        self.scheduler.find = find
        self.processor = ContinuousBatchProcessor(
            cache=self.cache,
            config=config,
            generation_config=GenerationConfig(do_sample=False),
            continuous_batching_config=settings,
            logit_processor=nothing,
            input_queue=queue.Queue(),
            cancel_queue=queue.Queue(),
            output_router=Router(deliver),
            background_thread_status=BackgroundThreadStatus(),
            model_device=model.device,
            model_dtype=model.dtype,
            scheduler=self.scheduler,
            distributed_helper=helper,
        )
        self.runner = Runner(nothing, settings, self.processor.inputs_and_outputs, self.cache, False, False)
        self.runner.choose = choose
        self.processor.model_runner = self.runner

    @property
    def running(self) -> int:
        """Requests that have begun."""
        return len(self.scheduler.active_requests)

    @property
    def waiting(self) -> int:
        """Requests that have not."""
        return len(self.scheduler.waiting_requests)

    @property
    def capacity(self) -> int:
        """Tokens that the cache has room for."""
        return int(self.cache.num_blocks * self.processor.cb_config.page_size)

    @property
    def filled(self) -> float:
        """The share of the cache that is in use or kept for later requests with the same beginning."""
        return 1.0 - float(self.cache.compute_free_capacity())

    def add(self, request_id: str, prompt: list[int], limit: int, ends: list[int]) -> None:
        """Take a request into the queue."""
        state = RequestState(request_id, list(prompt), streaming=True, max_new_tokens=limit, eos_token_id=ends)
        self.scheduler.add_waiting_request(state)

    def cancel(self, request_id: str) -> None:
        """Take a request out. From the next step on it is in none."""
        self.scheduler.set_request_cancellation(request_id)

    @torch.inference_mode()
    def step(self) -> bool:
        """Run one step; False where there is nothing to do. Whatever goes wrong fails the requests it concerns."""
        try:
            if not self.processor.prepare_next_batch():
                return False
        except Exception as error:  # the scheduler's own state may be torn: begin anew, with no requests
            self.processor.fail_all_requests(error)
            self.processor.reset()
            raise
        batch: Any = self.processor.inputs_and_outputs
        chosen: list[FutureRequestState] = batch.requests_in_batch
        try:
            carried = [self.find(future.state.request_id) for future in chosen]
            self.cache.step = self._lay_out(chosen, carried)
            self.processor._generation_step(carried[0].lane or self.model)
        except Exception as error:
            for future in chosen:
                self.processor._handle_request_error(error, future.state)
                self.scheduler.finish_request(future.state.request_id)
            raise
        finally:
            self.cache.step = None
        self.processor.update_batch()
        return True

    def _lay_out(self, chosen: list[FutureRequestState], carried: list[Carried]) -> Step:
        lengths = [future.query_length for future in chosen]
        ends: dict[str, list[int]] = {}
        for kind, allocator in self.cache.cache_allocators.items():
            ends[kind], end = [], 0
            for future in chosen:  # position_offset counts this step's tokens already
                past = future.state.position_offset - future.query_length
                end += allocator.get_seqlen_k(past, future.query_length)
                ends[kind].append(end)
        shared = carried[0].lane is None
        packing = Packing(self.store, [c.placed for c in carried], lengths) if shared else None
        return Step(lengths, ends, packing if packing is not None and packing.layers else None)
