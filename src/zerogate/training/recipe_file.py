"""Read a recipe, apply `key=value` overrides from the command line, and turn every mistake into one clear message.

recipe = load_recipe("recipes/demo.yaml", ["train.steps=100", "adapter.prompt_length=20"])
"""

import difflib
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from zerogate.errors import UserError
from zerogate.training.methods import adapter_keys
from zerogate.training.recipe import Recipe


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `section.key=value`, the value written as in YAML.

    Raises:
        UserError: no such file, broken YAML (with its line), unknown keys (with the nearest known one), wrong values.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"recipe not found: {file} (looked in {Path.cwd()})")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file}: expected the sections {', '.join(Recipe.model_fields)}")
    for override in overrides or []:
        apply_override(settings, override)
    return parse_recipe(settings, str(file))


def parse_recipe(settings: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check settings that are already in memory. Same errors as `load_recipe`."""
    reports = settings.get("report_to")
    if isinstance(reports, str):  # one name, or none, may be written without a list
        settings = {**settings, "report_to": [] if reports == "none" else [reports]}
    elif reports is None:
        settings = {key: value for key, value in settings.items() if key != "report_to"}
    try:
        recipe = Recipe.model_validate(settings)
    except ValidationError as error:
        lines = [_explain(entry) for entry in error.errors()]
        raise UserError(f"{source}: " + "; ".join(dict.fromkeys(lines))) from error
    method_keys = adapter_keys(recipe.adapter)  # raises for an unknown method
    for key in recipe.adapter:
        if key != "method" and key not in method_keys:
            raise UserError(f"{source}: {_unknown(f'adapter.{key}', key, ['method', *method_keys])}")
    return recipe


def apply_override(settings: dict[str, Any], override: str) -> None:
    """Set one dotted key in place: `train.steps=100`.

    Raises:
        UserError: it is not of the form key=value, or a key on the way is not a section.
    """
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"an override must look like section.key=value, not {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of the override {override!r} is not valid YAML") from error
    if isinstance(value, str):
        value = _number(value)
    *parents, last = dotted.split(".")
    place: Any = settings
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise UserError(f"cannot set {dotted}: {parent} is not a section")
    place[last] = value


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _number(text: str) -> str | float:
    # YAML 1.1 reads 1e-3 as text; everyone who types it means the number.
    try:
        return float(text)
    except ValueError:
        return text


def _explain(entry: Any) -> str:
    names = _field_path(entry["loc"])
    where = ".".join(names) or "recipe"
    match entry["type"]:
        case "extra_forbidden":
            return _unknown(where, names[-1], _siblings(names[:-1]))
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {entry['ctx']['error']}"
    return f"{where}: {entry['msg'][0].lower()}{entry['msg'][1:]}, not {entry['input']!r}"


def _unknown(where: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {where}; {hint}"


def _field_path(loc: tuple[int | str, ...]) -> list[str]:
    """Drop from a pydantic location what names a branch of a union and not a key."""
    names: list[str] = []
    model: type[BaseModel] | None = Recipe
    for part in loc:
        if model is None:
            break
        names.append(str(part))
        field = model.model_fields.get(str(part))
        model = _model_in(field.annotation) if field is not None else None
    return names


def _siblings(parents: list[str]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    for parent in parents:
        assert model is not None
        model = _model_in(model.model_fields[parent].annotation)
    assert model is not None
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for found in map(_model_in, get_args(annotation)) if found), None)
    return None
