"""Search over one's own documents: two engines behind one interface, each with an index on disk.

from zerogate.tools.search import open_engine, search
engine = open_engine("fts5", "notes/", cache_folder("search"))     # or "bm25"
search(engine).call("grey owl").result          # "Owls > The grey owl lives in ..."
"""

from zerogate.tools.search.documents import Passage, read_documents
from zerogate.tools.search.engine import ENGINES, Engine, Found, open_engine, search

__all__ = ["ENGINES", "Engine", "Found", "Passage", "open_engine", "read_documents", "search"]
