"""Sampling settings under a name. A preset holds only what differs from the defaults, so it follows when those change.

{"wild": {"temperature": 1.2, "top_p": 0.95}, "short": {"max_new_tokens": 32}}

The seed is none of a preset's: it says how to draw, not which draw.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.inference.personas import load_persona
from zerogate.training.checkpoints import write_text

DEFAULT = "default"
"""The preset that changes nothing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}")
MOST = 200


def differences(sampling: Sampling) -> dict[str, Any]:
    """What of these settings differs from the defaults, the seed aside."""
    plain = Sampling().as_dict()
    return {name: value for name, value in sampling.as_dict().items() if name != "seed" and value != plain[name]}


class Presets:
    """The presets of a page: a few that ship, and those kept in a file.

    Args:
        file: JSON, written when the first preset is kept.

    Raises:
        UserError: the file is there and holds something else.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._lock = file, threading.Lock()
        self.shipped = {DEFAULT: dict[str, Any](), **load_persona("assistant").presets}
        self.kept = self._read()

    def all(self) -> dict[str, dict[str, Any]]:
        """Every preset by name."""
        return self.shipped | self.kept

    def get(self, name: str) -> Sampling:
        """The settings of a preset.

        Raises:
            UserError: there is none of that name.
        """
        found = self.all().get(name)
        if found is None:
            raise UserError(f"there is no preset {name[:80]!r}; there are: {', '.join(self.all())}")
        return Sampling().updated(found)

    def keep(self, name: str, sampling: Sampling) -> str:
        """Keep settings under a name, in place of what it had; returns the name.

        Raises:
            UserError: the name cannot be one, or is one that ships.
        """
        name = name.strip()
        if not _NAME.fullmatch(name):
            raise UserError("a preset's name has letters, digits, spaces, `_`, `.` and `-`, 40 at most")
        if name in self.shipped:
            raise UserError(f"{name!r} comes with the page; choose another name")
        with self._lock:
            if name not in self.kept and len(self.kept) >= MOST:
                raise UserError(f"there are {MOST} presets already; delete one first")
            self._write({**self.kept, name: differences(sampling)})
        return name

    def drop(self, name: str) -> None:
        """Forget a preset.

        Raises:
            UserError: it ships with the page, or there is none.
        """
        with self._lock:
            if name not in self.kept:
                raise UserError(f"{name[:80]!r} is none of the presets that were kept here")
            self._write({other: value for other, value in self.kept.items() if other != name})

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"cannot read {self.file}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{self.file} is not valid JSON; move it away or mend it") from error
        if not isinstance(found, dict):
            raise UserError(f"{self.file} should hold presets by name; move it away or mend it")
        for name, value in found.items():
            try:
                Sampling().updated(value if isinstance(value, dict) else {str(value): 0})
            except UserError as error:
                raise UserError(f"{self.file}, preset {name!r}: {error}") from error
        return found

    def _write(self, kept: dict[str, dict[str, Any]]) -> None:
        write_text(self.file, json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
        self.kept = kept
