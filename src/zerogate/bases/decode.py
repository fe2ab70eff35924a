"""Token ids in, token ids out: one left-padded batch through transformers' `generate`.

This file knows nothing of text, templates or adapters' files. Evaluation calls it with a greedy setting,
`zerogate.inference` with sampling, streaming and a choice of adapter per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from zerogate.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def context_length(model: Any) -> int | None:
    """How many positions the base was made for, prompt and answer together; None when its config names no limit."""
    # transformers maps a family's own name (GPT-2's n_positions) to this one; ALiBi families have neither.
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer: the tokenizer's EOS and those of the base's generation config."""
    listed = model.generation_config.eos_token_id
    ends = listed if isinstance(listed, list) else [listed]
    return sorted({int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None})


def padding_tells(model: Any) -> bool:
    """Whether a row's answer depends on its padding: PEFT's methods that learn input tokens put them before it.

    The positions of the prompt then count the padding, too, so only prompts of one length can share a batch.
    """
    from peft import PeftModel

    # Prefix tuning learns keys and values, not tokens, and is at ease with padding.
    methods = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
    # A type is PEFT's enum, or plain text for a method that is registered from outside.
    return isinstance(model, PeftModel) and str(model.active_peft_config.peft_type).removeprefix("PeftType.") in methods


class StopStrings(StoppingCriteria):
    """Ends a row once its answer contains a stop string. transformers' own looks at the prompt's end, too.

    Args:
        tokenizer: spells the answer.
        stop: strings, none of them empty.
        start: where the answers begin.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, list(stop), start
        # A character takes four tokens at most; a few more, as the first character of a tail may be half of one.
        self.most = 4 * max(len(string) for string in self.stop) + 8
        self.silent = set(tokenizer.all_special_ids)  # spell nothing; rows that have ended are filled with one

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """Args: `input_ids` [B, T], prompts and answers; `scores` are unused. Returns [B], true where a row ends."""
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.most) :].tolist()
        ended = torch.tensor([self._completed(tail) for tail in tails], device=input_ids.device)
        return ended  # type: ignore[return-value]

    def _completed(self, tail: list[int]) -> bool:
        """Whether there is a stop string in the last tokens of an answer: before the last of them there was none."""
        if not tail or tail[-1] in self.silent:
            return False
        text = str(self.tokenizer.decode(tail, skip_special_tokens=True))
        return any(string in text for string in self.stop)


def decode_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
    num_beams: int = 1,
    stop: Sequence[str] = (),
    **extra: Any,
) -> list[list[int]]:
    """Continue every prompt by its most likely tokens (a sampler may come in as `logits_processor`).

    Args:
        model: a causal language model, with or without adapters.
        tokenizer: its tokenizer; gives the pad token and spells the stop strings.
        prompts: one sequence of ids per row, each at least one token.
        max_new_tokens: longest answer.
        repetition_penalty: above 1 makes tokens that have been seen less likely.
        min_new_tokens: an answer may not end before it has so many.
        num_beams: width of a beam search; 1 is greedy.
        stop: strings that end a row once its answer contains one.
        **extra: for `generate`: `logits_processor`, `stopping_criteria`, `streamer`, `adapter_names`.

    Returns:
        The new ids of each row. An end token or a stop string, where one came, is still there.

    Raises:
        UserError: an empty prompt, or one with no room left for an answer.
    """
    from transformers import GenerationConfig

    limit = context_length(model)
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) == 0:
        raise UserError("a prompt is empty: there is nothing to continue")
    if limit is not None and longest >= limit:
        raise UserError(f"a prompt has {longest} tokens, and the base has room for {limit}, its answer included")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    input_ids_BT = torch.full((len(prompts), longest), pad, dtype=torch.long)
    mask_BT = torch.zeros_like(input_ids_BT)
    for row, prompt in enumerate(prompts):
        input_ids_BT[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask_BT[row, longest - len(prompt) :] = 1
    if not extra and len({len(prompt) for prompt in prompts}) > 1 and padding_tells(model):
        return _one_length_at_a_time(
            model, tokenizer, prompts,
            max_new_tokens=max_new_tokens, repetition_penalty=repetition_penalty, min_new_tokens=min_new_tokens,
            num_beams=num_beams, stop=stop,
        )  # fmt: skip
    ends = end_tokens(model, tokenizer)
    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens if limit is None else min(max_new_tokens, limit - longest),
        min_new_tokens=min_new_tokens or None,
        repetition_penalty=repetition_penalty,
        eos_token_id=ends,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        # The base's own generation config must not bring its sampling in through the fields that are left unset here.
        temperature=1.0,
        top_p=1.0,
        top_k=50,
    )
    if stop:
        others = extra.get("stopping_criteria") or ()
        extra["stopping_criteria"] = StoppingCriteriaList([*others, StopStrings(tokenizer, stop, longest)])
    with torch.inference_mode():
        generate: Any = model.generate
        output_BT = generate(
            input_ids=input_ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            generation_config=config,
            **extra,
        )
    return [_until_end(row, ends, pad) for row in output_BT[:, longest:].tolist()]


def _one_length_at_a_time(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], **settings: Any
) -> list[list[int]]:
    answers: dict[int, list[int]] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        answers |= dict(
            zip(rows, decode_batch(model, tokenizer, [prompts[row] for row in rows], **settings), strict=True)
        )
    return [answers[row] for row in range(len(prompts))]


def _until_end(ids: list[int], ends: Sequence[int], pad: int) -> list[int]:
    """Cut the padding of a row that ended before its batch did; keep the end token itself."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
        if token == pad:
            return ids[:position]
    return ids
