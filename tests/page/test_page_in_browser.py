"""The page in a real browser, before a real server: what a visitor does, and that nothing leaves the server."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from live_server import Live, wait_until
from visitor import CURT, KEY, answer_of, api, choose, done, flat, log_in, outcomes, press, running, said, send, upload

QUESTION = "Where does the fox live?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def window(browser: Any, served: Live) -> Iterator[Any]:
    """One window for all tests here, logged in. At the end: no request went elsewhere, and no script failed."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    asked: list[str] = []
    refused: list[str] = []  # by the policy, before anything was sent
    wrong: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("requestfailed", lambda request: request.failure == "csp" and refused.append(request.url))
    context.on(
        "weberror",
        lambda error: wrong.append(f"{error.page and error.page.url}: {error.error.message}\n{error.error.stack}"),
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    log_in(page, served)
    yield page
    context.close()
    assert len(asked) > 50  # the page is many files
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:")) and url not in refused] == []
    # Gradio itself sometimes updates a part that is gone, on a busy machine. The page goes on as if nothing was.
    assert [said for said in wrong if "undefined (reading '0')" not in said] == []


@pytest.fixture
def page(window: Any) -> Any:
    """The chat, empty, with the persona that answers greedily and briefly."""
    window.get_by_role("tab", name="Chat").click()
    if window.locator("#chat [data-testid=user]").count():
        window.locator("#chat").get_by_label("Clear").first.click()
        window.wait_for_function("() => !document.querySelector('#chat [data-testid=user]')")
    choose(window, "persona", "brief")
    window.wait_for_function("() => document.querySelector('#chat').innerText.includes('Ask away.')")
    choose(window, "model", "fox")
    return window


def test_a_wrong_key_is_refused(browser: Any, served: Live) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{served.url}/ui/")
    page.fill("#key", "open-barley")
    page.click("button")
    page.wait_for_selector("[role=alert]")
    assert "none of this server's keys" in page.inner_text("form")
    page.goto(f"{served.url}/ui/")
    assert page.locator("#key").count() == 1 and page.locator("#box").count() == 0
    assert page.request.get(f"{served.url}/ui/config").status == 401
    context.close()


def test_an_answer_streams(page: Any, served: Live) -> None:
    page.evaluate(
        """() => {
            window.lengths = new Set();
            new MutationObserver(() => {
                const bot = document.querySelector('#chat [data-testid=bot]');
                if (bot) window.lengths.add(bot.innerText.length);
            }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
        }"""
    )
    send(page, QUESTION)
    assert "fox: 16 tokens" in done(page)
    assert [flat(text) for text in said(page)] == [flat(answer_of(served, "fox", QUESTION))]
    assert len(page.evaluate("() => [...window.lengths].filter(length => length > 0)")) >= 3, "it did not grow"


def test_the_adapter_is_switched(page: Any, served: Live) -> None:
    answers = []
    for menu, name in (("fox", "fox"), ("sums", "sums"), ("pocket (the base)", "pocket")):
        choose(page, "model", menu)
        send(page, QUESTION)
        done(page, words=f"{name}: ")
        answers.append(flat(said(page)[-1]))
        assert answers[-1] == flat(answer_of(served, name, QUESTION))
        page.locator("#chat").get_by_label("Undo").first.click()
        page.wait_for_function("() => !document.querySelector('#chat [data-testid=bot]')")
        assert page.input_value("#box textarea") == QUESTION
    assert len(set(answers)) == 3


def test_again_and_edited(page: Any, served: Live) -> None:
    send(page, QUESTION)
    done(page)
    first = said(page)
    answered = outcomes(served, "fox", "answered")
    press(page, "Retry")
    done(page)
    assert outcomes(served, "fox", "answered") == answered + 1
    assert said(page) == first  # greedily, another seed says the same
    page.locator("#chat").get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill("What is the opposite of hot?")
    press(page, "Submit")
    done(page)
    assert [flat(text) for text in said(page)] == [flat(answer_of(served, "fox", "What is the opposite of hot?"))]


def test_stop_stops_the_request(page: Any, served: Live) -> None:
    choose(page, "persona", "long")
    page.wait_for_function("() => document.querySelector('#chat').innerText.includes('At length.')")
    gone = outcomes(served, "fox", "gone")
    send(page, QUESTION)
    page.wait_for_selector("#chat [data-testid=bot]")
    assert running(served) == 1
    page.click("#box .stop-button")
    done(page, words="Stopped.")
    wait_until(lambda: running(served) == 0)
    assert outcomes(served, "fox", "gone") == gone + 1
    assert said(page)[-1]  # what was there stays


def test_a_closed_page_stops_the_request(browser: Any, served: Live) -> None:
    context = browser.new_context()
    page = context.new_page()
    log_in(page, served)
    choose(page, "persona", "long")
    page.wait_for_function("() => document.querySelector('#chat').innerText.includes('At length.')")
    choose(page, "model", "sums")
    gone = outcomes(served, "sums", "gone")
    send(page, QUESTION)
    page.wait_for_selector("#chat [data-testid=bot]")
    context.close()
    wait_until(lambda: running(served) == 0, 5)
    assert outcomes(served, "sums", "gone") == gone + 1


def test_a_picture_is_uploaded(page: Any, served: Live, made: Path) -> None:
    choose(page, "model", "eye (sees images)")
    upload(page, made / "circle.png")
    send(page, "What is shown?")
    done(page, words="eye: ")
    assert page.locator("#chat img").count() >= 1
    uri = "data:image/png;base64," + base64.b64encode((made / "circle.png").read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What is shown?"}]
    assert flat(said(page)[-1]) == flat(answer_of(served, "eye", content))
    assert flat(said(page)[-1]) != flat(answer_of(served, "eye", "What is shown?"))


def test_what_goes_wrong_is_said(page: Any, served: Live, made: Path) -> None:
    upload(page, made / "circle.png")
    send(page, "What is shown?")
    assert "takes no images. Choose one" in done(page, words="takes no images")
    assert page.input_value("#box textarea") == "What is shown?"  # not lost
    page.locator("#box .delete-button").first.click()
    context = json.loads(api(served, "/v1/models/fox"))["context"]
    send(page, "word " * context)
    assert "has room for" in done(page, words="Write less")
    page.fill("#box textarea", "")
    choose(page, "model", "torn")
    send(page, QUESTION)
    assert "'torn' cannot be used" in done(page, words="cannot be used")
    assert said(page) == []


def test_the_words_of_a_model_fetch_nothing(page: Any) -> None:
    hits: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_error(404)

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        # Shown as an answer would be: both are Markdown.
        send(page, f"![a](http://127.0.0.1:{listener.server_port}/a.png) <img src=x onerror=alert(1)> **bold**")
        done(page)
        page.wait_for_selector("#chat strong")
        page.wait_for_timeout(300)
    finally:
        listener.shutdown()
        listener.server_close()
    assert hits == []
    assert page.locator("#chat [onerror]").count() == 0


def test_two_panes_vote(page: Any, served: Live, made: Path) -> None:
    page.get_by_role("tab", name="Arena").click()
    choose(page, "one", "fox")
    choose(page, "other", "sums")
    choose(page, "arena-preset", "curt")
    assert page.locator("#vote-left").is_disabled()
    file = made / "kept" / "votes.jsonl"
    send(page, QUESTION, "arena-box")
    done(page, "arena-note", "Which is better?")
    shown = {side: flat(said(page, side)[-1]) for side in ("left", "right")}
    assert [page.inner_text(f"#{side}-name") for side in ("left", "right")] == ["left", "right"]
    assert not file.exists()
    page.click("#vote-left")
    note = done(page, "arena-note", "Kept")
    (line,) = file.read_text().splitlines()
    row = json.loads(line)
    assert {row["left"], row["right"]} == {"fox", "sums"}
    assert row["vote"] == "left" and row["hidden"] is True and row["prompt"] == QUESTION
    assert row["sampling"] == {"temperature": 0.0, "max_new_tokens": 16}
    for side in ("left", "right"):
        assert flat(row["answers"][side]) == shown[side]
        assert flat(answer_of(served, row[side], QUESTION)) == shown[side]
    assert f"Left was {row['left']}" in note
    assert page.inner_text("#left-name") == f"left: {row['left']}"
    assert page.locator("#vote-left").is_disabled()
    tally = page.inner_text("#tally")
    assert re.search(rf"{row['left']}\s+100%\s+1\s+0\s+0\s+0", tally), tally
    assert "1 votes" in tally or "1 vote" in tally


def test_presets_and_personas_are_kept(page: Any, made: Path) -> None:
    page.get_by_text("Sampling settings").click()
    page.fill("#preset-name input, #preset-name textarea", "brief and greedy")
    page.click("#preset-keep")
    done(page, "preset-note", "Kept")
    kept = json.loads((made / "kept" / "presets.json").read_text())
    assert kept.pop("brief and greedy") == {"temperature": 0.0, "max_new_tokens": 16}
    assert kept == CURT
    page.get_by_text("Sampling settings").click()
    page.get_by_text("Write a persona").click()
    page.fill("#persona-name input, #persona-name textarea", "../poet")
    page.fill("#persona-greeting input, #persona-greeting textarea", "A rhyme?")
    page.click("#persona-keep")
    done(page, "persona-note", "A persona's name")
    page.fill("#persona-name input, #persona-name textarea", "poet")
    page.click("#persona-keep")
    done(page, "persona-note", "is kept")
    page.get_by_text("Write a persona").click()
    page.wait_for_function("() => document.querySelector('#chat').innerText.includes('A rhyme?')")
    assert [file.name for file in (made / "kept" / "personas").iterdir()] == ["poet.yaml"]


def test_gates_and_tables(page: Any, served: Live) -> None:
    from zerogate.bases.adapted import read_adapter
    from zerogate.bases.facts import adapter_facts

    page.get_by_role("tab", name="Gates").click()
    choose(page, "gated", "sums")
    gates = adapter_facts(read_adapter(served.adapters / "sums")).gates
    wanted = f"layer 3, head 2: {float(gates[3][2]):+.4f}"
    page.wait_for_selector(f'#gates td[title="{wanted}"]')
    assert page.locator("#gates table.gates td[title]").count() == sum(len(gate) for gate in gates.values())
    page.get_by_role("tab", name="Tables").click()
    assert "Use zero-init, K=10." in page.inner_text("#table")
    assert page.locator("#table td").all_inner_texts()[3] == "LoRA <b>8</b>"
    assert page.locator("#table img").evaluate("image => image.complete && image.naturalWidth > 0")


def test_log_out(browser: Any, served: Live) -> None:
    context = browser.new_context()
    page = context.new_page()
    log_in(page, served)
    page.click("#title a")
    page.wait_for_selector("#key")
    assert page.request.get(f"{served.url}/ui/config").status == 401
    assert KEY not in page.content()
    context.close()
