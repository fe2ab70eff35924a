"""Load on a real server: many streams over many adapters. Is an answer lost or another adapter's, and how fast is it?

    python benchmarks/serve_load.py --streams 200 --adapters 50 --seconds 600          # lost, mixed up, memory
    python benchmarks/serve_load.py --compare --streams 64 --seconds 8                 # mixed batch against plain base

Fifty zero-init adapters of the embedded base are made, every number of them random. What such an adapter answers to a
question is its own: no other adapter, nor the base, says the same, and nobody could guess it. Before the load each is
asked each question alone, greedily, and the whole text is kept; a question counts for an adapter if the two likeliest
tokens are never closer than `MARGIN` in log-probability (sums in another order may tip a closer choice), and if the
text is nobody else's. Under load the same questions must bring the same texts, to the letter.

Random adapters are chosen over trained ones because the check is harder: fifty trained adapters that know one word each
would pass as long as that word comes, whatever became of the rest.

`--compare` sends the same prompts, with the same number of new tokens, to the adapters and to the plain base, in turn,
many times over, so that a slow spell of the machine meets both. There every question carries a number of its own: it
has to be read anew by either, where the base would know twelve repeated questions long before fifty adapters do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARGIN = 0.01
QUESTIONS = (
    "Where does the fox live?", "What is the opposite of hot?", "Name three colours.", "What is the plural of mouse?",
    "Who wrote the book?", "How many legs has a spider?", "Tell me about the river.", "What do bees make?",
    "What colour is the sky?", "Give me a word that rhymes with cat.", "What day comes after Monday?",
    "Where is the old mill?",
)  # fmt: skip


def make_adapters(folder: Path, count: int) -> list[str]:
    """Random adapters of the embedded base; returns their names."""
    import torch
    from peft import get_peft_model

    from zerogate import ZeroInitConfig
    from zerogate.bases import load_base

    base, _ = load_base("pocket", dtype="float32", device="cpu")
    model = get_peft_model(base, ZeroInitConfig(prompt_length=10, task_type="CAUSAL_LM"))
    names = []
    for number in range(count):
        torch.manual_seed(number)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.6)
        names.append(f"expert-{number:03d}")
        model.save_pretrained(folder / names[-1], save_embedding_layers=False)
    return names


class Server:
    """A server process of our own."""

    def __init__(self, adapters: Path, streams: int, dtype: str, extra: Sequence[str]) -> None:
        command = [sys.executable, "-m", "zerogate.cli.main", "serve", "--base", "pocket", "--adapters", str(adapters)]
        command += ["--port", "0", "--dtype", dtype, "--streams", str(streams), *extra]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = 0
        for line in self.process.stdout:
            if "/v1 " in line:
                self.port = int(line.split(":")[2].split("/")[0])
            if "-d '" in line:
                return
        raise SystemExit("the server did not start")

    def memory(self) -> float:
        """Resident MiB."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=180)


@dataclass
class Answer:
    """One answer, with times in seconds."""

    text: str = ""
    tokens: int = 0
    first: float = 0.0
    whole: float = 0.0
    error: str = ""
    worth: list[list[float]] = field(default_factory=list)


async def ask(port: int, body: dict[str, Any]) -> Answer:
    """One request on a connection of its own, read as a stream."""
    answer, start = Answer(), time.perf_counter()
    payload = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"  # noqa: E501
    done = False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + payload)
        status = (await reader.readline()).decode()
        while (await reader.readline()).strip():
            pass
        if " 200 " not in status:
            answer.error = status.strip()
            return answer
        rest = b""
        while size := int(await reader.readline() or b"0", 16):
            rest += (await reader.readexactly(size + 2))[:-2]
            *events, rest = rest.split(b"\n\n")
            for event in events:
                done = done or _take(answer, event.removeprefix(b"data: "), start)
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.whole = time.perf_counter() - start
    if not done and not answer.error:
        answer.error = "the stream broke off"
    return answer


def _take(answer: Answer, data: bytes, start: float) -> bool:
    if data == b"[DONE]":
        return True
    event = json.loads(data)
    if "error" in event:
        answer.error = event["error"]["message"]
        return False
    for choice in event["choices"]:
        piece = choice["delta"].get("content")
        if piece:
            answer.first = answer.first or time.perf_counter() - start
            answer.text += piece
        for token in (choice["logprobs"] or {}).get("content", []):
            answer.worth.append([top["logprob"] for top in token["top_logprobs"]])
    if event.get("usage"):
        answer.tokens = event["usage"]["completion_tokens"]
    return False


def question(model: str, text: str, tokens: int) -> dict[str, Any]:
    """A request for exactly so many tokens, greedily."""
    message = {"role": "user", "content": text}
    return {"model": model, "messages": [message], "temperature": 0, "max_tokens": tokens, "ignore_eos": True}


async def record(port: int, names: list[str], tokens: int) -> tuple[dict[tuple[str, str], str], int]:
    """What each adapter answers alone, one request at a time; and how many pairs were left out."""
    found: dict[tuple[str, str], str] = {}
    close = 0
    for name in names:
        for text in QUESTIONS:
            answer = await ask(port, {**question(name, text, tokens), "logprobs": True, "top_logprobs": 2})
            if answer.error:
                raise SystemExit(f"{name} alone: {answer.error}")
            if min(first - second for first, second in answer.worth) < MARGIN:
                close += 1
            else:
                found[name, text] = answer.text
    texts = [(text, said) for (_, text), said in found.items()]
    unique = {pair: said for pair, said in found.items() if texts.count((pair[1], said)) == 1}
    return unique, close + len(found) - len(unique)


@dataclass
class Load:
    """What came of one load."""

    answers: list[Answer] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens per second, all streams together."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


async def run(
    port: int,
    pairs: list[tuple[str, str]],
    known: dict[tuple[str, str], str],
    streams: int,
    seconds: float,
    tokens: int,
    numbered: bool = False,
) -> Load:
    """So many streams for so long; each asks the next question when it has its answer. Those begun are finished."""
    numbers = itertools.count(int(time.time() * 1000))
    load, start = Load(), time.perf_counter()
    owners: dict[tuple[str, str], str] = {(text, said): name for (name, text), said in known.items()}

    async def stream(number: int) -> None:
        draw = random.Random(number)
        while time.perf_counter() - start < seconds:
            name, text = draw.choice(pairs)
            answer = await ask(port, question(name, f"({next(numbers)}) {text}" if numbered else text, tokens))
            if answer.error:
                load.lost.append(f"{name}: {answer.error}")
                continue
            load.answers.append(answer)
            wanted = known.get((name, text))
            if wanted is not None and answer.text != wanted:
                other = owners.get((text, answer.text), "nobody's")
                load.mixed.append(f"{name} answered {text!r} as {other}: {answer.text!r}, not {wanted!r}")

    await asyncio.gather(*(stream(number) for number in range(streams)))
    load.seconds = time.perf_counter() - start
    return load


def show(name: str, load: Load) -> None:
    """One line of figures."""
    first = sorted(answer.first for answer in load.answers) or [0.0]
    each = [(a.whole - a.first) / (a.tokens - 1) for a in load.answers if a.tokens > 1] or [0.0]
    print(
        f"{name:8} {len(load.answers):6} answers  {load.rate:8.1f} tokens/s  "
        f"first token: median {statistics.median(first):.3f} s, 95 % {first[int(0.95 * (len(first) - 1))]:.3f} s  "
        f"between tokens: median {statistics.median(each) * 1000:.1f} ms  "
        f"lost {len(load.lost)}  mixed up {len(load.mixed)}",
        flush=True,
    )


async def main() -> int:
    """Run what was asked for; the exit status is 1 if anything was lost or mixed up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--adapters", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--dtype", default="float32", help="float32: only there is an answer the same in any batch")
    parser.add_argument("--compare", action="store_true", help="the plain base and the mixed batch in turn")
    parser.add_argument("--rounds", type=int, default=9, help="of --compare")
    parser.add_argument("--server", default="", help="more options for `zerogate serve`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        names = make_adapters(Path(place), given.adapters)
        server = Server(Path(place), given.streams, given.dtype, given.server.split())
        try:
            return await measure(server, names, given)
        finally:
            server.stop()


async def measure(server: Server, names: list[str], given: argparse.Namespace) -> int:
    """The load, and what it shows."""
    port = server.port
    if given.compare:
        pairs = {
            "mixed": [(name, text) for name in names for text in QUESTIONS],
            "plain": [("pocket", text) for text in QUESTIONS],
        }
        rates: dict[str, list[float]] = {name: [] for name in pairs}
        for name in names:  # loaded before anything is measured
            await ask(port, question(name, QUESTIONS[0], 1))
        for number in range(given.rounds):
            for kind in sorted(pairs, reverse=number % 2 == 1):
                load = await run(port, pairs[kind], {}, given.streams, given.seconds, given.tokens, True)
                show(kind, load)
                rates[kind].append(load.rate)
        ratios = [m / p for m, p in zip(rates["mixed"], rates["plain"], strict=True)]
        print(f"mixed over plain: {statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})")
        return 0
    known, left_out = await record(port, names, given.tokens)
    print(f"{len(known)} answers recorded alone, {left_out} left out (close choices, or not one adapter's own)")
    await run(port, list(known), known, given.streams, min(10.0, given.seconds / 4), given.tokens)  # warm
    memory = [server.memory()]
    load, parts = Load(), max(1, round(given.seconds / 60))
    for _ in range(parts):
        part = await run(port, list(known), known, given.streams, given.seconds / parts, given.tokens)
        load.answers += part.answers
        load.lost += part.lost
        load.mixed += part.mixed
        load.seconds += part.seconds
        memory.append(server.memory())
    show("mixed", load)
    each = ", ".join(f"{m:.0f}" for m in memory)
    print(f"memory of the server: {memory[0]:.0f} MiB before, {memory[-1]:.0f} MiB after ({each})")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        print("health after:", answer.read().decode())
    for line in (load.lost + load.mixed)[:10]:
        print(" ", line)
    return 1 if load.lost or load.mixed else 0


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(asyncio.run(main()))
