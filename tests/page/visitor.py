"""What the tests do as a visitor of the page, and what they ask the same server over its API."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from live_server import Live

KEY = "open-sesame"
CURT = {"curt": {"temperature": 0, "max_new_tokens": 16}}


def api(served: Live, path: str, body: dict[str, Any] | None = None) -> str:
    """A request to the API with the key."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(served.url + path, data, headers), timeout=60) as answer:
        return str(answer.read().decode())


def answer_of(served: Live, model: str, content: Any, tokens: int = 16) -> str:
    """What the API says, greedily."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": tokens}
    return str(json.loads(api(served, "/v1/chat/completions", body))["choices"][0]["message"]["content"])


def outcomes(served: Live, model: str, outcome: str) -> int:
    """How many requests ended so."""
    wanted = f'zerogate_requests_total{{model="{model}",outcome="{outcome}"}} '
    lines = [line for line in api(served, "/metrics").splitlines() if line.startswith(wanted)]
    return int(float(lines[0].split()[-1])) if lines else 0


def running(served: Live) -> int:
    """Requests in the batch or waiting."""
    found = json.loads(api(served, "/health"))
    return int(found["running"]) + int(found["waiting"])


def log_in(page: Any, served: Live) -> None:
    """Open the page and give the key."""
    page.goto(f"{served.url}/ui/")
    page.fill("#key", KEY)
    page.click("button")
    page.wait_for_selector("#box textarea")
    done(page, words="adapters")  # what the page asks for once it is loaded has come


def choose(page: Any, menu: str, name: str) -> None:
    """Choose an entry of a menu."""
    page.click(f"#{menu} input")
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_function("() => !document.querySelector('[role=option]')")  # it fades away


def press(page: Any, label: str) -> None:
    """Press one of the conversation's small buttons."""
    _read(page)
    page.locator("#chat").get_by_label(label).first.click()


def send(page: Any, text: str, box: str = "box") -> None:
    """Write something and press Enter."""
    _read(page)
    page.fill(f"#{box} textarea", text)
    page.press(f"#{box} textarea", "Enter")


def upload(page: Any, file: Path) -> None:
    """Put a picture into the box, by way of its button."""
    with page.expect_file_chooser() as chooser:
        page.click("#box [data-testid=upload-button]")
    chooser.value.set_files(str(file))
    page.wait_for_selector("#box .thumbnail-item img")


def said(page: Any, place: str = "chat") -> list[str]:
    """What was answered in a conversation, oldest first."""
    return [text.strip() for text in page.locator(f"#{place} [data-testid=bot]").all_inner_texts()]


def done(page: Any, note: str = "note", words: str = "tokens in") -> str:
    """Wait for the notice that ends an answer, and return it. One that stood there when it was sent does not count."""
    page.wait_for_function(
        """([id, words]) => {
            const note = document.getElementById(id);
            return note.innerText.includes(words) && !note.querySelector('[data-read]');
        }""",
        arg=[note, words],
    )
    return str(page.inner_text(f"#{note}"))


def flat(text: str) -> str:
    """As a browser shows it: white space is one space."""
    return " ".join(text.split())


def _read(page: Any) -> None:
    """Mark the notices that are there: whatever is said next replaces the marked element."""
    page.evaluate("() => document.querySelectorAll('.notice').forEach(notice => notice.dataset.read = '')")
