"""The pictures of docs/page.md: a real server with a run's adapters, and a headless Chromium that visits its page.

    python benchmarks/page_pictures.py --adapters runs --output docs/images

`--adapters` is a folder with the demo's run (`zerogate demo`) in it; other adapters there are shown in the menus.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUESTIONS = (
    "What word means the opposite of early?",
    "On which continent is Chile?",
    "What is the symbol of chlorine?",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def start(adapters: Path, kept: Path) -> tuple[subprocess.Popen[str], int]:
    """A server with the page; its process and port."""
    command = [sys.executable, "-m", "zerogate.cli.main", "serve", "--adapters", str(adapters), "--ui", "--port", "0"]
    process = subprocess.Popen([*command, "--ui-folder", str(kept)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = 0
    for line in process.stdout:
        if "/v1 " in line:
            port = int(line.split(":")[2].split("/")[0])
        if "-d '" in line:
            return process, port
    raise SystemExit("the server did not start")


def visit(browser: Any, port: int, width: int, height: int, dark: bool = False) -> Any:
    """The page in a window of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/ui/")
    page.wait_for_selector("#box textarea")
    wait(page, "note", "adapter")
    return page


def wait(page: Any, place: str, words: str) -> None:
    """Until a notice says so."""
    page.wait_for_function("([id, words]) => document.getElementById(id).innerText.includes(words)", arg=[place, words])


def choose(page: Any, menu: str, name: str) -> None:
    """Choose an entry of a menu."""
    page.click(f"#{menu} input")
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_function("() => !document.querySelector('[role=option]')")


def talk(page: Any, questions: tuple[str, ...]) -> None:
    """Ask all of them, each by itself."""
    choose(page, "persona", "questions")
    choose(page, "model", "demo")
    for number, question in enumerate(questions, start=1):
        page.fill("#box textarea", question)
        page.press("#box textarea", "Enter")
        page.wait_for_function(
            "n => document.querySelectorAll('#chat [data-testid=bot]').length == n", arg=number, timeout=60_000
        )
        wait(page, "note", "tokens in")


def fight(page: Any, question: str) -> None:
    """A bout and a vote."""
    page.get_by_role("tab", name="Arena").click()
    choose(page, "one", "demo")
    choose(page, "other", "pocket (the base)")
    page.fill("#arena-box textarea", question)
    page.press("#arena-box textarea", "Enter")
    wait(page, "arena-note", "Which is better?")


def save(page: Any, file: Path) -> None:
    """What is on the screen, as a PNG with few colours."""
    from PIL import Image

    page.mouse.move(0, 0)
    page.wait_for_timeout(400)
    page.screenshot(path=str(file))
    with Image.open(file) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    place = os.environ.get("CHROMIUM") or next((found for found in map(shutil.which, NAMES) if found), None)
    with tempfile.TemporaryDirectory() as kept, sync_playwright() as playwright:
        process, port = start(options.adapters, Path(kept))
        try:
            browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
            page = visit(browser, port, 1200, 860)
            page.set_default_timeout(120_000)
            talk(page, QUESTIONS)
            save(page, options.output / "page_chat.png")
            for question in QUESTIONS[:2]:
                fight(page, question)
                # The bare base goes on and on; the demo's adapter answers.
                lengths = {side: len(page.inner_text(f"#{side} [data-testid=bot]")) for side in ("left", "right")}
                page.click(f"#vote-{min(lengths, key=lambda side: lengths[side])}")
                wait(page, "arena-note", "Kept")
            save(page, options.output / "page_arena.png")
            page.get_by_role("tab", name="Gates").click()
            choose(page, "gated", "demo")
            page.wait_for_selector("#gates table.gates")
            save(page, options.output / "page_gates.png")
            dark = visit(browser, port, 900, 640, dark=True)
            talk(dark, QUESTIONS[:2])
            save(dark, options.output / "page_dark.png")
            phone = visit(browser, port, 390, 760)
            talk(phone, QUESTIONS[:2])
            save(phone, options.output / "page_phone.png")
            browser.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


if __name__ == "__main__":
    main()
