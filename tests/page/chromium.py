"""Finds a Chromium for tests of the page, and opens it. Without one they are skipped, and say how to get one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "apt-get install chromium, or python -m playwright install chromium, or name one: CHROMIUM=/path/to/chromium"


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; skips the test where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as found:
        own = found.chromium.executable_path
        places = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), own if os.path.exists(own) else None]
        place = next((place for place in places if place), None)
        if place is None:
            pytest.skip(f"no Chromium: {HOW}")
        # As root, which containers often are, Chromium's own sandbox cannot start.
        browser = found.chromium.launch(executable_path=place, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
