"""The personas to choose from: those that ship, the user's files, and what was written on the page itself.

All are YAML files as `zerogate chat` has them (`inference/personas`). They are read anew whenever they are asked for,
so an edited file counts at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from zerogate.errors import UserError
from zerogate.inference.personas import Persona, load_persona, shipped
from zerogate.training.checkpoints import write_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,39}")
MOST, LONGEST = 200, 20_000
"""Personas that may be written on the page, and characters of one: a visitor must not fill the disk."""


@dataclass(frozen=True)
class People:
    """All personas of a page.

    Attributes:
        folder: where those written on the page lie, one file each.
        files: the user's own, by path.
    """

    folder: Path
    files: Sequence[Path] = ()

    def places(self) -> dict[str, str]:
        """What `load_persona` takes, by the name in the menu. Where names meet, the user's file counts."""
        found = {name: name for name in shipped()}
        found |= {file.stem: str(file) for file in sorted(self.folder.glob("*.yaml"))}
        return found | {file.stem: str(file) for file in self.files}

    def get(self, name: str) -> Persona:
        """The persona of this name.

        Raises:
            UserError: there is none, or its file is broken.
        """
        places = self.places()
        if name not in places:
            raise UserError(f"there is no persona {name[:80]!r}; there are: {', '.join(places)}")
        return load_persona(places[name])

    def write(self, name: str, context: str, greeting: str, history: int | None) -> str:
        """Keep a persona, in place of the one of that name; returns the name.

        Raises:
            UserError: the name cannot be one or is taken by a file that is not the page's, or there is too much.
        """
        name = name.strip()
        if not _NAME.fullmatch(name):
            raise UserError(
                "a persona's name has letters, digits, spaces, `_` and `-`, a letter or digit first, 40 at most"
            )
        if name in shipped() or name in {file.stem for file in self.files}:
            raise UserError(f"{name!r} is a persona's name already; choose another")
        if not context.strip() and not greeting.strip():
            raise UserError("a persona needs a context (what it is told) or a greeting")
        if len(context) + len(greeting) > LONGEST:
            raise UserError(f"a persona may have {LONGEST:,} characters")
        target = self.folder / f"{name}.yaml"
        if not target.exists() and len(list(self.folder.glob("*.yaml"))) >= MOST:
            raise UserError(f"there are {MOST} personas already; delete some of {self.folder.name}/")
        fields: dict[str, object] = {"name": name, "greeting": greeting.strip(), "context": context.strip()}
        fields |= {"history": history} if history is not None else {}
        write_text(target, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
        load_persona(str(target))
        return name
