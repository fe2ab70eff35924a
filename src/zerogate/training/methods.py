"""The training methods a recipe can name, in one table, and how a recipe's `adapter:` section becomes a PEFT config.

A method is a PEFT config class, the settings we add to its defaults, and those that make it what it is. Trained norms
go with any of them: `modules_to_save: [input_layernorm, post_attention_layernorm]`. To add a method, add a row.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from pydantic import TypeAdapter, ValidationError
from torch import nn

from zerogate.adapters.bottleneck import PRESETS
from zerogate.adapters.bottleneck.model import list_linears
from zerogate.errors import UserError


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        summary: what it is, for messages and cards.
        config: gives the PEFT config class; None trains the base itself.
        defaults: settings a recipe need not repeat.
        fixed: settings that make the method what it is, and that no recipe changes.
        unlike: what the method cannot be combined with in `train:`, by key.
        takes: the only settings of its config that the method is about; None: all.
        learning_rate: AdamW's peak rate where a recipe gives none, if one rate suits bases of all widths; else None.
    """

    summary: str
    config: Callable[[], type[PeftConfig]] | None
    defaults: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)
    takes: tuple[str, ...] | None = None
    learning_rate: float | None = None


def _ours(name: str) -> Callable[[], type[PeftConfig]]:
    def config() -> type[PeftConfig]:
        import zerogate

        return getattr(zerogate, name)  # type: ignore[no-any-return]

    return config


def _pefts(name: str) -> Callable[[], type[PeftConfig]]:
    def config() -> type[PeftConfig]:
        import peft

        return getattr(peft, name)  # type: ignore[no-any-return]

    return config


_CACHED = "it puts its prefix into the layers' caches, which transformers takes away from checkpointed layers"

METHODS: dict[str, Method] = {
    "zero_init": Method(
        "zero-init attention: prompts in the upper layers behind gates that start at zero",
        _ours("ZeroInitConfig"),
        learning_rate=0.1,  # docs/training.md says why, docs/benchmarks.md how well it does from 64 to 512 wide
    ),
    "bottleneck": Method(
        "bottleneck adapters: small networks beside or behind Linear layers", _ours("BottleneckConfig")
    ),
    **{
        name: Method(f"bottleneck adapters: {preset.summary}", _ours("BottleneckConfig"), fixed={"preset": name})
        for name, preset in PRESETS.items()
    },
    "lora": Method("LoRA (PEFT)", _pefts("LoraConfig")),
    "dora": Method("DoRA (PEFT): LoRA with magnitudes of its own", _pefts("LoraConfig"), fixed={"use_dora": True}),
    "prefix_tuning": Method(
        "prefix tuning (PEFT): keys and values before every layer's own, P-tuning v2",
        _pefts("PrefixTuningConfig"),
        {"num_virtual_tokens": 10},
        unlike={"gradient_checkpointing": _CACHED},
    ),
    "prompt_tuning": Method(
        "prompt tuning (PEFT): learned embeddings before the text",
        _pefts("PromptTuningConfig"),
        # Embeddings of the base's own tokens are of the size it expects; N(0, 1) is far from it.
        {"num_virtual_tokens": 10, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
    "ia3": Method("IA3 (PEFT): keys, values and MLP features rescaled", _pefts("IA3Config")),
    "ln_tuning": Method("LN tuning (PEFT): the layer norms", _pefts("LNTuningConfig")),
    "bitfit": Method("BitFit: the biases", _ours("BitFitConfig")),
    "affine": Method("affine tuning (LLaMA-Adapter V2): scales and shifts of all layers", _ours("AffineConfig")),
    "adaption_prompt": Method("AdaptionPrompt (PEFT): one gate per layer, no tanh", _pefts("AdaptionPromptConfig")),
    "zero_init_prefix": Method(
        "zero-init attention over P-tuning v2's prefixes: keys and values themselves behind gates from zero",
        _ours("GatedPrefixConfig"),
        learning_rate=0.1,
    ),
    "vpt": Method("visual prompt tuning: learned tokens beside a picture's patches", _ours("VPTConfig")),
    "side": Method("side-tuning: a small network that sees the picture too", _ours("SideConfig")),
    "coop": Method(
        "CoOp: the words before a class's name, learned",
        _ours("ContextConfig"),
        fixed={"depth": 1, "coupled": False, "conditional": False},
    ),
    "cocoop": Method(
        "CoCoOp: the words before a class's name, learned, and changed by the picture",
        _ours("ContextConfig"),
        fixed={"depth": 1, "coupled": False, "conditional": True},
    ),
    "maple": Method(
        "MaPLe: context in the layers of CLIP's text encoder, and mapped into those of its vision encoder",
        _ours("ContextConfig"),
        {"depth": 9},
        fixed={"coupled": True, "conditional": False},
    ),
    # PEFT's own name for a LoRA that goes nowhere: what is left are the modules that are trained whole.
    "linear": Method(
        "linear probing: the task's head alone",
        _pefts("LoraConfig"),
        fixed={"target_modules": DUMMY_TARGET_MODULES},
        takes=("modules_to_save",),
    ),
    "full": Method("full fine-tuning: every weight of the base", None),
}

# Set by the run or by the base, not by a recipe.
_RESERVED = {
    "context_ids",
    "context_start",
    "image_fingerprint",
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "inference_mode",
    "revision",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
}
_RESERVED_FOR_PREFIXES = {"num_layers"}


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
    config = method.config()
    from peft import PromptLearningConfig

    if method.takes is not None:
        return list(method.takes)
    reserved = _RESERVED | method.fixed.keys()
    if issubclass(config, PromptLearningConfig):
        reserved |= _RESERVED_FOR_PREFIXES
    return [f.name for f in dataclasses.fields(config) if f.init and f.name not in reserved]


def build_config(adapter: dict[str, Any], task_type: str | None = "CAUSAL_LM") -> PeftConfig | None:
    """Make the PEFT config a recipe asks for; None for full fine-tuning.

    Args:
        adapter: the recipe's section.
        task_type: PEFT's word for what the model does; None where it has none.

    Raises:
        UserError: a value of the wrong type, or one the method refuses (K < 1 and the like).
    """
    method = method_of(adapter)
    if method.config is None:
        return None
    config_class = method.config()
    hints = typing.get_type_hints(config_class)
    settings = {**method.defaults, **method.fixed}
    for key, value in adapter.items():
        if key == "method":
            continue
        try:
            settings[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            problems = "; ".join(dict.fromkeys(entry["msg"][0].lower() + entry["msg"][1:] for entry in error.errors()))
            raise UserError(f"adapter.{key}: {problems}, not {value!r}") from error
    try:
        return config_class(task_type=task_type, **settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"adapter ({adapter['method']}): {error}") from error


def check_method(adapter: dict[str, Any], train: Any) -> None:
    """Refuse what a method cannot be trained with.

    Raises:
        UserError: such as prefix tuning with gradient checkpointing.
    """
    for key, reason in method_of(adapter).unlike.items():
        if getattr(train, key):
            raise UserError(f"adapter.method {adapter['method']} does not go with train.{key}: {reason}")


def fit_config(config: Any, model: nn.Module) -> None:
    """Fill in what a config leaves open and PEFT knows for a few families only: which norms LN tuning trains."""
    if str(config.peft_type).endswith("LN_TUNING") and config.target_modules is None:
        norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
        if norms:
            config.target_modules = sorted({name.rpartition(".")[2] for name in norms})


def starts_as_base(config: PeftConfig) -> bool:
    """Whether an untrained adapter of this config leaves the base's outputs as they are."""
    settings = vars(config)
    return not (
        config.is_prompt_learning
        or settings.get("attention") == "vanilla"
        or settings.get("init_weights") == "bert"
        or settings.get("conditional")
        or settings.get("coupled")
    )


def linears_of(model: nn.Module) -> str:
    """For errors about target_modules: the names there are."""
    return f" Its Linear layers are {list_linears(model)}."
