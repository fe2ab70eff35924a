"""Bases with a head for a task: loaded frozen, the head fresh whatever the checkpoint has there."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
import transformers
from peft import PromptLearningConfig
from safetensors import SafetensorError
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from zerogate.bases.load import find_base
from zerogate.errors import UserError
from zerogate.training.methods import method_of
from zerogate.training.recipe import BaseSection, Recipe


def load_model(
    auto_class: str, base: BaseSection, labels: list[str] | None, device: str | None, fresh_head: bool = True
) -> PreTrainedModel:
    """Load a backbone with a fresh head, frozen and in eval mode. The head takes torch's random state as it is.

    Args:
        auto_class: transformers' class, such as `AutoModelForImageClassification`.
        base: the recipe's section.
        labels: the classes; None leaves the head's size to the class.
        device: such as `cpu` or `cuda:0`; None: the first GPU, else the CPU.
        fresh_head: False for a model that is whole as it is.

    Raises:
        UserError: the base cannot be read, lacks weights of its backbone, or has no such class.
    """
    if base.quantization is not None:
        raise UserError("base.quantization is for language models; leave it out for other tasks")
    name = base.name
    kind = getattr(transformers, auto_class)
    config = _config(kind, name, labels)
    dtype = base.dtype or "auto"
    options: dict[str, Any] = {
        "config": config,
        "dtype": dtype if dtype == "auto" else getattr(torch, dtype),
        "attn_implementation": base.attn_implementation,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,  # of an old head with other classes
        "output_loading_info": True,
    }
    loading_log = logging.getLogger("transformers.modeling_utils")
    loading_log.disabled = True  # it warns of the fresh head
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(find_base(name).id, **options)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot load the base {name!r}: {' '.join(str(error).split())[:400]}") from error
    finally:
        loading_log.disabled = False
        transformers_logging.enable_progress_bar()
    heads = find_heads(model) if fresh_head else []
    fresh = {
        str(key[0] if isinstance(key, tuple) else key) for key in [*info["missing_keys"], *info["mismatched_keys"]]
    }
    wrong = sorted(key for key in fresh if not key.startswith(tuple(f"{head}." for head in heads)))
    if wrong:
        raise UserError(
            f"the weights of {name!r} lack {len(wrong)} tensors of a {type(model).__name__}'s backbone, such as "
            f"{wrong[0]}; they would be random. Is it another family's checkpoint?"
        )
    for head in heads:
        for module in model.get_submodule(head).modules():
            _initialise(model, module)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.requires_grad_(False)
    return model.eval()  # type: ignore[no-any-return]


def empty_model(auto_class: str, name: str, labels: list[str] | None) -> PreTrainedModel:
    """The same model on the meta device."""
    kind = getattr(transformers, auto_class)
    config = _config(kind, name, labels)
    with torch.device("meta"):
        return kind.from_config(config)  # type: ignore[no-any-return]


def find_heads(model: PreTrainedModel) -> list[str]:
    """Names of what the model has beside its backbone, where there are weights: `classifier`, `qa_outputs`.

    Most classes say what their backbone is called. Those that have it under another name (CLIP's, T5's) end with their
    head, after the last part that is a model by itself or has a stack of layers.
    """
    parts = [(name, part) for name, part in model.named_children() if next(part.parameters(), None) is not None]
    names = [name for name, _ in parts]
    if model.base_model_prefix in names:
        return [name for name in names if name != model.base_model_prefix]
    last = max((at for at, (_, part) in enumerate(parts) if _is_backbone(part)), default=-1)
    return names[last + 1 :]


def load_image_processor(name: str) -> Any:
    """The base's image processor.

    Raises:
        UserError: it has none.
    """
    try:
        return AutoImageProcessor.from_pretrained(find_base(name).id)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"the base {name!r} has no image processor (preprocessor_config.json): {error}") from error


def load_fast_tokenizer(name: str) -> Any:
    """The base's tokenizer, one that knows which characters a token stands for.

    Raises:
        UserError: it has none, or none that knows.
    """
    try:
        # A tokenizer that opens words with their space (RoBERTa) takes single words only when told to do so at once.
        tokenizer = AutoTokenizer.from_pretrained(find_base(name).id, add_prefix_space=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"cannot load the tokenizer of {name!r}: {error}") from error
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name!r} does not know the places of its tokens: it needs a tokenizer.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def longest_text(config: PretrainedConfig, tokenizer: Any) -> int:
    """Most tokens in a sequence: what the model has positions for, or the tokenizer says it has."""
    positions = vars(config).get("max_position_embeddings")
    if positions is None:
        return int(tokenizer.model_max_length)
    return int(min(positions - _positions_of_padding(config), tokenizer.model_max_length))


def _positions_of_padding(config: PretrainedConfig) -> int:
    """How many positions no token takes: RoBERTa and its kin count from the one after that of padding."""
    if type(config) not in MODEL_MAPPING:
        return 0
    kinds: Any = MODEL_MAPPING[type(config)]
    kind = kinds[0] if isinstance(kinds, tuple) else kinds
    with torch.device("meta"):
        model = kind(copy.deepcopy(config))
    tables = (
        module.padding_idx
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    )
    return max((padding + 1 for padding in tables if padding is not None), default=0)


def check_length(recipe: Recipe, longest: int, limit: int) -> None:
    """Refuse sequences that are longer than the base reads.

    Raises:
        UserError: with the longest there may be.
    """
    prompts = _prompt_positions(recipe.adapter)
    if longest + prompts > limit:
        with_prompts = f", {prompts} of them {recipe.adapter['method']}'s" if prompts else ""
        raise UserError(
            f"data.max_length {longest} is too long: {recipe.base.name} reads {limit} tokens{with_prompts}; "
            f"set data.max_length to at most {limit - prompts}"
        )


def _prompt_positions(adapter: dict[str, Any]) -> int:
    """How many of the base's positions the method takes: PEFT's prompts and prefixes stand before the text."""
    method = method_of(adapter)
    if method.config is None or not issubclass(method.config(), PromptLearningConfig):
        return 0
    return int({**method.defaults, **adapter}["num_virtual_tokens"])


def mixed_precision(model: torch.nn.Module) -> torch.autocast:
    """Autocast if the base is in half precision: its head is fp32, and takes such a base's features only so."""
    half = next((p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)), None)
    return torch.autocast(next(model.parameters()).device.type, dtype=half, enabled=half is not None)


def _is_backbone(part: torch.nn.Module) -> bool:
    return any(isinstance(module, (PreTrainedModel, torch.nn.ModuleList)) for module in part.modules())


def _config(kind: Any, name: str, labels: list[str] | None) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(find_base(name).id)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read the base {name!r}: {' '.join(str(error).split())[:300]}") from error
    if type(config) not in kind._model_mapping:
        raise UserError(f"the base {name!r} is a {config.model_type}, for which there is no {kind.__name__}")
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    return config


def _initialise(model: PreTrainedModel, module: torch.nn.Module) -> None:
    # transformers marks what a checkpoint has filled, and leaves that alone.
    for parameter in module.parameters(recurse=False):
        parameter._is_hf_initialized = False  # type: ignore[attr-defined]
    module._is_hf_initialized = False  # type: ignore[assignment]
    model._init_weights(module)
