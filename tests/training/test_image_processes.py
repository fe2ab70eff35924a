"""Several processes train on records of which few have an image, so that batches of some processes have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from test_processes import assert_same, finish, start
from tiny_eye import make_eye

Settings = Callable[..., dict[str, Any]]
SIZES = {"batch_size": 4, "micro_batch_size": 1, "steps": 12, "evaluate_every": 4, "save_every": 12}


@pytest.fixture
def few_pictures(tmp_path: Path) -> Path:
    """Four records with an image among forty."""
    rows: list[dict[str, str]] = []
    for number in range(40):
        rows.append({"instruction": f"Where does owl {number} live?", "output": "The tree."})
        if number % 10 == 3:
            Image.new("RGB", (30, 30), (number * 5, 90, 200)).save(tmp_path / f"{number}.png")
            rows[-1]["image"] = f"{number}.png"
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "few.jsonl"


def test_two_processes_learn_what_one_learns(settings: Settings, few_pictures: Path, tmp_path: Path) -> None:
    """Also where early fusion has gates that images alone use, and where activations are computed anew."""
    adapter = {"method": "zero_init", "prompt_length": 4, "num_layers": 2, "image_early": 1, "image_layers": 2}
    adapter["image_encoder"] = str(make_eye(tmp_path / "eye"))
    for name, processes in (("one", 1), ("two", 2)):
        recipe = settings(data={"path": str(few_pictures), "held_out": 8}, adapter=adapter, output=str(tmp_path / name))
        recipe["train"] |= {**SIZES, "gradient_checkpointing": True}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        finish(start(processes, tmp_path / f"{name}.yaml", ZEROGATE_CACHE=str(tmp_path / "cache")))
    assert_same(tmp_path / "one", tmp_path / "two")
