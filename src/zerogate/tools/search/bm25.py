"""Okapi BM25 by bm25s: the index is a few arrays in memory, made once and kept on disk."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerogate.errors import UserError
from zerogate.tools.search.documents import Passage
from zerogate.tools.search.words import words_of

_PASSAGES = "passages.jsonl"


class Bm25:
    """An open index."""

    def __init__(self, index: Any, passages: list[Passage]) -> None:
        self.index, self.passages = index, passages

    @classmethod
    def build(cls, passages: Sequence[Passage], folder: Path) -> None:
        """Write an index.

        Raises:
            UserError: bm25s is not installed.
        """
        index = _bm25s().BM25()
        index.index([words_of(f"{p.title} {p.text}") for p in passages], show_progress=False)
        index.save(str(folder), show_progress=False)
        rows = (json.dumps([p.title, p.text], ensure_ascii=False) for p in passages)
        (folder / _PASSAGES).write_text("\n".join(rows) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Bm25:
        """Open one."""
        lines = (folder / _PASSAGES).read_text(encoding="utf-8").splitlines()
        return cls(_bm25s().BM25.load(str(folder), show_progress=False), [Passage(*json.loads(line)) for line in lines])

    def search(self, query: str, count: int) -> list[tuple[Passage, float]]:
        """The best passages; those without a word of the query are none."""
        known = [word for word in words_of(query) if word in self.index.vocab_dict]
        if not known:
            return []
        count = min(count, len(self.passages))  # bm25s refuses to be asked for more than there is
        places, scores = self.index.retrieve([known], k=count, show_progress=False, n_threads=1)
        found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.passages[place], score) for place, score in found if score > 0]


def _bm25s() -> Any:
    if importlib.util.find_spec("bm25s") is None:
        raise UserError("the search engine bm25 needs bm25s: pip install 'zerogate[tools]', or take fts5")
    import bm25s

    return bm25s
