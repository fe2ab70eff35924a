"""The engine, in process: a request's answer in a mixed batch is the one it gets alone, token for token (fp32)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_base import lora, make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, MistralConfig, Qwen3Config

from zerogate import BottleneckConfig, ZeroInitConfig
from zerogate.adapters.attention import prompt_attention
from zerogate.bases import load_base
from zerogate.errors import UserError
from zerogate.inference import BASE, Sampling
from zerogate.inference import Engine as Alone
from zerogate.serving.engine import Engine, Event, Job
from zerogate.serving.pool import AdapterPool, Held, NoRoomError, written_out
from zerogate.serving.prompts import Packing, PromptStore
from zerogate.serving.sampling import Choice, choose
from zerogate.vision.images import open_image
from zerogate.vision.source import source_from

GREEDY = Sampling(temperature=0, max_new_tokens=12)
PREFIX = "Below is an instruction that describes it. " * 4  # several pages of the cache


class Run:
    """An engine with a pool, and what came out of it."""

    def __init__(self, base: Path, folder: Path | None = None, **options: Any) -> None:
        model, self.tokenizer = load_base(str(base), dtype="float32", device="cpu")
        self.events: dict[str, list[Event]] = {}
        self.ended: dict[str, threading.Event] = {}
        settings = {"streams": 16, "step_tokens": 64} | {k: v for k, v in options.items() if k != "budget"}
        self.engine = Engine(model, self.deliver, **settings)
        self.pool = AdapterPool(self.engine, str(base), options.get("budget", 2**26), patience=0.2)
        if folder is not None:
            self.pool.scan(folder)
        self.engine.start()
        self.count = 0

    def deliver(self, events: list[tuple[Job, Event]]) -> None:
        for job, event in events:
            self.events[job.id].append(event)
            if event.finish is not None:
                self.ended[job.id].set()

    def job(self, prompt: list[int], adapter: str = BASE, sampling: Sampling = GREEDY, **more: Any) -> Job:
        """A request, its adapter held until it ends."""
        held = None if adapter == BASE else self.pool.hold(adapter)
        self.count += 1
        name = f"{self.count}"
        self.events[name], self.ended[name] = [], threading.Event()
        choice = Choice(sampling, prompt=prompt, **more)
        job = Job(name, prompt, sampling.max_new_tokens, [1], choice)
        if held is not None:
            job.placed, job.key, job.lane = held.placed, held.key, held.lane
            job.release = lambda held=held: self.pool.release(held)  # type: ignore[misc]
        return job

    def ids(self, *jobs: Job) -> list[list[int]]:
        """Runs jobs together; their new tokens."""
        for job in jobs:
            self.engine.submit(job)
        for job in jobs:
            assert self.ended[job.id].wait(60), "it never ended"
        return [[t for event in self.events[job.id] for t in event.tokens] for job in jobs]

    def prompt(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("serving")
    base = make_base(root / "base")
    folder = root / "adapters"
    make_adapter(folder / "one", base, seed=1)
    make_adapter(folder / "two", base, seed=2)
    longer = ZeroInitConfig(prompt_length=9, num_layers=2, task_type="CAUSAL_LM")
    make_adapter(folder / "three", base, seed=3, config=longer)
    make_adapter(folder / "low", base, seed=4, config=lora())
    parallel = BottleneckConfig(bottleneck_size=4, target_modules=["down_proj"], position="parallel")
    make_adapter(folder / "side", base, seed=5, config=parallel)
    make_seeing_adapter(folder / "eye", base, make_eye(root / "eye"), seed=6)
    vanilla = ZeroInitConfig(prompt_length=4, attention="vanilla", task_type="CAUSAL_LM")
    make_adapter(folder / "vanilla", base, seed=7, config=vanilla)
    make_adapter(folder / "foreign", make_base(root / "other", hidden=64), seed=8)
    make_adapter(folder / "base", base, seed=8)  # the base's own name
    broken = make_adapter(folder / "broken", base, seed=9)
    (broken / "adapter_model.safetensors").write_bytes(b"not a tensor in it")
    make_adapter(folder / "diverged", base, seed=9)
    weights = folder / "diverged" / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(weights).items()}, weights)
    pickled = make_adapter(folder / "pickled", base, seed=9)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    (folder / "empty").mkdir()
    return {"base": base, "adapters": folder, "root": root}


@pytest.fixture(scope="module")
def run(places: dict[str, Path]) -> Iterator[Run]:
    run = Run(places["base"], places["adapters"])
    yield run
    run.engine.stop()


@pytest.fixture(scope="module")
def alone(places: dict[str, Path]) -> dict[str, Alone]:
    """An inference engine for each adapter: another path through other code."""
    names = ("one", "two", "three", "low", "side", "eye")
    return {
        n: Alone.load(str(places["base"]), {n: places["adapters"] / n}, dtype="float32", device="cpu") for n in names
    }


def by_itself(alone: dict[str, Alone], name: str, prompt: list[int], sampling: Sampling = GREEDY) -> list[int]:
    if name == BASE:
        return alone["one"].answer([prompt], sampling, [BASE])[0].ids
    return alone[name].answer([prompt], sampling, [name])[0].ids


def test_each_answer_is_the_one_it_gets_alone(run: Run, alone: dict[str, Alone]) -> None:
    """Adapters of different lengths and layers, of different methods, and the base; short and long prompts."""
    names = ["one", BASE, "two", "low", "three", "one", "side", "eye", BASE, "low", "two"]
    prompts = [run.prompt(f"{PREFIX * (i % 3)}Where does number {i} live?") for i in range(len(names))]
    assert max(map(len, prompts)) > 64, "one prompt is read in several steps"
    together = run.ids(*(run.job(prompt, name) for name, prompt in zip(names, prompts, strict=True)))
    for name, prompt, ids in zip(names, prompts, together, strict=True):
        assert ids == by_itself(alone, name, prompt), name
    assert len({tuple(ids) for ids in together}) > 6


def test_a_common_beginning_is_shared_among_one_adapters_requests_alone(run: Run, alone: dict[str, Alone]) -> None:
    """The pages of a prefix hold keys and values of one adapter; another's request must not get them."""
    prompt = run.prompt(PREFIX + "Where does the fox live?")
    names = ["one", "two", BASE, "three"]
    wanted = [by_itself(alone, name, prompt) for name in names]
    assert len({tuple(ids) for ids in wanted}) == 4
    assert run.ids(*(run.job(prompt, name) for name in names)) == wanted  # together
    shared: list[int] = []
    real = run.engine.batch.cache.search_prefix_match

    def watched(request_id: str, prompt_ids: list[int]) -> int:
        shared.append(real(request_id, prompt_ids))
        return shared[-1]

    run.engine.batch.cache.search_prefix_match = watched  # type: ignore[method-assign]
    try:
        assert run.ids(*(run.job(prompt, name) for name in names)) == wanted  # after one another
    finally:
        del run.engine.batch.cache.search_prefix_match
    assert all(tokens >= 16 for tokens in shared), "the pages of the first round were used"


def test_a_reloaded_adapter_shares_nothing_with_what_it_was(run: Run, places: dict[str, Path], tmp_path: Path) -> None:
    folder = places["adapters"] / "changing"
    make_adapter(folder, places["base"], seed=20)
    run.pool.scan()
    prompt = run.prompt(PREFIX + "Where?")
    slow = run.job(prompt, "changing", Sampling(temperature=0, max_new_tokens=60))
    slow.ends = []
    before = run.ids(run.job(prompt, "changing"))[0]
    run.engine.submit(slow)
    make_adapter(folder, places["base"], seed=21)
    run.pool.release(run.pool.load("changing", again=True))
    after = run.ids(run.job(prompt, "changing"))[0]
    assert before != after
    assert run.ended[slow.id].wait(60)
    ids = [t for event in run.events[slow.id] for t in event.tokens]
    assert ids[: len(before)] == before, "what was under way ends with the version it began with"
    run.pool.unload("changing")
    assert run.pool.entries["changing"].state == "available"
    assert run.ids(run.job(prompt, "changing"))[0] == after, "asked for again, it is loaded again"


def test_images_share_the_batch(run: Run, alone: dict[str, Alone], places: dict[str, Path]) -> None:
    colours = ("red", "blue", "green", "black", "white")
    pictures = [source_from(make_picture(places["root"] / f"{c}.png", c), Path()) for c in colours]
    prompt = run.prompt(PREFIX + "What is it?")
    shown = [*([picture] for picture in pictures), [], pictures[:3], pictures]
    wanted = [alone["eye"].answer([prompt], GREEDY, ["eye"], images=[images])[0].ids for images in shown]
    jobs = []
    for images in shown:
        job = run.job(prompt, "eye", top=0)
        if images:
            held: Held = run.pool.hold("eye")
            assert held.twin is not None and held.sees
            encoder = alone["eye"].encoders.encoder("eye")
            features = encoder.features([open_image(image) for image in images])
            written = written_out(held.twin.base_model, features)  # type: ignore[arg-type]
            job.placed = run.engine.call(lambda written=written: run.engine.store.put(written)).result()
            job.key = job.key + b",".join(image.digest.encode() for image in images)
            run.pool.release(held)
        jobs.append(job)
    together = run.ids(*jobs, run.job(prompt, "one"))
    assert together[:-1] == wanted
    assert len({job.choice.told[0].logprob for job in jobs}) == len(jobs), "every picture makes a difference"
    assert together[-1] == by_itself(alone, "one", prompt)


def test_a_seed_gives_what_generate_gives(run: Run, alone: dict[str, Alone]) -> None:
    wild = Sampling(temperature=1.5, top_p=0.95, top_k=40, repetition_penalty=1.2, seed=7, max_new_tokens=12)
    prompts = [run.prompt(f"Number {i}") for i in range(3)]
    together = run.ids(*(run.job(p, n, wild) for p, n in zip(prompts, ("one", "two", BASE), strict=True)))
    for ids, prompt, name in zip(together, prompts, ("one", "two", BASE), strict=True):
        assert ids == by_itself(alone, name, prompt, wild)


def test_scores_that_are_no_numbers_stay_one_requests_affair() -> None:
    generator = torch.Generator().manual_seed(0)
    choices = [Choice(Sampling(temperature=1.0, top_p=1.0), seeded=False, top=1) for _ in range(3)]
    scores = torch.randn(3, 20)
    scores[1] = torch.nan
    scores[2, 4] = torch.inf
    tokens = choose(choices, scores, generator)
    assert tokens.shape == (3,) and int(tokens[2]) == 4


def test_likelihoods_bias_and_penalties(run: Run) -> None:
    prompt = run.prompt("Where does the fox live?")
    job = run.job(prompt, "one", top=3)
    ids = run.ids(job)[0]
    worth = [w for event in run.events[job.id] for w in event.likelihoods]
    assert [w.top[0][0] for w in worth] == ids, "greedy takes the likeliest"
    assert all(w.logprob == pytest.approx(w.top[0][1]) and w.logprob <= 0 for w in worth)
    forced = run.ids(run.job(prompt, "one", bias={77: 1000.0}))[0]
    assert set(forced) == {77}
    once = run.ids(run.job(prompt, "one", bias={77: 1000.0}, presence=2000.0))[0]
    assert once.count(77) == 1
    unseeded = run.ids(*(run.job(prompt, "one", Sampling(temperature=2.0, top_p=1.0), seeded=False) for _ in range(2)))
    assert unseeded[0] != unseeded[1]


def test_cancelled_requests_leave_and_the_rest_stay(run: Run, alone: dict[str, Alone]) -> None:
    prompt = run.prompt("Where does the fox live?")
    gone, stays = run.job(prompt, "one", Sampling(temperature=0, max_new_tokens=200)), run.job(prompt, "two")
    gone.ends = []
    run.engine.submit(gone)
    run.engine.cancel(gone)
    assert run.ids(stays)[0] == by_itself(alone, "two", prompt)
    run.engine.call(lambda: None).result(10)
    assert not run.engine.jobs and run.engine.batch.running == 0
    assert not run.ended[gone.id].is_set()
    assert all(held.users == 0 for held in run.pool.loaded), "every adapter was let go"


def test_a_step_that_fails_fails_its_own_requests_only(run: Run, alone: dict[str, Alone]) -> None:
    prompt = run.prompt("Where does the fox live?")
    bad = run.job(prompt, "one")
    bad.lane = torch.nn.Identity()  # a lane that cannot run
    good = run.job(prompt, "two")
    for job in (bad, good):
        run.engine.submit(job)
    assert run.ended[bad.id].wait(30) and run.ended[good.id].wait(30)
    assert run.events[bad.id][-1].finish == "error"
    assert [t for e in run.events[good.id] for t in e.tokens] == by_itself(alone, "two", prompt)
    assert run.engine.alive


def test_what_cannot_be_served_is_listed_with_the_reason(run: Run) -> None:
    problems = {name: entry.problem for name, entry in run.pool.entries.items() if entry.problem}
    reasons = {
        "vanilla": "vanilla", "foreign": "another base", "broken": "safetensors", "pickled": "pickle",
        "empty": "adapter_config.json", "base": "name of the base",
    }  # fmt: skip
    assert problems.keys() == reasons.keys()
    assert all(reason in problems[name] for name, reason in reasons.items()), problems
    for name in reasons:
        with pytest.raises(KeyError):
            run.pool.hold(name)


def test_an_adapter_whose_training_diverged_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="NaN"):
        run.pool.hold("diverged")
    assert run.pool.entries.pop("diverged").state == "broken"


def test_an_adapter_that_breaks_on_the_disk_keeps_its_loaded_version(run: Run, places: dict[str, Path]) -> None:
    folder = make_adapter(places["adapters"] / "fragile", places["base"], seed=30)
    run.pool.scan()
    prompt = run.prompt("Where?")
    before = run.ids(run.job(prompt, "fragile"))
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match="safetensors"):
        run.pool.load("fragile", again=True)
    assert run.ids(run.job(prompt, "fragile")) == before
    run.pool.unload("fragile")
    with pytest.raises(UserError, match="safetensors"):
        run.pool.hold("fragile")
    assert "safetensors" in run.pool.entries["fragile"].problem
    weights.write_bytes(whole)
    run.pool.scan()
    assert run.ids(run.job(prompt, "fragile")) == before, "mended and looked for again, it serves again"


def test_a_scan_leaves_named_adapters_alone(places: dict[str, Path], tmp_path: Path) -> None:
    root, base = tmp_path / "root", places["base"]
    make_adapter(root / "fox" / "best", base, seed=1)
    make_adapter(root / "sums", base, seed=2)
    last = make_adapter(root / "fox" / "last", base, seed=3)
    run = Run(base, root)
    try:
        run.pool.add({"fox": last, "mine": root / "sums"})
        wanted = {"fox": last, "mine": root / "sums", "sums": root / "sums"}
        weights = last / "adapter_model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:100])
        for mended in (False, True):
            run.pool.scan()
            assert {name: entry.folder for name, entry in run.pool.entries.items()} == wanted
            assert bool(run.pool.entries["fox"].problem) is not mended
            weights.write_bytes(whole)
        run.pool.release(run.pool.hold("mine"))
        (root / "sums").rename(tmp_path / "away")
        run.pool.scan()
        assert run.pool.entries.keys() == {"fox", "mine"} and run.pool.entries["mine"].state == "loaded"
        run.pool.unload("mine")
        run.pool.scan()
        assert run.pool.entries["mine"].state == "broken"
    finally:
        run.engine.stop()


def test_a_scan_during_a_load_loses_nothing(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(places["base"], places["adapters"])
    pool, read, scans = run.pool, run.pool._read, list[threading.Thread]()

    def reading(*words: Any) -> Any:
        found = read(*words)
        scans.append(threading.Thread(target=pool.scan))
        scans[-1].start()
        scans[-1].join(1)  # as far as it gets
        return found

    monkeypatch.setattr(pool, "_read", reading)
    try:
        pool.release(pool.load("one"))
        scans[0].join(30)
        assert not scans[0].is_alive() and pool.entries["one"].state == "loaded"
        pool.unload("one")
        run.engine.call(lambda: None).result(10)
        assert not pool.loaded and run.engine.store.size - 1 == len(run.engine.store.free), "no row of the store leaks"
    finally:
        run.engine.stop()


def test_the_least_recently_used_goes_first_and_pinned_ones_stay(places: dict[str, Path]) -> None:
    run = Run(places["base"], places["adapters"])
    try:
        pool = run.pool
        for name in ("one", "two"):
            pool.release(pool.hold(name))
        size = pool.loaded[0].size
        assert size == pool.loaded[1].size
        pool.budget = 2 * size + size // 2
        pool.pin("one")
        pool.release(pool.hold("two"))
        make_adapter(places["adapters"] / "four", places["base"], seed=40)
        pool.scan()
        pool.release(pool.hold("four"))
        assert sorted(held.name for held in pool.loaded) == ["four", "one"]
        held = pool.hold("four")
        with pytest.raises(NoRoomError, match="in use or pinned"):
            pool.hold("two")
        pool.release(held)
        pool.release(pool.hold("two"))
        assert sorted(held.name for held in pool.loaded) == ["one", "two"]
        assert pool.evicted == 2
        pool.budget = size // 2
        with pytest.raises(UserError, match="all adapters together may take"):
            pool.hold("four")
        run.engine.call(lambda: None).result(10)
        used = run.engine.store.size - 1 - len(run.engine.store.free)
        assert used == sum(len(h.placed.rows) for h in pool.loaded if h.placed is not None), "no row of the store leaks"
    finally:
        run.engine.stop()


def test_more_than_the_cache_holds_is_computed_again(places: dict[str, Path], alone: dict[str, Alone]) -> None:
    """Eight long requests in a cache for three: some are put off, read anew and go on, and nobody's answer changes."""
    layers, width = 4, 2 * 16  # keys and values of two heads of eight
    run = Run(places["base"], places["adapters"], cache_bytes=700 * layers * width * 4, streams=8)
    try:
        sampling = Sampling(temperature=0, max_new_tokens=64)
        prompts = [run.prompt(f"{i} " + PREFIX) for i in range(8)]
        assert 8 * (len(prompts[0]) + 64) > 1.5 * run.engine.batch.capacity
        put_off: list[int] = []
        manager = run.engine.batch.processor.offloading_manager
        real = manager.offload_requests
        manager.offload_requests = lambda: put_off.append(1) or real()  # type: ignore[func-returns-value]
        jobs = [run.job(prompt, "one" if i % 2 else "two", sampling) for i, prompt in enumerate(prompts)]
        for job in jobs:
            job.ends = []
        for i, ids in enumerate(run.ids(*jobs)):
            wanted = by_itself(alone, "one" if i % 2 else "two", prompts[i], sampling)
            assert ids[: len(wanted)] == wanted and len(ids) == 64
        assert put_off, "it was never full"
    finally:
        run.engine.stop()


def test_stopping_finishes_what_runs(places: dict[str, Path], alone: dict[str, Alone]) -> None:
    run = Run(places["base"], places["adapters"])
    prompt = run.prompt("Where does the fox live?")
    jobs = [run.job(prompt, name) for name in ("one", "two", BASE)]
    for job in jobs:
        run.engine.submit(job)
    run.engine.stop(drain=True)
    for job, name in zip(jobs, ("one", "two", BASE), strict=True):
        assert [t for e in run.events[job.id] for t in e.tokens] == by_itself(alone, name, prompt)
    assert run.engine.model.config._attn_implementation == "sdpa", "the model is given back as it came"


def tiny(kind: type, **more: Any) -> Any:
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "eos_token_id": 1,
             "initializer_range": 0.2}  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**{**sizes, **more}), dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: tiny(MistralConfig, sliding_window=12), id="sliding window"),
        pytest.param(lambda: tiny(Gemma2Config, sliding_window=12), id="capped scores, two kinds of layers"),
        pytest.param(lambda: tiny(GemmaConfig, num_key_value_heads=1), id="one key head"),
        pytest.param(lambda: tiny(Qwen3Config, num_key_value_heads=4), id="a key head for each, QK-norm"),
    ],
)
def test_other_families(model: Any) -> None:
    """Greedy generation by transformers itself against the batch, over window and page borders."""
    base = model()
    prompts = [[5 + i, *range(10, 10 + 9 * i + 1)] for i in range(4)]
    wanted = [
        base.generate(torch.tensor([p]), max_new_tokens=24, do_sample=False, pad_token_id=2)[0, len(p) :].tolist()
        for p in prompts
    ]
    found: dict[str, list[int]] = {}
    left = threading.Semaphore(0)

    def deliver(events: list[tuple[Job, Event]]) -> None:
        for job, event in events:
            found.setdefault(job.id, []).extend(event.tokens)
            if event.finish:
                left.release()

    engine = Engine(base, deliver, streams=4, step_tokens=16)
    engine.start()
    for i, prompt in enumerate(prompts):
        engine.submit(Job(str(i), prompt, 24, [1], Choice(GREEDY)))
    for _ in prompts:
        assert left.acquire(timeout=60)
    engine.stop()
    assert [found[str(i)] for i in range(4)] == wanted


def test_the_packed_sum_is_equation_7_for_each_token() -> None:
    H, G, D, T = 4, 2, 8, 23
    store = PromptStore(torch.device("cpu"), torch.float32)
    written = [{0: (torch.randn(G, k, D), torch.randn(G, k, D), torch.randn(H))} for k in (3, 7, 5)]
    places = [store.put(w) for w in written]
    lengths, owners = [1, 9, 1, 1, 6, 5], [0, None, 1, 0, 2, 1]
    assert sum(lengths) == T
    packing = Packing(store, [None if o is None else places[o] for o in owners], lengths)
    q, out = torch.randn(1, H, T, D), torch.randn(T, H, D)
    for softcap in (None, 5.0):
        got, start = packing.add_to(out.clone(), 0, q, 0.3, softcap), 0
        for owner, length in zip(owners, lengths, strict=True):
            part = slice(start, start + length)
            expected = out[part]
            if owner is not None:
                k, v, gate = written[owner][0]
                v = v.repeat_interleave(H // G, 0) * gate[:, None, None]
                expected = expected + prompt_attention(q[:, :, part], k, v, 0.3, softcap)[0]
            torch.testing.assert_close(got[part], expected, rtol=1e-5, atol=1e-5)
            if owner is None:
                assert torch.equal(got[part], expected), "the base gets exactly nothing"
            start += length
