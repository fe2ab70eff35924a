"""The training methods a recipe can name, in one table, and how a recipe's `adapter:` section becomes a PEFT config.

A method is a PEFT config class and the settings we add to its defaults. Trained norms go with any of them:
`modules_to_save: [input_layernorm, post_attention_layernorm]`. To add a method, add a row.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from pydantic import TypeAdapter, ValidationError

from zerogate.errors import UserError


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        summary: what it is, for messages and cards.
        config: gives the PEFT config class; None trains the base itself.
        defaults: settings a recipe need not repeat.
    """

    summary: str
    config: Callable[[], type[PeftConfig]] | None
    defaults: dict[str, Any] = field(default_factory=dict)


def _zero_init() -> type[PeftConfig]:
    from zerogate import ZeroInitConfig

    return ZeroInitConfig


def _lora() -> type[PeftConfig]:
    from peft import LoraConfig

    return LoraConfig


def _adaption_prompt() -> type[PeftConfig]:
    from peft import AdaptionPromptConfig

    return AdaptionPromptConfig


METHODS: dict[str, Method] = {
    "zero_init": Method("zero-init attention: prompts in the upper layers behind gates that start at zero", _zero_init),
    "lora": Method("LoRA (PEFT)", _lora, {"target_modules": ["q_proj", "v_proj"]}),
    "adaption_prompt": Method("AdaptionPrompt (PEFT): one gate per layer, no tanh", _adaption_prompt),
    "full": Method("full fine-tuning: every weight of the base", None),
}

# Set by the run, not by a recipe.
_RESERVED = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "inference_mode",
    "revision",
}


def method_of(adapter: dict[str, Any]) -> Method:
    """The table's row for a recipe's `adapter:` section.

    Raises:
        UserError: no method, or an unknown one.
    """
    name = adapter.get("method")
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        given = "adapter.method is missing" if name is None else f"unknown adapter.method {name!r}"
        raise UserError(f"{given}{hint} Known methods: {', '.join(METHODS)}")
    return METHODS[name]


def adapter_keys(adapter: dict[str, Any]) -> list[str]:
    """The settings the section's method knows."""
    method = method_of(adapter)
    if method.config is None:
        return []
    return [f.name for f in dataclasses.fields(method.config()) if f.init and f.name not in _RESERVED]


def build_config(adapter: dict[str, Any]) -> PeftConfig | None:
    """Make the PEFT config a recipe asks for; None for full fine-tuning.

    Raises:
        UserError: a value of the wrong type, or one the method refuses (K < 1 and the like).
    """
    method = method_of(adapter)
    if method.config is None:
        return None
    config_class = method.config()
    hints = typing.get_type_hints(config_class)
    settings = dict(method.defaults)
    for key, value in adapter.items():
        if key == "method":
            continue
        try:
            settings[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            problems = "; ".join(dict.fromkeys(entry["msg"][0].lower() + entry["msg"][1:] for entry in error.errors()))
            raise UserError(f"adapter.{key}: {problems}, not {value!r}") from error
    try:
        return config_class(task_type="CAUSAL_LM", **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"adapter ({adapter['method']}): {error}") from error
