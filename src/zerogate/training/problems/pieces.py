"""A sentence of words as pieces of bounded length, and what the model says of its words."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def cut_pieces(tokenizer: Any, words: tuple[str, ...], longest: int) -> list[dict[str, Any]]:
    """Encode a sentence, cut between words where it is too long.

    Args:
        tokenizer: a fast one.
        words: the sentence.
        longest: most tokens of a piece, special ones included.

    Returns:
        Of every piece `words`, the place of the first and the one after the last; `input_ids`; and `starts`: the place
        of each word's first token, or None where the tokenizer makes nothing of it (a lone control character).
    """
    pieces = []
    for first, last in _cuts(tokenizer, words, longest - tokenizer.num_special_tokens_to_add()):
        encoded = tokenizer(list(words[first:last]), is_split_into_words=True, truncation=True, max_length=longest)
        places = encoded.word_ids()
        starts = [places.index(word) if word in places else None for word in range(last - first)]
        pieces.append({"words": (first, last), "input_ids": encoded["input_ids"], "starts": starts})
    return pieces


def word_logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """[B, T, classes]; what is said at prompts before the text is left out."""
    said: Tensor = model(**inputs).logits
    return said[:, -inputs["input_ids"].shape[1] :]


def _cuts(tokenizer: Any, words: tuple[str, ...], room: int) -> list[tuple[int, int]]:
    """Where to cut so that no piece has more than `room` tokens: from word, to word."""
    ids = tokenizer([[word] for word in words], add_special_tokens=False, is_split_into_words=True)["input_ids"]
    cuts, used = [0], 0
    for at, tokens in enumerate(ids):
        if used + len(tokens) > room and at > cuts[-1]:
            cuts.append(at)
            used = 0
        used += len(tokens)
    return list(zip(cuts, [*cuts[1:], len(words)], strict=True))
