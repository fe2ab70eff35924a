"""The page as a whole: a line on top, and the tabs."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import gradio as gr

from zerogate.page.arena_tab import arena_tab
from zerogate.page.chat_tab import chat_tab
from zerogate.page.looking_tabs import gates_tab, tables_tab

if TYPE_CHECKING:
    from zerogate.page.mount import Parts


def page_blocks(parts: Parts, keep_seconds: int) -> gr.Blocks:
    """The page.

    Args:
        parts: what it works with.
        keep_seconds: how long uploaded files are kept.
    """
    base = escape(parts.service.base)
    leave = '<a href="logout">log out</a>' if parts.settings.keys else ""
    with gr.Blocks(
        title="zerogate",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(3600, keep_seconds),
    ) as blocks:
        gr.HTML(f'<div id="title">zerogate<small>one frozen base, {base}, and its adapters</small>{leave}</div>')
        with gr.Tabs():
            with gr.Tab("Chat", id="chat-tab"):
                chat_tab(parts, blocks)
            with gr.Tab("Arena", id="arena-tab") as tab:
                arena_tab(parts, blocks, tab)
            with gr.Tab("Gates", id="gates-tab") as tab:
                gates_tab(parts, blocks, tab)
            with gr.Tab("Tables", id="tables-tab") as tab:
                tables_tab(parts, blocks, tab)
    # Every answer runs beside the others; how many at once is the server's to say (`--streams`, `--queue`).
    blocks.queue(default_concurrency_limit=None, api_open=False)
    return blocks
