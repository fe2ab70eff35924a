"""The real `openai` client against a real server process."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import TOOL, Live, start, stop, wait_until
from prometheus_client.parser import text_string_to_metric_families
from tiny_base import make_adapter
from tiny_eye import make_picture

from zerogate.inference import BASE, Engine, Sampling
from zerogate.vision.source import source_from

QUESTION: Any = [{"role": "user", "content": "Where does the fox live?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def alone(live: Live) -> Callable[..., str]:
    """What `zerogate generate` answers with one adapter: (name, question, ...) -> text."""
    engines: dict[str, Engine] = {}

    def ask(name: str, question: str, sampling: Sampling | None = None, **more: Any) -> str:
        loaded = "one" if name == BASE else name
        if loaded not in engines:
            engines[loaded] = Engine.load(
                str(live.base), {loaded: live.adapters / loaded}, dtype="float32", device="cpu"
            )
        sampling = sampling or Sampling(temperature=0, max_new_tokens=12)
        return engines[loaded].ask(question, sampling=sampling, adapter=name, **more).text

    return ask


def metrics(live: Live) -> dict[tuple[str, ...], float]:
    """(name, label values...) -> value."""
    with urllib.request.urlopen(f"{live.url}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_models(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"tiny", "one", "two", "low", "eye", "caller"} <= names
    assert not names & {"broken", "pickled"}
    assert client.models.retrieve("one").id == "one"
    with pytest.raises(openai.NotFoundError, match="The model 'owner/name' does not exist"):  # bases of the Hub
        client.models.retrieve("owner/name")


@pytest.mark.parametrize("name", ["one", "two", "low", "tiny"])
def test_chat_is_what_generate_says(client: openai.OpenAI, alone: Callable[..., str], name: str) -> None:
    answer = client.chat.completions.create(model=name, messages=QUESTION, **GREEDY)
    wanted = alone(BASE if name == "tiny" else name, "Where does the fox live?")
    assert answer.choices[0].message.content == wanted
    assert answer.model == name and answer.object == "chat.completion"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None and answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_answer_piece_by_piece(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="one", messages=QUESTION, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            model="one", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len(chunks) > 4 and len({c.id for c in chunks}) == 1


def test_many_at_once_over_all_adapters_are_each_their_own(client: openai.OpenAI, alone: Callable[..., str]) -> None:
    names = ["one", "two", "low", "tiny"]
    questions = [f"What is number {i}?" for i in range(6)]
    jobs = [(name, question) for question in questions for name in names]
    wanted = [alone(BASE if name == "tiny" else name, question) for name, question in jobs]

    def ask(job: tuple[str, str]) -> str:
        messages: Any = [{"role": "user", "content": job[1]}]
        stream = client.chat.completions.create(model=job[0], messages=messages, stream=True, **GREEDY)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(ask, jobs)) == wanted


def test_stop_strings_end_an_answer(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(model="one", messages=QUESTION, **GREEDY).choices[0].message.content or ""
    stop = text[4:7]
    for stream in (False, True):
        given: Any = client.chat.completions.create(
            model="one", messages=QUESTION, stop=[stop], stream=stream, **GREEDY
        )
        chunks = list(given) if stream else []
        said = "".join(c.choices[0].delta.content or "" for c in chunks) if stream else given.choices[0].message.content
        finish = chunks[-1].choices[0].finish_reason if stream else given.choices[0].finish_reason
        assert said == text[: text.index(stop)] and finish == "stop"


def test_an_answer_goes_back_as_the_client_dumps_it(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="one", messages=QUESTION, **GREEDY).choices[0].message
    messages: Any = [*QUESTION, said.model_dump(), {"role": "user", "content": "And then?"}]
    assert client.chat.completions.create(model="one", messages=messages, **GREEDY).choices


def test_seeds_and_several_answers(client: openai.OpenAI, alone: Callable[..., str]) -> None:
    wild: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 12, "seed": 5}
    answer = client.chat.completions.create(model="two", messages=QUESTION, n=3, **wild)
    texts = [choice.message.content for choice in answer.choices]
    for i, text in enumerate(texts):
        sampling = Sampling(temperature=1.5, top_p=0.95, max_new_tokens=12, seed=5 + i)
        assert text == alone("two", "Where does the fox live?", sampling)
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(model="two", messages=QUESTION, n=3, stream=True, **wild):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="one", messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert len(content) == answer.usage.completion_tokens  # type: ignore[union-attr]
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token for token in content)
    flat = client.completions.create(model="one", prompt="The fox", logprobs=2, temperature=0, max_tokens=4)
    assert flat.choices[0].logprobs is not None
    assert len(flat.choices[0].logprobs.token_logprobs or []) == 4


def test_completions_take_texts_and_token_ids(client: openai.OpenAI) -> None:
    texts = client.completions.create(model="one", prompt=["The fox", "A den"], temperature=0, max_tokens=6)
    assert [choice.index for choice in texts.choices] == [0, 1]
    single = client.completions.create(model="one", prompt="A den", temperature=0, max_tokens=6)
    assert single.choices[0].text == texts.choices[1].text
    ids = [0, *range(40, 52)]
    by_ids = client.completions.create(model="one", prompt=ids, temperature=0, max_tokens=6)
    assert by_ids.usage is not None and by_ids.usage.prompt_tokens == len(ids)
    stream = client.completions.create(
        model="one", prompt=["The fox", "A den"], temperature=0, max_tokens=6, stream=True
    )
    said = ["", ""]
    for chunk in stream:
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == [choice.text for choice in texts.choices]


def test_images(client: openai.OpenAI, alone: Callable[..., str], tmp_path: Path) -> None:
    told = set()
    for colour in ("red", "blue"):
        picture = make_picture(tmp_path / f"{colour}.png", colour)
        url = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        messages: Any = [{"role": "user", "content": parts}]
        answer = client.chat.completions.create(model="eye", messages=messages, logprobs=True, **GREEDY)
        assert answer.choices[0].message.content == alone("eye", "What is it?", images=[source_from(picture, Path())])
        told.add(answer.choices[0].logprobs.content[0].logprob)  # type: ignore[union-attr, index]
        with pytest.raises(openai.BadRequestError, match="takes no images"):
            client.chat.completions.create(model="one", messages=messages)
    assert len(told) == 2, "the picture makes a difference"


def test_tools(client: openai.OpenAI) -> None:
    tools: Any = [TOOL]
    messages: Any = [{"role": "user", "content": "Add 2."}]
    asked: dict[str, Any] = {"model": "caller", "messages": messages, "temperature": 0, "max_tokens": 60}
    answer = client.chat.completions.create(tools=tools, **asked)
    assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "add" and json.loads(call.function.arguments) == {}
    chunks = list(client.chat.completions.create(tools=tools, stream=True, **asked))
    assert not any(chunk.choices[0].delta.content for chunk in chunks), "nothing of a call is shown as text"
    deltas: Any = [d for chunk in chunks for d in chunk.choices[0].delta.tool_calls or []]
    assert json.loads(deltas[0].function.arguments) == {} and chunks[-1].choices[0].finish_reason == "tool_calls"
    then: Any = [
        *messages,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "4"},
    ]
    assert client.chat.completions.create(model="one", messages=then, tools=tools, **GREEDY).choices
    plain = client.chat.completions.create(model="caller", messages=messages, tools=tools, tool_choice="none", **GREEDY)
    assert plain.choices[0].message.tool_calls is None


def test_adapters_come_and_go_while_requests_run(client: openai.OpenAI, live: Live) -> None:
    def call(method: str, path: str) -> Any:
        request = urllib.request.Request(f"{live.url}/v1/adapters{path}", method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    make_adapter(live.adapters / "late", live.base, seed=50)
    assert "late" not in {entry["id"] for entry in call("GET", "")["data"]}
    states = {entry["id"]: entry for entry in call("POST", "/rescan")["data"]}
    assert states["late"]["state"] == "available" and states["broken"]["state"] == "broken"
    assert "pickle" in states["pickled"]["problem"]
    assert call("POST", "/late/load")["state"] == "loaded"
    long: dict[str, Any] = {"model": "late", "messages": QUESTION, "temperature": 0, "max_tokens": 120}
    before = client.chat.completions.create(**long, extra_body={"ignore_eos": True}).choices[0].message.content
    stream = client.chat.completions.create(**long, extra_body={"ignore_eos": True}, stream=True)
    said = next(iter(stream)).choices[0].delta.content or ""
    make_adapter(live.adapters / "late", live.base, seed=51)
    assert call("POST", "/late/reload")["loads"] == 2
    assert call("POST", "/late/unload")["state"] == "available"
    said += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == before, "it was under way, and stays with what it began with"
    after = client.chat.completions.create(**long, extra_body={"ignore_eos": True}).choices[0].message.content
    assert after != before


def test_who_hangs_up_is_cancelled(client: openai.OpenAI, live: Live) -> None:
    gone = metrics(live).get(("zerogate_requests_total", "one", "gone"), 0)
    long: dict[str, Any] = {"model": "one", "messages": QUESTION, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    stream = client.chat.completions.create(stream=True, **long)
    next(iter(stream))
    stream.close()
    impatient = client.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(n=4, **long)
    wait_until(lambda: metrics(live)[("zerogate_running",)] == 0)
    assert metrics(live)[("zerogate_requests_total", "one", "gone")] == gone + 2


def test_too_many_get_429_and_the_rest_an_answer(client: openai.OpenAI, live: Live) -> None:
    statuses: list[int] = []
    lock = threading.Lock()

    def ask(_: int) -> None:
        try:
            client.chat.completions.create(model="two", messages=QUESTION, n=2, max_tokens=100, seed=1)
            status = 200
        except openai.RateLimitError as error:
            assert error.response.headers["retry-after"] == "1"
            status = 429
        with lock:
            statuses.append(status)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(16)))
    assert set(statuses) == {200, 429} and statuses.count(200) >= 6
    assert client.chat.completions.create(model="two", messages=QUESTION, **GREEDY).choices


def test_metrics(client: openai.OpenAI, live: Live) -> None:
    before = metrics(live)
    client.chat.completions.create(model="one", messages=QUESTION, **GREEDY)
    after = metrics(live)

    def grew(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew("zerogate_requests_total", "one", "answered") == 1
    assert 1 <= grew("zerogate_tokens_total", "one") <= 12
    assert grew("zerogate_time_to_first_token_seconds_count") == 1
    assert grew("zerogate_steps_total") >= 1
    assert after["zerogate_up",] == 1 and after["zerogate_queue",] == 0 and after["zerogate_tokens_per_second",] > 0
    assert after["zerogate_adapters_loaded",] >= 1 and after["zerogate_adapter_bytes",] > 0


@pytest.fixture
def guarded(made: tuple[Path, Path], tmp_path: Path) -> Iterator[Live]:
    found = start(*made, tmp_path / "log", "--preload", "one", "--cors", "https://page.example", key="secret other")
    yield found
    found.process.kill()


def test_keys_cors_and_a_stop_that_loses_nothing(guarded: Live) -> None:
    for key in ("wrong", "secre", ""):
        with pytest.raises((openai.AuthenticationError, openai.APIConnectionError)):
            openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key or "-", max_retries=0).models.list()
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="other", max_retries=0, timeout=60)
    assert "one" in {model.id for model in client.models.list()}
    with urllib.request.urlopen(f"{guarded.url}/health") as answer:
        assert json.loads(answer.read())["status"] == "ok"
    request = urllib.request.Request(f"{guarded.url}/health", headers={"Origin": "https://page.example"})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
    request.add_header("Origin", "https://other.example")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    long: dict[str, Any] = {"messages": QUESTION, "temperature": 0, "max_tokens": 120}
    body: dict[str, Any] = {"extra_body": {"ignore_eos": True}}
    wanted = client.chat.completions.create(model="one", **long, **body).choices[0].message.content

    def ask(stream: bool) -> str:
        given: Any = client.chat.completions.create(model="one", stream=stream, **long, **body)
        if not stream:
            return str(given.choices[0].message.content)
        return "".join(chunk.choices[0].delta.content or "" for chunk in given)

    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(ask, bool(i % 2)) for i in range(4)]
        wait_until(lambda: _running(guarded) == 4)
        assert stop(guarded) == 0
        assert [answer.result() for answer in answers] == [wanted] * 4


def _running(live: Live) -> int:
    with urllib.request.urlopen(f"{live.url}/health") as answer:
        return int(json.loads(answer.read())["running"])
