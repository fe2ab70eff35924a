"""A real server process for the tests here: a tiny base, and adapters of several kinds, some of them broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from live_server import TEMPLATE, Live, make_caller, start, stop
from tiny_base import lora, make_adapter, make_base
from tiny_eye import make_eye, make_seeing_adapter


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The base's folder, and that of the adapters."""
    root = tmp_path_factory.mktemp("live")
    base, folder = make_base(root / "tiny", context=512, chat_template=TEMPLATE), root / "adapters"
    make_caller(folder / "caller", base)
    make_adapter(folder / "one", base, seed=1)
    make_adapter(folder / "two", base, seed=2)
    make_adapter(folder / "low", base, seed=3, config=lora())
    make_seeing_adapter(folder / "eye", base, make_eye(root / "eye"), seed=4)
    broken = make_adapter(folder / "broken", base, seed=5)
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    pickled = make_adapter(folder / "pickled", base, seed=5)
    (pickled / "adapter_model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, pickled / "adapter_model.bin")
    return base, folder


@pytest.fixture(scope="session")
def live(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all tests of a worker. It must end by itself, in peace, and have logged no traceback."""
    options = ["--max-images", "3", "--streams", "8", "--queue", "12"]
    found = start(*made, tmp_path_factory.mktemp("log") / "server.log", *options)
    yield found
    assert stop(found) == 0
    assert "Traceback" not in found.log.read_text(), found.log.read_text()
