"""The tools of `pocket_search`'s world: two search engines, each with its own notes, and a translator by a glossary.

tools: ["zerogate.toolform.pocket_tools:search", "zerogate.toolform.pocket_tools:search2", ...]
"""

from __future__ import annotations

import json
from functools import cache

from zerogate.cache import cache_folder
from zerogate.toolform.pocket_search import GLOSSARY, notes
from zerogate.tools.search.documents import Passage
from zerogate.tools.search.engine import Engine, open_engine
from zerogate.tools.search.engine import search as search_tool
from zerogate.tools.translation import Glossary, translation
from zerogate.training.checkpoints import write_text


class Notes:
    """An engine over notes; they are written and indexed when something is first asked.

    Args:
        kind: of the engine.
        which: of the notes.
    """

    def __init__(self, kind: str, which: str) -> None:
        self.kind, self.which = kind, which

    def search(self, query: str, count: int) -> list[tuple[Passage, float]]:
        """As `Engine.search`."""
        return _opened(self.kind, self.which).search(query, count)


@cache
def _opened(kind: str, which: str) -> Engine:
    folder = cache_folder() / "pocket-search"
    file, text = folder / f"{which}.jsonl", "".join(json.dumps(row) + "\n" for row in notes(which))
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    return open_engine(kind, file, folder / "indexes")


search = search_tool(Notes("fts5", "buildings"))
search2 = search_tool(Notes("bm25", "people"), "Search2")
translator = translation(Glossary(GLOSSARY))
