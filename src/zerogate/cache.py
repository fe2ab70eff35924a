"""Where zerogate keeps what can be made again: unpacked archives, image features.

`$ZEROGATE_CACHE` names the folder; by default it is `$XDG_CACHE_HOME/zerogate`, or `~/.cache/zerogate`.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder. It may not be there yet."""
    named = os.environ.get("ZEROGATE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zerogate"
