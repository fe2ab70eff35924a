"""Texts for models of pictures and texts: how they are tokenised, and which tokens are a learned context's."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from zerogate.bases.load import find_base
from zerogate.errors import UserError


def load_text_tokenizer(name: str) -> Any:
    """The tokenizer of a base's text encoder.

    Raises:
        UserError: it has none.
    """
    try:
        return AutoTokenizer.from_pretrained(find_base(name).id)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"cannot load the tokenizer of {name!r}: {' '.join(str(error).split())[:300]}") from error


def tokenise(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """`input_ids` and `attention_mask` [N, T] of texts that all end with the token at which the encoder looks."""
    end = tokenizer.eos_token or ""
    closed = tokenizer(texts[0])["input_ids"][-1] == tokenizer.eos_token_id
    found = tokenizer(texts if closed else [text + end for text in texts], padding=True, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask") if name in found}


def fit_context(config: Any, base: str) -> None:
    """Fill in the tokens of a learned context's words, and how many stand before them.

    Raises:
        UserError: the base has no tokenizer, or the context no words.
    """
    settings = vars(config)
    if "context_ids" not in settings or settings["context_ids"] is not None:
        return
    tokenizer = load_text_tokenizer(base)
    special = set(tokenizer.all_special_ids)
    ids = tokenizer(config.context)["input_ids"]
    words = [index for index, token in enumerate(ids) if token not in special]
    if not words:
        raise UserError(f"adapter.context {config.context!r} has no words to learn in the place of")
    config.context_start, config.context_ids = words[0], [ids[index] for index in words]
