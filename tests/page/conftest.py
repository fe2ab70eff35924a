"""A real `zerogate serve --ui` process on the embedded base, with adapters of which every number is random.

What such an adapter says to a question is its own: no other says the same, and the API of the same server says it, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from live_server import Live, start, stop
from peft import get_peft_model
from tiny_eye import make_picture
from visitor import CURT, KEY

from zerogate import ZeroInitConfig
from zerogate.bases import load_base
from zerogate.vision.encoder import load_encoder

BRIEF = """
name: brief
greeting: Ask away.
sampling: {temperature: 0, max_new_tokens: 16}
"""
LONG = "{name: long, greeting: At length., sampling: {temperature: 0, max_new_tokens: 900}}"
TABLE = 'method,held-out loss,exact\n"zero-init, K=10",0.1234,96.4%\nLoRA <b>8</b>,0.2345,91.0%\n'
EYES = (4, 5)


def save(folder: Path, config: ZeroInitConfig, seed: int) -> None:
    """An adapter of the embedded base with random numbers, as wide open as those of the load test."""
    base, _ = load_base("pocket", dtype="float32", device="cpu")
    model = get_peft_model(base, config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.6)
    model.save_pretrained(folder, save_embedding_layers=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server is started with: adapters, tables, personas."""
    root = tmp_path_factory.mktemp("page")
    plain = ZeroInitConfig(prompt_length=10, task_type="CAUSAL_LM")
    for seed, name in enumerate(("fox", "sums")):
        save(root / "adapters" / name, plain, seed)
    channels = load_encoder("pocket-eye", EYES, device="cpu").channels
    sees: dict[str, Any] = {"image_layers": list(EYES), "image_channels": channels, "image_encoder": "pocket-eye"}
    save(root / "adapters" / "eye", ZeroInitConfig(prompt_length=10, task_type="CAUSAL_LM", image_hidden=8, **sees), 7)
    # Its header is whole, so that it shows only when it is loaded that it is broken.
    shutil.copytree(root / "adapters" / "fox", root / "adapters" / "torn")
    torn = root / "adapters" / "torn" / "adapter_model.safetensors"
    data = torn.read_bytes()
    torn.write_bytes(data[: len(data) - 4000] + b"\xff" * 4000)  # not a number
    (root / "brief.yaml").write_text(BRIEF)
    (root / "long.yaml").write_text(LONG)
    table = root / "compared" / "pocket"
    table.mkdir(parents=True)
    (table / "table.csv").write_text(TABLE)
    (table / "results.json").write_text('{"rows": {}, "advice": {"pocket": "Use zero-init, K=10."}}')

    make_picture(table / "accuracy.png", "red")
    (root / "kept").mkdir()
    (root / "kept" / "presets.json").write_text(json.dumps(CURT))
    make_picture(root / "circle.png", "green")
    return root


@pytest.fixture(scope="session")
def served(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests of a worker. It must end by itself, in peace, and have logged no traceback."""
    options = ["--ui", "--ui-folder", str(made / "kept"), "--tables", str(made / "compared"), "--max-body", "2"]
    options += ["--persona", str(made / "brief.yaml"), "--persona", str(made / "long.yaml"), "--streams", "8"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    found = start(Path("pocket"), made / "adapters", log, *options, key=KEY)
    yield found
    assert stop(found) == 0
    assert "Traceback" not in found.log.read_text(), found.log.read_text()
