"""Put a method on a loaded base, count what it trains, and save it."""

import inspect
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel, set_seed

from zerogate.bases.adapted import fit_prompts
from zerogate.errors import UserError
from zerogate.training.context import fit_context
from zerogate.training.images import fit_images
from zerogate.training.methods import fit_config, linears_of


def attach(
    model: PreTrainedModel, config: Any, seed: int, base_name: str, heads: list[str] | None = None
) -> PreTrainedModel | PeftModel:
    """Put the adapter on the base; with no config, make every weight of the base trainable.

    Args:
        model: the base.
        config: the adapter's PEFT config, or None.
        seed: of its weights.
        base_name: recorded with it.
        heads: modules to train whole and save with the adapter, whatever the method.

    Raises:
        UserError: the adapter does not fit this base.
    """
    set_seed(seed)
    if config is None:
        return model.requires_grad_(True)
    _check_task(config, model, heads)
    fit_config(config, model)
    fit_images(config)
    fit_context(config, base_name)
    if config.is_prompt_learning:
        if heads and config.peft_type == PeftType.PREFIX_TUNING:
            _check_prefixes(model, base_name)
        fit_prompts(config, model)
    if heads:
        config.modules_to_save = [*(config.modules_to_save or []), *heads]
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        # PEFT's own two ways of saying that it does not know where to go.
        hint = linears_of(model) if re.match("Target modules|Please specify `target_modules`", str(error)) else ""
        raise UserError(f"this adapter does not fit the base {base_name}: {error}{hint}") from error
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = base_name
    if config.is_prompt_learning and config.modules_to_save:
        config.modules_to_save = list(dict.fromkeys(config.modules_to_save))  # PEFT adds its own names once and again
    return adapted


def _check_task(config: Any, model: PreTrainedModel, heads: list[str] | None) -> None:
    if config.is_prompt_learning and model.main_input_name == "pixel_values":
        raise UserError("prompt_tuning and prefix_tuning put prompts before text; for pictures there is vpt")
    if not config.is_prompt_learning and config.__dict__.get("target_modules") == DUMMY_TARGET_MODULES and not heads:
        raise UserError("adapter.method linear trains a task's head, and a language model's own head is not fresh")


def _check_prefixes(model: PreTrainedModel, base_name: str) -> None:
    """Refuse bases that PEFT cannot give a prefix to: it does so through their cache of keys and values.

    Raises:
        UserError: with methods to take instead.
    """
    takers = (model.forward, model.base_model.forward)
    if not any("past_key_values" in inspect.signature(taker).parameters for taker in takers):
        raise UserError(
            f"prefix_tuning does not fit the base {base_name}: {type(model).__name__} takes no keys and values from "
            "outside; take prompt_tuning or lora"
        )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable parameters and all parameters."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def make_trained_fp32(model: torch.nn.Module) -> bool:
    """Make what is trained fp32. True if that puts fp32 layers into a half-precision base, which needs autocast."""
    halves = [p for p in model.parameters() if p.requires_grad and p.dtype != torch.float32]
    for parameter in halves:
        parameter.data = parameter.data.float()
    return bool(halves)


def save_adapter(model: Any, processor: Any, target: Path, card: str) -> None:
    """Write an adapter (or a fully trained model with its tokenizer or image processor) and its card into a folder."""
    if isinstance(model, PeftModel):
        # Embeddings are not trained here; looking whether they were would ask the Hub.
        model.save_pretrained(str(target), save_embedding_layers=False)
    else:
        model.save_pretrained(target)
        processor.save_pretrained(target)
    (target / "README.md").write_text(card, encoding="utf-8")
