"""How the page looks: fonts that every system has, one accent colour, tables that scroll on a phone."""

from __future__ import annotations

from typing import Any

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def theme() -> Any:
    """Gradio's own soft theme with no font that has to be fetched."""
    return gr.themes.Soft(
        primary_hue="sky",
        neutral_hue="slate",
        font=list(SANS),
        font_mono=list(MONO),
        radius_size="md",
        spacing_size="sm",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_text_weight="500",
        block_title_padding="0",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
    )


HEAD = '<meta name="color-scheme" content="light dark">'

CSS = """
.gradio-container { max-width: none !important; padding: 0 !important; }
.gradio-container .main.fillable { padding: .2rem 1rem 1rem !important; max-width: none !important; }
#title { font-size: 1.05rem; font-weight: 650; letter-spacing: .01em; padding: .2rem .3rem; }
#title small { font-weight: 400; opacity: .7; margin-left: .6rem; }
#title a { float: right; font-weight: 400; font-size: .9rem; }
.html-container:has(#title) { padding-bottom: 0 !important; }
#chat { height: calc(100dvh - 306px) !important; min-height: 280px; }
#left, #right { height: calc(100dvh - 470px) !important; min-height: 200px; }
:is(#left, #right) button[aria-label=Clear] { display: none; }
.side { font-size: .9rem; opacity: .8; padding: 0 .3rem; }
.menus { align-items: end; }
.again { min-width: 2.6rem !important; max-width: 2.6rem; align-self: center; }
#chat, #left, #right, #box, #arena-box { border: 1px solid var(--border-color-primary) !important; }
.html-container:has(> .prose > :is(.notice, .side)) { padding: .1rem .3rem !important; }
.notice { min-height: 1.4em; font-size: .9rem; opacity: .85; padding: 0 .3rem; }
.notice .bad { color: #b3261e; font-weight: 500; }
.dark .notice .bad { color: #ff8a80; }
.wide { overflow-x: auto; }
table.gates, table.facts, table.results, table.tally {
  border-collapse: collapse; font-variant-numeric: tabular-nums; width: auto; margin: .3rem 0 !important; }
table:is(.gates, .facts, .results, .tally), table:is(.gates, .facts, .results, .tally) tr { border: 0 !important; }
table:is(.gates, .facts) :is(td, th) { border: 0 !important; }
table.gates td { min-width: 3.3rem; height: 1.9rem; text-align: center; font-size: .8rem; }
table.gates td { padding: 0 .2rem !important; }
table.gates.small td { min-width: .7rem; height: .9rem; padding: 0 !important; }
table.gates th { font-weight: 500; font-size: .8rem; opacity: .75; text-align: center; }
table.gates th { padding: .1rem .6rem !important; }
table.gates.small th:not(:first-child):not(.mean) { font-size: 0; padding: 0 !important; }
table.gates td.mean { padding-left: .8rem !important; opacity: .85; }
table.facts { margin-top: 1rem !important; }
table.facts td { padding: .15rem 0 !important; }
table.facts th { text-align: left; font-weight: 500; opacity: .7; padding: .15rem 1.2rem .15rem 0 !important; }
table:is(.results, .tally) :is(th, td) {
  padding: .3rem .7rem !important; border: 0 !important; border-bottom: 1px solid #8884 !important;
  text-align: right; white-space: nowrap; }
table:is(.results, .tally) :is(th, td):first-child { text-align: left; }
table.tally .bar { display: inline-block; height: .7rem; background: #0ea5e9; border-radius: .2rem; }
.key { font-size: .85rem; margin-top: .5rem; }
.key span { display: inline-block; padding: .1rem .5rem; }
.advice { font-weight: 500; margin: .2rem 0 .7rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
.pictures figure { flex: 1 1 22rem; max-width: 44rem; margin: 0; }
.pictures img { width: 100%; background: #fff; border-radius: .4rem; }
.pictures figcaption { font-size: .85rem; opacity: .75; }
footer { display: none !important; }
@media (max-width: 640px) {
  .gradio-container .main.fillable { padding: .1rem .4rem .4rem !important; }
  #title small { display: none; }
  #chat { height: calc(100dvh - 365px) !important; }
  .menus { flex-wrap: nowrap !important; gap: .4rem; }
  .menus .form { flex: 1 1 0 !important; min-width: 0 !important; flex-wrap: wrap !important; }
  .menus .again { flex: 0 0 2.4rem !important; min-width: 2.4rem !important; }
  .menus #model { flex: 1 0 100% !important; }
  .menus :is(#one, #other) { flex: 1 0 45% !important; }
  #left, #right { height: 32dvh !important; }
}
"""
