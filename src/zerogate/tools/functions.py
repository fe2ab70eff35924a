"""A user's own tool: any Python function with typed parameters.

    from zerogate.tools.functions import tool

    @tool
    def weather(city: str, days: int = 1) -> str:
        "What the weather will be."
        ...

Its name, docstring and annotations become the tool's name, description and JSON schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from zerogate.tools.tool import Limits, Sampling, Tool, ToolError

_SAMPLING, _LIMITS = Sampling(), Limits()


@overload
def tool(function: Callable[..., Any]) -> Tool: ...
@overload
def tool(
    *, name: str | None = None, examples: tuple[str, ...] = (), sampling: Sampling = ..., limits: Limits = ...
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    examples: tuple[str, ...] = (),
    sampling: Sampling = _SAMPLING,
    limits: Limits = _LIMITS,
) -> Any:
    """Make a tool of a function; a decorator, with or without settings.

    Args:
        function: its parameters are annotated with types that JSON has, or pydantic knows.
        name: of the tool; by default the function's.
        examples, sampling, limits: as for `Tool`.

    Raises:
        TypeError: a parameter without an annotation, one that takes any number of values, or an unknown type.
    """
    if function is None:
        return lambda found: tool(found, name=name, examples=examples, sampling=sampling, limits=limits)  # type: ignore[call-overload]
    adapters: dict[str, TypeAdapter[Any]] = {}
    properties: dict[str, Any] = {}
    required = []
    signature = inspect.signature(function, eval_str=True)
    for parameter in signature.parameters.values():
        where = f"{function.__name__}: the parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{where} cannot be given by name")
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{where} needs a type, such as {parameter.name}: str")
        try:
            adapters[parameter.name] = TypeAdapter(parameter.annotation)
            properties[parameter.name] = adapters[parameter.name].json_schema()
        except PydanticSchemaGenerationError as error:
            raise TypeError(f"{where} has a type that JSON does not have: {parameter.annotation}") from error
        if parameter.default is parameter.empty:
            required.append(parameter.name)

    def run(**given: Any) -> str:
        values = {}
        for key, value in given.items():
            try:
                values[key] = adapters[key].validate_python(value)
            except ValidationError as error:
                raise ToolError(f"{key}: {error.errors()[0]['msg'].lower()}, not {value!r}") from error
        return str(function(**values))

    described = " ".join((inspect.getdoc(function) or function.__name__).split("\n\n")[0].split())
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name or function.__name__, described, run, schema, examples, sampling, limits)
