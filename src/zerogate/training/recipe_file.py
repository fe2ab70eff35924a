"""Read a recipe, apply `key=value` overrides from the command line, and turn every mistake into one clear message.

recipe = load_recipe("recipes/demo.yaml", ["train.steps=100", "adapter.prompt_length=20"])
"""

import difflib
import types
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from zerogate.errors import UserError
from zerogate.training.methods import METHODS, adapter_keys
from zerogate.training.problems.sections import recipe_class
from zerogate.training.recipe import Recipe

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `section.key=value`, the value written as in YAML.

    Raises:
        UserError: no such file, broken YAML (with its line), unknown keys (with the nearest known one), wrong values.
    """
    return parse_recipe(read_settings(path, Recipe, overrides), str(path))


def read_settings(path: str | Path, kind: type[BaseModel], overrides: list[str] | None = None) -> dict[str, Any]:
    """Read a YAML file of settings and apply overrides; `kind` is only asked for the names of its sections.

    Raises:
        UserError: no such file, broken YAML (with its line), no mapping, a broken override.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"recipe not found: {file} (looked in {Path.cwd()})")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file}: expected the sections {', '.join(kind.model_fields)}")
    for override in overrides or []:
        apply_override(settings, override)
    return settings


def parse_recipe(settings: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check settings that are already in memory. Same errors as `load_recipe`."""
    reports = settings.get("report_to")
    if isinstance(reports, str):  # one name, or none, may be written without a list
        settings = {**settings, "report_to": [] if reports == "none" else [reports]}
    elif reports is None:
        settings = {key: value for key, value in settings.items() if key != "report_to"}
    kind = recipe_class(settings)
    if kind is Recipe:
        settings = {key: value for key, value in settings.items() if key != "task"}  # it need not be said
    recipe = validate(kind, _with_rate(settings), source)
    method_keys = adapter_keys(recipe.adapter)  # raises for an unknown method
    for key in recipe.adapter:
        if key != "method" and key not in method_keys:
            method = recipe.adapter["method"]
            others = any(key in adapter_keys({"method": name}) for name in METHODS)
            anew = f'. For another method give the whole section: "adapter={{method: {method}}}"' if others else ""
            raise UserError(f"{source}: {_unknown(f'adapter.{key}', key, ['method', *method_keys])}{anew}")
    return recipe


def _with_rate(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the method's own learning rate, where they give none and the method has one.

    It is no rate for whole modules trained beside the adapter: a task's head, norms.
    """
    train, adapter = settings.get("train"), settings.get("adapter")
    if not isinstance(train, dict) or not isinstance(adapter, dict):
        return settings  # the schema says what is wrong
    method = METHODS.get(str(adapter.get("method")))
    if method is None or method.learning_rate is None:
        return settings
    if settings.get("task") not in (None, "causal_lm") or adapter.get("modules_to_save"):
        return settings
    if any(train.get(key) is not None for key in ("learning_rate", "base_learning_rate")):
        return settings
    return {**settings, "train": {**train, "learning_rate": method.learning_rate}}


def validate(kind: type[Model], settings: dict[str, Any], source: str) -> Model:
    """Check settings against a strict schema.

    Raises:
        UserError: every mistake in one message: unknown keys with the nearest known one, missing keys, wrong values.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        lines = [_explain(entry, kind) for entry in error.errors()]
        raise UserError(f"{source}: " + "; ".join(dict.fromkeys(lines))) from error


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


def dump_recipe(recipe: BaseModel) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _number(text: str) -> str | float:
    # YAML 1.1 reads 1e-3 as text; everyone who types it means the number.
    try:
        return float(text)
    except ValueError:
        return text


def _explain(entry: Any, kind: type[BaseModel]) -> str:
    names, models = _field_path(entry["loc"], kind)
    where = ".".join(names) or "recipe"
    match entry["type"]:
        case "extra_forbidden":
            return _unknown(where, names[-1], list(models[-1].model_fields))
        case "missing":
            return f"{where} is missing"
        case "value_error":
            return f"{where}: {entry['ctx']['error']}"
    return f"{where}: {entry['msg'][0].lower()}{entry['msg'][1:]}, not {entry['input']!r}"


def _unknown(where: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown key {where}; {hint}"


def _field_path(loc: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """A pydantic location as the user's keys, without what names a branch of a union, and the section of each key.

    An entry of a list is its number from 1, which is no key: `methods.2.adapter`.
    """
    names: list[str] = []
    sections: list[type[BaseModel]] = []
    section: type[BaseModel] | None = kind
    for part in loc:
        if section is None:
            break
        if isinstance(part, int) and names:
            names.append(str(part + 1))
            continue
        names.append(str(part))
        sections.append(section)
        field = section.model_fields.get(str(part))
        section = _section_in(field.annotation) if field is not None else None
    return names, sections


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated, tuple, list):
        return next((found for found in map(_section_in, get_args(annotation)) if found), None)
    return None
