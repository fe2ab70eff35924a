"""Two replicas behind one address, the real `openai` client, and a replica that is killed under load."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import Live, start, stop, wait_until
from prometheus_client.parser import text_string_to_metric_families
from ray_processes import descendants, need_ray
from tiny_base import make_adapter

from zerogate.bases import base_path
from zerogate.inference import BASE, Engine, Sampling
from zerogate.serving.merged_metrics import merged

need_ray()
KEY, TOKENS = "secret", 120
QUESTION: Any = [{"role": "user", "content": "Where does the fox live?"}]
LONG: dict[str, Any] = {"max_tokens": TOKENS, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("replicas")
    make_adapter(root / "adapters" / "one", base_path("pocket"), seed=1)
    found = start(Path("pocket"), root / "adapters", root / "server.log", "--replicas", "2", key=KEY)
    yield found
    assert stop(found) == 0
    log = found.log.read_text()
    assert "Traceback" not in log, log
    assert descendants(os.getpid(), "ray::") == []


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0, timeout=300)


def call(live: Live, path: str, body: dict[str, Any] | None = None, method: str = "GET") -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(live.url + path, data, headers, method=method)) as answer:
        found: bytes = answer.read()
    return found


def health(live: Live) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(live, "/health"))
    return found


def metric(live: Live, name: str) -> dict[str, float]:
    """A metric's values by replica, or by nothing for one of the router."""
    families = text_string_to_metric_families(call(live, "/metrics").decode())
    return {s.labels.get("replica", ""): s.value for family in families for s in family.samples if s.name == name}


def test_the_same_interface(live: Live, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket", "one"]
    engine = Engine.load("pocket", {"one": live.adapters / "one"}, dtype="float32", device="cpu")
    for model, name in (("pocket", BASE), ("one", "one")):
        answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=12)
        alone = engine.ask(
            "Where does the fox live?", sampling=Sampling(temperature=0, max_new_tokens=12), adapter=name
        )
        assert answer.choices[0].message.content == alone.text
        chunks = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=12, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == alone.text

    with pytest.raises(openai.NotFoundError, match="There are: pocket, one"):
        client.chat.completions.create(model="three", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model="one", messages=QUESTION, max_tokens=-1)
    with pytest.raises(openai.AuthenticationError, match="none of the server's"):
        client.with_options(api_key="other").models.list()
    assert health(live) == {"status": "ok", "running": 0, "waiting": 0, "replicas": 2, "wanted": 2}


def test_adapters_in_every_replica(live: Live, client: openai.OpenAI) -> None:
    make_adapter(live.adapters / "late", base_path("pocket"), seed=2)
    names = [entry["id"] for entry in json.loads(call(live, "/v1/adapters/rescan", method="POST"))["data"]]
    assert {*names} == {"late", "one"}
    loaded = json.loads(call(live, "/v1/adapters/late/load", {"pinned": True}, method="POST"))
    assert loaded["state"] == "loaded" and loaded["pinned"]
    call(live, "/v1/adapters/one/unload", method="POST")
    assert metric(live, "zerogate_adapters") == {"0": 2, "1": 2}
    assert metric(live, "zerogate_adapters_loaded") == {"0": 1, "1": 1}


def test_a_stream_that_nobody_reads(live: Live, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="pocket", messages=QUESTION, stream=True, **LONG)
    next(iter(stream))
    stream.close()
    wait_until(lambda: metric(live, "zerogate_running") == {"0": 0, "1": 0})
    text = call(live, "/metrics").decode()
    assert 'outcome="gone"' in text


def test_a_replica_is_killed(live: Live, client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "late", "messages": QUESTION, **LONG}
    known = client.chat.completions.create(temperature=0, **settings).choices[0].message.content

    def ask(number: int) -> str:
        if number % 4 == 0:
            try:
                chunks = list(client.chat.completions.create(temperature=0, stream=True, **settings))
            except openai.APIError as error:
                assert "The replica that answered has died" in error.message
                return "cut"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == known
            return "streamed"
        sampled = number % 4 == 1  # without a seed, so that it is another answer the second time
        answer = client.chat.completions.create(temperature=1.0 if sampled else 0, **settings)
        assert answer.usage is not None and answer.usage.completion_tokens == TOKENS
        assert sampled or answer.choices[0].message.content == known
        return "answered"

    replicas = descendants(live.process.pid, "ray::ServeReplica")
    assert len(replicas) == 2
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, number) for number in range(16)]
        wait_until(lambda: min(metric(live, "zerogate_running").values()) >= 2)
        os.kill(replicas[0], signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert answers.count("answered") == 12
    assert "cut" in answers  # some of those it had begun

    wait_until(lambda: health(live)["replicas"] == 2, 300)
    assert metric(live, "zerogate_requests_retried_total")[""] >= 1
    # The new one has the pinned adapter, too, which it was told of.
    wait_until(lambda: metric(live, "zerogate_adapters_loaded") == {"0": 1, "1": 1}, 60)
    with ThreadPoolExecutor(8) as pool:
        assert len([pool.submit(ask, 1).result() for _ in range(8)]) == 8
    assert len(metric(live, "zerogate_requests_total")) == 2


def test_metrics_of_several() -> None:
    one = (
        "# HELP a_total A.\n# TYPE a_total counter\na_total{model=\"x\"} 3.0\n"
        "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1.0\nh_count 1.0\nh_sum 0.5\n"
    )  # fmt: skip
    text = merged({1: one, 0: one.replace("3.0", "4.0")}, live=2, wanted=3, retried=5).decode()
    for line in (
        'a_total{model="x",replica="0"} 4.0',
        'a_total{model="x",replica="1"} 3.0',
        'h_bucket{le="+Inf",replica="1"} 1.0',
        "zerogate_replicas 2.0",
        "zerogate_replicas_wanted 3.0",
        "zerogate_requests_retried_total 5.0",
    ):
        assert line in text.splitlines()
    assert text.count("# TYPE a_total counter") == 1
