"""The gates of an adapter as a table of colours, layers by heads, and what else its folder says of it. HTML as text.

Red above zero and blue below, as `zerogate inspect` has them; the number is in the cell, or in its title where a cell
is too small for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from zerogate.bases.facts import AdapterFacts
from zerogate.serving.names import without_folders

if TYPE_CHECKING:
    from torch import Tensor

FEW_HEADS = 16
"""Most heads for which the numbers are written into the cells."""


def facts_table(facts: AdapterFacts) -> str:
    """What an adapter is."""
    rows = {
        "method": facts.method,
        "made for": without_folders(facts.base) if facts.base else "not recorded",
        "parameters": f"{facts.parameters:,} ({facts.file_bytes / 1000:,.1f} kB on disk)",
        "layers": f"{len(facts.layers)}" if facts.layers else "none by number",
    }
    if facts.prompt_length is not None:
        rows["prompts"] = f"{facts.prompt_length} positions of width {facts.width} in each layer"
    if facts.images is not None:
        rows["sees"] = f"with {without_folders(facts.images.encoder or 'an encoder that is not recorded')}"
    if facts.template is not None:
        rows["asked with"] = f"the {facts.template} template"
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f'<table class="facts">{cells}</table>'


def heat_map(gates: Mapping[int, Tensor]) -> str:
    """Layers by heads, the top layer first.

    Args:
        gates: effective gates [H] (or [1]) by layer.
    """
    most = max(float(gate_H.abs().max()) for gate_H in gates.values())
    heads = max(len(gate_H) for gate_H in gates.values())
    written = heads <= FEW_HEADS
    top = "".join(f"<th>{head}</th>" for head in range(heads))
    lines = [f'<tr><th>layer</th>{top}<th class="mean">mean |g|</th></tr>']
    for layer in sorted(gates, reverse=True):
        values = gates[layer].tolist()
        cells = "".join(_cell(gate, most, f"layer {layer}, head {head}", written) for head, gate in enumerate(values))
        mean = sum(map(abs, values)) / len(values)
        lines.append(f'<tr><th>{layer}</th>{cells}<td class="mean">{mean:.3f}</td></tr>')
    size = "" if written else " small"
    return (
        f'<div class="wide"><table class="gates{size}">{"".join(lines)}</table></div>'
        f'<p class="key">What multiplies each head\'s attention to the prompts. '
        f'<span style="background:{_colour(-1)};color:#fff">&minus;{most:.3f}</span>'
        f'<span style="background:{_colour(0)};color:#111">0</span>'
        f'<span style="background:{_colour(1)};color:#fff">+{most:.3f}</span></p>'
    )


def _cell(gate: float, most: float, where: str, written: bool) -> str:
    share = gate / most if most > 0 else 0.0
    ink = "#fff" if abs(share) > 0.6 else "#111"
    shown = f"{gate:+.2f}" if written else ""
    return f'<td title="{where}: {gate:+.4f}" style="background:{_colour(share)};color:{ink}">{shown}</td>'


def _colour(share: float) -> str:
    """Between blue (-1), white (0) and red (1)."""
    full = (178, 24, 43) if share > 0 else (33, 102, 172)
    part = min(1.0, abs(share))
    return "rgb({},{},{})".format(*(round(255 + (value - 255) * part) for value in full))
