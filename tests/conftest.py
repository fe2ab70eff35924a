"""What all tests share: fixed seeds, and the place of the real data sets that are not part of the repository.

Run with `pytest` (all), `pytest -m "not slow"` (the fast ones). Data sets are looked for in $ZEROGATE_DATA, or in
`shared/data` beside the repository; tests that need one that is not there are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

DATA = Path(os.environ.get("ZEROGATE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """The folder or file `name` of the shared data sets; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA} (set ZEROGATE_DATA to the folder of data sets)")
    return path


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Archives are unpacked for the session, not into the user's cache; for processes that tests start, too."""
    os.environ["ZEROGATE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(name="shared_data")
def _shared_data() -> Callable[[str], Path]:
    """`shared_data`, for tests that take it as a fixture."""
    return shared_data


# Files whose tests take minutes: begun first, or one worker would end with them while the others are done.
_LONG = (
    "test_processes.py", "test_commands.py", "test_mixed_batch.py", "test_resume.py", "test_compare.py",
    "test_labelled.py", "test_workers.py", "test_replicas.py", "test_base_to_novel.py", "test_page_in_browser.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, all else in its order."""
    items.sort(key=lambda item: item.path.name not in _LONG)
