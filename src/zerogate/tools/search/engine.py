"""What a search engine is, and the tool that asks one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zerogate.errors import UserError
from zerogate.tools.search.bm25 import Bm25
from zerogate.tools.search.documents import Passage, fingerprint, read_documents
from zerogate.tools.search.fts5 import Fts5
from zerogate.tools.tool import Sampling, Tool, ToolError

EXAMPLES = (
    "The lighthouse of Brenna was built by [Search(lighthouse of Brenna) -> Brenna > The tower was raised in 1842 by "
    "the masons of Holt.] the masons of Holt.",
    "Sea holly flowers in [Search(when does sea holly flower) -> Sea holly > Blue heads open from June to September.] "
    "summer.",
    "Its author, [Search(who wrote The Salt Road) -> The Salt Road > A novel by Ines Marrow.] Ines Marrow, never saw "
    "the desert.",
)


class Searches(Protocol):
    """What can be asked for passages."""

    def search(self, query: str, count: int) -> list[tuple[Passage, float]]:
        """The best passages and their scores, best first; none where nothing fits. Any text is a query."""


class Engine(Searches, Protocol):
    """An index of passages on disk."""

    @classmethod
    def build(cls, passages: Sequence[Passage], folder: Path) -> None:
        """Write an index into an empty folder."""

    @classmethod
    def open(cls, folder: Path) -> Engine:
        """Open one."""


ENGINES: dict[str, type[Bm25] | type[Fts5]] = {"bm25": Bm25, "fts5": Fts5}
"""Okapi BM25 by bm25s in memory, and SQLite's FTS5 from the disk."""


@dataclass(frozen=True)
class Found:
    """A passage that was found, with its score."""

    passage: Passage
    score: float

    def __str__(self) -> str:
        return f"{self.passage.title} > {self.passage.text}"


def open_engine(kind: str, documents: str | Path, indexes: Path) -> Engine:
    """An engine over documents; its index is made if it is not there or the documents have changed.

    Args:
        kind: one of `ENGINES`.
        documents: as for `read_documents`.
        indexes: the folder where indexes are kept.

    Raises:
        UserError: no such engine, documents that cannot be read, or none.
    """
    if kind not in ENGINES:
        raise UserError(f"unknown search engine {kind!r}; there are: {', '.join(ENGINES)}")
    engine = ENGINES[kind]
    if not Path(documents).expanduser().exists():
        list(read_documents(documents))  # which says what is wrong
    folder = indexes / f"{kind}-{fingerprint(documents)}"
    if not folder.is_dir():
        passages = list(read_documents(documents))
        if not passages:
            raise UserError(f"the documents at {documents} are empty")
        indexes.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix="new-", dir=indexes))
        try:
            engine.build(passages, new)
            if not folder.is_dir():
                new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return engine.open(folder)


def search(engine: Searches, name: str = "Search", results: int = 1) -> Tool:
    """The tool: the best passages as `Title > snippet`.

    Args:
        engine: what is asked.
        name: of the tool; two engines need two.
        results: how many passages to show.
    """

    def run(input: str) -> str:
        found = [Found(*one) for one in engine.search(input, results)]
        if not found:
            raise ToolError(f"nothing was found for {input[:80]!r}")
        return " | ".join(map(str, found))

    return Tool(
        name,
        "Searches the documents and gives the passage that fits best.",
        run,
        examples=tuple(example.replace("[Search(", f"[{name}(") for example in EXAMPLES),
        sampling=Sampling(threshold=0.05, positions=5, calls=5, gain=1.0),
    )
