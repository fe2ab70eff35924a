"""What models are called: the base by its short name, adapters by the names of their folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

_FOLDERS = re.compile(r"(?:/[^\s/'\",:;]+)+/(?=[^\s/])")


def without_folders(text: str) -> str:
    """A message for clients: where things lie on the server is none of their business, only what they are called."""
    return _FOLDERS.sub("", text)


def base_name(base: str) -> str:
    """How clients call the base: `pocket`, a Hub id, or the last part of a folder's name."""
    path = Path(base).expanduser()
    return path.resolve().name if path.is_dir() else base


def bad_name(name: str, base: str) -> str:
    """Why an adapter cannot have this name; empty if it can."""
    if not _NAME.fullmatch(name):
        return (
            f"{name!r} cannot name a model: letters, digits, `_`, `-` and `.`, a letter or digit first, 100 at most; "
            "rename the folder"
        )
    return "it has the name of the base; rename the folder" if name == base_name(base) else ""


def unknown_model(name: str, known: Collection[str], most: int = 20) -> str:
    """What to answer to a name that nobody has: the likely ones, or all, as far as they are not too many."""
    shown = name if len(name) <= 80 else name[:80] + "..."
    near = difflib.get_close_matches(name[:100], known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(list(known)[:most])
    more = f" and {len(known) - most} more (GET /v1/models lists them)" if len(known) > most else ""
    return f"The model {shown!r} does not exist.{hint} There are: {listed}{more}."
