"""Two tabs to look at: the gates of an adapter, and what comparisons found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from zerogate.bases.adapted import read_adapter
from zerogate.bases.facts import adapter_facts
from zerogate.errors import UserError
from zerogate.page import tables
from zerogate.page.heat_map import facts_table, heat_map
from zerogate.page.saying import notice, trouble

if TYPE_CHECKING:
    from zerogate.page.mount import Parts

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def gates_tab(parts: Parts, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """An adapter's gates, layers by heads."""
    names = list(parts.service.pool.entries)
    adapter = gr.Dropdown(names, value=names[0] if names else None, label="adapter", elem_id="gated")
    shown = gr.HTML(elem_id="gates", padding=True)

    def show(name: str | None) -> str:
        # A name is looked up among those that the server has found, and never becomes a part of a path.
        entry = parts.service.pool.entries.get(name or "")
        if entry is None:
            return notice("The server has no adapters: start it with --adapters FOLDER.")
        try:
            found = adapter_facts(read_adapter(entry.folder))
        except UserError as error:
            return trouble(error)
        gates = heat_map(found.gates) if found.gates else notice(f"It has no gates: it is a {found.method} adapter.")
        return f"{gates}{facts_table(found)}"

    def begin(name: str | None) -> list[Any]:
        names = list(parts.service.pool.entries)
        chosen = name if name in names else next(iter(names), None)
        return [gr.update(choices=names, value=chosen), show(chosen)]

    adapter.input(show, adapter, shown, **_QUIET)
    gr.on([blocks.load, tab.select], begin, adapter, [adapter, shown], **_QUIET)


def tables_tab(parts: Parts, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """A comparison's table and pictures."""
    folders = parts.settings.tables
    if not folders:
        gr.HTML(notice("Start the server with --tables FOLDER to see here what `zerogate compare` found."))
        return
    chosen = gr.Dropdown([], label="comparison", elem_id="compared")
    shown = gr.HTML(elem_id="table", padding=True)

    def show(name: str | None) -> str:
        found = tables.comparisons(folders)
        if name not in found:
            return notice("No comparison is finished there yet: a folder with a table.csv.")
        try:
            return tables.shown(found[name])
        except UserError as error:
            return trouble(error)

    def begin(name: str | None) -> list[Any]:
        names = list(tables.comparisons(folders))
        now = name if name in names else next(iter(names), None)
        return [gr.update(choices=names, value=now), show(now)]

    chosen.input(show, chosen, shown, **_QUIET)
    gr.on([blocks.load, tab.select], begin, chosen, [chosen, shown], **_QUIET)
