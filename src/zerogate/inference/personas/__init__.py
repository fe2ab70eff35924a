"""Personas: who the model is in a conversation. One YAML file each; those beside this file ship with the package.

    name: teacher
    greeting: Good morning. What shall we look at?        # shown, never sent to the model
    context: You are a patient teacher.                   # always sent, never cut
    examples:                                             # always sent, after the context
      - user: What is two and three?
        assistant: Two and three is five.
    history: 3                                            # earlier exchanges to send; leave it out to send all that fit
    sampling: {temperature: 0.1}                          # settings to begin with
    presets: {lively: {temperature: 0.9, top_p: 0.95}}    # chosen with /params lively

Only `name` is needed.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError


class Example(BaseModel):
    """One exchange that shows how the persona talks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str
    assistant: str


class Persona(BaseModel):
    """What a persona file may hold; see the module's text for each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    greeting: str = ""
    context: str = ""
    examples: list[Example] = []
    history: Annotated[int, Field(ge=0)] | None = None
    sampling: dict[str, Any] = {}
    presets: dict[str, dict[str, Any]] = {}


def shipped() -> list[str]:
    """Names of the personas inside the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_persona(name: str) -> Persona:
    """Read a persona by the name of one that ships, or by the path of a YAML file.

    Raises:
        UserError: no such persona, malformed YAML (with its line), an unknown or missing field, or a bad setting.
    """
    path = Path(name).expanduser()
    if name in shipped():
        path = Path(str(_folder())) / f"{name}.yaml"
    elif not path.is_file():
        raise UserError(f"there is no persona {name!r}: give one of {', '.join(shipped())}, or the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold fields such as `name:` and `context:`")
    try:
        persona = Persona.model_validate(content)
        for settings in (persona.sampling, *persona.presets.values()):
            Sampling().updated(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        fields = ", ".join(Persona.model_fields)
        raise UserError(f"{path}, {where}: {first['msg'].lower()}. A persona's fields are: {fields}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return persona


def _folder() -> Any:
    return resources.files("zerogate.inference.personas")
