"""Texts for models of pictures and texts: how they are tokenised, and which tokens are a learned context's."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import AutoConfig, AutoTokenizer

from zerogate.bases.load import find_base
from zerogate.errors import UserError

# Their text encoders look at the last position and learned without a mask, every text padded to the same length.
_LAST_POSITION = ("siglip_text_model", "siglip2_text_model")


class TextTokenizer(NamedTuple):
    """A tokenizer, and how its model's texts are padded.

    Attributes:
        tokenizer: transformers'.
        length: how many tokens every text has, padding included; None: as many as the longest, under a mask.
    """

    tokenizer: Any
    length: int | None


def load_text_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a base's text encoder.

    Raises:
        UserError: it has none.
    """
    try:
        place = find_base(name).id
        text = getattr(AutoConfig.from_pretrained(place), "text_config", None)
        length = text.max_position_embeddings if text is not None and text.model_type in _LAST_POSITION else None
        return TextTokenizer(AutoTokenizer.from_pretrained(place), length)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"cannot load the tokenizer of {name!r}: {' '.join(str(error).split())[:300]}") from error


def tokenise(reader: TextTokenizer, texts: list[str]) -> dict[str, Any]:
    """Texts as the encoder reads them, each the same whatever the others are.

    Args:
        reader: the base's.
        texts: one or more.

    Returns:
        `input_ids` [N, T] and, where the base wants a mask, `attention_mask` [N, T]. Where the encoder looks at the
        token that ends a text, all of them end with it.

    Raises:
        UserError: a text has more tokens than the encoder reads.
    """
    tokenizer = reader.tokenizer
    if reader.length is not None:
        return {"input_ids": _padded(tokenizer, texts, reader.length)}
    end = tokenizer.eos_token or ""
    closed = tokenizer(texts[0])["input_ids"][-1] == tokenizer.eos_token_id
    found = tokenizer(texts if closed else [text + end for text in texts], padding=True, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask") if name in found}


def _padded(tokenizer: Any, texts: list[str], length: int) -> Any:
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        if len(ids) > length:
            raise UserError(f"the text {text!r} has {len(ids)} tokens and the base reads {length}; shorten it")
    # After the text, as in big_vision's training; some of the tokenizer classes put padding before it.
    padding = {"padding": "max_length", "max_length": length, "padding_side": "right"}
    return tokenizer(texts, **padding, return_tensors="pt")["input_ids"]


def fit_context(config: Any, base: str) -> None:
    """Fill in the tokens of a learned context's words, and how many stand before them.

    Raises:
        UserError: the base has no tokenizer, or the context no words.
    """
    settings = vars(config)
    if "context_ids" not in settings or settings["context_ids"] is not None:
        return
    tokenizer = load_text_tokenizer(base).tokenizer
    special = set(tokenizer.all_special_ids)
    ids = tokenizer(config.context)["input_ids"]
    words = [index for index, token in enumerate(ids) if token not in special]
    if not words:
        raise UserError(f"adapter.context {config.context!r} has no words to learn in the place of")
    config.context_start, config.context_ids = words[0], [ids[index] for index in words]
