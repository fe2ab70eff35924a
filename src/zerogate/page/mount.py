"""Puts the page under `/ui` of a server's application.

    service, app = server.build(replace(settings, gated=GATED))
    mount_page(app, service, PageSettings(keys=settings.keys))

Gradio is imported here, when a page is wanted, and told beforehand to send nothing anywhere and to keep uploads in a
folder of this process, which goes when the process does.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import RedirectResponse, Response

from zerogate.errors import UserError
from zerogate.page.gate import PageGate
from zerogate.page.people import People
from zerogate.page.presets import Presets
from zerogate.page.votes import Votes
from zerogate.serving.api import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zerogate.serving.service import Service

PREFIX = "/ui"
GATED = (PREFIX, "/", "/favicon.ico")
"""What the server's own guard leaves to the page."""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="#0284c7"/>'
    '<path d="M4.5 4.5h7l-7 7h7" fill="none" stroke="#fff" stroke-width="1.8"/></svg>'
)
FORGET_SECONDS = 24 * 3600
"""How long an uploaded picture is kept."""


@dataclass(frozen=True)
class PageSettings:
    """What a page is made with.

    Attributes:
        folder: where votes, presets and personas are kept.
        personas: the user's own, YAML files.
        tables: folders with comparisons, to be looked at.
        keys: any of these lets a visitor in; none: everyone may.
        limits: what a request may want, as in the API.
    """

    folder: Path
    personas: Sequence[Path] = ()
    tables: Sequence[Path] = ()
    keys: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Parts:
    """What the tabs work with."""

    service: Service
    settings: PageSettings
    people: People
    presets: Presets
    votes: Votes


def prepare(service: Service, settings: PageSettings) -> Parts:
    """Read what the page keeps.

    Raises:
        UserError: a file of it is broken, or a persona or a folder of tables is not there.
    """
    people = People(settings.folder / "personas", settings.personas)
    for file in settings.personas:
        people.get(file.stem)
    missing = [folder for folder in settings.tables if not folder.is_dir()]
    if missing:
        raise UserError(f"the folder of tables {missing[0]} does not exist")
    presets = Presets(settings.folder / "presets.json")
    return Parts(service, settings, people, presets, Votes(settings.folder / "votes.jsonl"))


def mount_page(app: FastAPI, service: Service, settings: PageSettings) -> None:
    """Add the page to an application that `serving.api.create_app` made, with `GATED` as its `gated`.

    Raises:
        UserError: as `prepare`.
    """
    parts = prepare(service, settings)
    _quiet_gradio()
    import gradio

    from zerogate.page.layout import page_blocks
    from zerogate.page.look import CSS, HEAD, theme

    blocks = page_blocks(parts, FORGET_SECONDS)
    gradio.mount_gradio_app(
        app,
        blocks,
        PREFIX,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.limits.body,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    mounted: Any = app.router.routes[-1]
    page_app = mounted.app
    # Gradio would keep the connection of every open page through a shutdown.
    service.leaving.append(page_app.stop_event.set)
    mounted.app = PageGate(page_app, PREFIX, frozenset(blocks.fns), settings.keys)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(f"{PREFIX}/")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")


def _quiet_gradio() -> None:
    folder = tempfile.mkdtemp(prefix="zerogate-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
