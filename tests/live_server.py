"""Starting and stopping a real server process, and an adapter that has learned to call a tool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from zerogate.data import Turn, prompt_ids

CALL = '{"name": "add"}'
TEMPLATE = (
    "{% if tools %}#{{ tools | length }} {% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}\n{% endfor %}assistant:"
)
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {}}}},
}


@dataclass
class Live:
    """A server that runs.

    Attributes:
        process: the server's.
        port: where it listens, on loopback.
        adapters: its folder of adapters.
        base: its base's folder.
        log: what it writes to standard error.
    """

    process: subprocess.Popen[str]
    port: int
    adapters: Path
    base: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def start(base: Path, adapters: Path, log: Path, *options: str, key: str = "") -> Live:
    """Start a server and wait until it says where it is."""
    command = [sys.executable, "-W", "ignore", "-m", "zerogate.cli.main", "serve", "--base", str(base), "--port", "0"]
    command += ["--adapters", str(adapters), "--dtype", "float32", "--device", "cpu", *options]
    environment = {**os.environ, "ZEROGATE_API_KEY": key, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert process.stdout is not None
    port = 0
    for line in process.stdout:
        if "/v1 " in line:
            port = int(line.split(":")[2].split("/")[0])
        if "-d '" in line:
            return Live(process, port, adapters, base, log)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def stop(live: Live) -> int:
    """Ask a server to end; its exit status."""
    live.process.send_signal(signal.SIGTERM)
    return live.process.wait(timeout=60)


def make_caller(folder: Path, base: Path) -> None:
    """An adapter that has learned one thing: to answer any question with a call of the tool `add`.

    The parts of the call become tokens of the base first. Then each follows from the one before, and that is as much as
    a random base can be taught.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(['{"name": "', 'add"'])
    tokenizer.save_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # the mean would make them all one
    model.save_pretrained(base)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    answer = [*tokenizer(CALL, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(answer) == 4
    rows = [prompt_ids([Turn("user", text)], "chat", tokenizer, (TOOL,)) for text in ("Add 2.", "What is two and two?")]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(60):
        prompt = rows[step % len(rows)]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        loss = model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder, save_embedding_layers=False)


def wait_until(what: Any, seconds: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
