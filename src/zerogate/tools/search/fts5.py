"""SQLite's full-text search: an index of any size that stays on disk, ranked by BM25, with stems of English words.

What is indexed are `words_of` a text, as in a query; the text itself stands beside them, to be shown.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from zerogate.tools.search.documents import Passage
from zerogate.tools.search.words import words_of

_FILE = "passages.sqlite"
_MOST_TERMS = 64


class Fts5:
    """An open index; `search` may be called from any thread."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @classmethod
    def build(cls, passages: Sequence[Passage], folder: Path) -> None:
        """Write an index."""
        connection = sqlite3.connect(folder / _FILE)
        with connection:
            # `words_of` has found the words, in any script: the tokenizer has only to part them at spaces.
            connection.execute(
                "CREATE VIRTUAL TABLE passages USING fts5(title_words, text_words, title UNINDEXED, text UNINDEXED, "
                "tokenize='porter ascii')"
            )
            rows = ((" ".join(words_of(p.title)), " ".join(words_of(p.text)), p.title, p.text) for p in passages)
            connection.executemany("INSERT INTO passages VALUES (?, ?, ?, ?)", rows)
            connection.execute("INSERT INTO passages(passages) VALUES ('optimize')")
        connection.close()

    @classmethod
    def open(cls, folder: Path) -> Fts5:
        """Open one."""
        return cls(folder / _FILE)

    def search(self, query: str, count: int) -> list[tuple[Passage, float]]:
        """The best passages. Words of the query are looked for as they stand: FTS5's own syntax has no effect."""
        words = words_of(query)[:_MOST_TERMS]
        if not words:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)  # quoted, so AND, NEAR, * and : are words like others
        connection = sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = connection.execute(
                "SELECT title, text, bm25(passages, 2.0, 1.0) AS score FROM passages WHERE passages MATCH ? "
                "ORDER BY score LIMIT ?",
                (asked, count),
            ).fetchall()
        finally:
            connection.close()
        return [(Passage(title, text), -score) for title, text, score in rows]
