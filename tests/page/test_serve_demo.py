"""`zerogate serve --demo`: the embedded base with the demo's adapter in one command; options that need each other."""

from __future__ import annotations

import io
import json
import urllib.request
from pathlib import Path

import pytest
from live_server import start, stop
from rich.console import Console

from zerogate.cli.demo import demo_run
from zerogate.cli.serve import serve
from zerogate.errors import UserError

SHORT = ("train.steps=2", "train.warmup_steps=1", "data.limit=40", "data.held_out=4")


def test_the_demo_is_trained_once_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = Console(file=io.StringIO(), width=1000)
    assert demo_run(said, overrides=SHORT) == Path("runs/demo")
    weights = tmp_path / "runs" / "demo" / "last" / "adapter_model.safetensors"
    made = weights.stat().st_mtime_ns
    assert "other settings" not in said.file.getvalue()
    assert demo_run(said) == Path("runs/demo")  # finished: used as it is
    assert "runs/demo was trained with other settings than the demo's (data.held_out: 4 -> 100" in said.file.getvalue()
    assert weights.stat().st_mtime_ns == made
    (tmp_path / "none").mkdir()
    # The page is there, too; it keeps nothing before there is something to keep.
    found = start(Path("pocket"), tmp_path / "none", tmp_path / "log", "--demo", "--ui", "--ui-folder", "kept")
    try:
        with urllib.request.urlopen(f"{found.url}/v1/models") as answer:
            assert {model["id"] for model in json.load(answer)["data"]} == {"pocket", "demo"}
        body = {"model": "demo", "messages": [{"role": "user", "content": "Where is Chile?"}], "max_tokens": 4}
        request = urllib.request.Request(
            f"{found.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] >= 1
        with urllib.request.urlopen(f"{found.url}/") as answer:  # no key: straight to the page
            assert answer.url.endswith("/ui/") and b"gradio_config" in answer.read()
        assert not (tmp_path / "kept").exists()
    finally:
        assert stop(found) == 0


def test_options_of_the_page_need_the_page(tmp_path: Path) -> None:
    for option in ("tables", "persona"):
        with pytest.raises(UserError, match=f"--{option} is for the web page: add --ui"):
            serve(**{option: [tmp_path]})
    with pytest.raises(UserError, match="--ui-folder is for the web page"):
        serve(ui_folder=tmp_path)
