"""One tool: what it is called, what it is for, and a function from arguments to text that runs within limits.

Whatever a model writes reaches the function as plain values that fit the tool's JSON schema, never as code. What comes
back is cleaned text of bounded length, or an error that is kept in the record of the call.
"""

from __future__ import annotations

import json
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""The schema of a tool that takes one text."""

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list,), "object": (dict,), "null": (type(None),),
}  # fmt: skip


class ToolError(Exception):
    """What a tool cannot do, in a sentence that may be shown to the model and to people."""


@dataclass(frozen=True)
class Limits:
    """How far one call may go.

    Attributes:
        seconds: until it is given up.
        input_characters: longest arguments, as JSON.
        output_characters: what is longer is cut there.
    """

    seconds: float = 5.0
    input_characters: int = 2_000
    output_characters: int = 600


@dataclass(frozen=True)
class Sampling:
    """How a model's own calls are looked for and kept (Toolformer, arXiv 2302.04761, section 2 and appendix A).

    Attributes:
        threshold: tau_s, the least probability of a call's beginning at a position.
        positions: k, at most so many positions of a text, the likeliest.
        calls: m, calls sampled at each.
        gain: tau_f, how much easier the text must become to keep a call, in nats.
    """

    threshold: float = 0.05
    positions: int = 5
    calls: int = 5
    gain: float = 1.0


@dataclass(frozen=True)
class Called:
    """The record of one call.

    Attributes:
        name, arguments: what was asked.
        result: what came; empty after an error.
        error: why nothing came, or None.
        cut: whether the result was longer than the limit.
        seconds: how long it took.
    """

    name: str
    arguments: dict[str, Any]
    result: str
    error: str | None = None
    cut: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: letters, digits and underscores.
        description: a sentence for models and people.
        run: takes the schema's properties as keywords and returns text; raises `ToolError`.
        parameters: JSON schema of the arguments; one text called `input` where nothing else is said.
        examples: texts in which the tool is called where it helps, for showing a model how (Toolformer's prompts).
        sampling: for finding calls in texts.
        limits: of one call.
    """

    name: str
    description: str
    run: Callable[..., str]
    parameters: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    examples: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.name.isascii():
            raise ValueError(f"a tool's name is of letters, digits and underscores, not {self.name!r}")

    def arguments(self, given: str | Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that fit the schema, from a text (one value, or a JSON object) or a mapping.

        Raises:
            ToolError: which does not fit.
        """
        properties: Mapping[str, Any] = self.parameters.get("properties", {})
        if isinstance(given, str):
            given = self._from_text(given, properties)
        if len(json.dumps(given, default=str)) > self.limits.input_characters:
            raise ToolError(f"the arguments are longer than {self.limits.input_characters:,} characters")
        if missing := [name for name in self.parameters.get("required", ()) if name not in given]:
            raise ToolError(f"{self.name} needs {', '.join(missing)}")
        if strange := [name for name in given if name not in properties]:
            raise ToolError(f"{self.name} takes {', '.join(properties) or 'nothing'}, not {strange[0]!r}")
        for name, value in given.items():
            kinds = _kinds(properties[name])
            if kinds and not any(_fits(value, kind) for kind in kinds):
                wanted = " or ".join(kinds)
                raise ToolError(f"{self.name}: {name} is to be of type {wanted}, not {type(value).__name__}")
            if (allowed := properties[name].get("enum")) is not None and value not in allowed:
                raise ToolError(f"{self.name}: {name} is one of {', '.join(map(str, allowed))}")
        return dict(given)

    def _from_text(self, text: str, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        text = text.strip()
        if not text and not self.parameters.get("required"):
            return {}
        only = next(iter(properties)) if len(properties) == 1 else None
        kinds = _kinds(properties[only]) if only is not None else []
        if only is not None and ("string" in kinds or not kinds):
            return {only: text}
        form = "a JSON object" if only is None else f"JSON of type {' or '.join(kinds)}"
        wanted = f"{self.name} takes {', '.join(properties) or 'nothing'}, as {form}"
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ToolError(wanted) from error
        if isinstance(found, dict):
            return found
        if only is None:
            raise ToolError(wanted)
        return {only: found}

    def call(self, given: str | Mapping[str, Any]) -> Called:
        """Run it. Nothing that happens inside gets out but as the record's `error`."""
        started = time.perf_counter()
        shown = {"input": given} if isinstance(given, str) else dict(given)

        def record(result: str = "", error: str | None = None, cut: bool = False) -> Called:
            return Called(self.name, shown, result, error, cut, time.perf_counter() - started)

        try:
            shown = self.arguments(given)
            found = _within(self.limits.seconds, lambda: self.run(**shown))
        except ToolError as error:
            return record(error=str(error))
        except Exception as error:  # a tool of the user's own may raise anything
            return record(error=f"{type(error).__name__}: {error}"[: self.limits.output_characters])
        text = clean(str(found))
        limit = self.limits.output_characters
        return record(text if len(text) <= limit else text[:limit].rstrip(), cut=len(text) > limit)


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The types that a JSON schema allows; none where it does not say."""
    kind = schema.get("type", [])
    return kind if isinstance(kind, list) else [kind]


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    return kind not in _KINDS or isinstance(value, _KINDS[kind])


def clean(text: str) -> str:
    """Text on one line: control and formatting characters gone, white space single."""
    kept = (" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(k for k in kept if k == " " or unicodedata.category(k)[0] != "C").split())


def _within(seconds: float, run: Callable[[], str]) -> str:
    """What `run` returns or raises, within some time. A thread that does not end in time is left to itself."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend((True, run()))
        except BaseException as error:
            outcome.extend((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() or len(outcome) < 2:
        raise ToolError(f"no answer within {seconds:g} seconds")
    worked, found = outcome
    if worked:
        return found  # type: ignore[no-any-return]
    if isinstance(found, Exception):
        raise found
    raise ToolError(f"the tool ended with {type(found).__name__}")
