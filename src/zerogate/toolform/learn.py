"""What is learned: how to propose calls, from texts that show some; and to use them, from texts that have been given
their calls (Toolformer, section 2, "Model Finetuning": the plain language modelling loss). The training loop is
`zerogate.training`'s own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zerogate.bases.loss import IGNORE
from zerogate.data.encode import Encoded, EncodeReport
from zerogate.data.load import Data
from zerogate.errors import UserError
from zerogate.toolform.document import parts
from zerogate.tools.inline import write_call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sequence_ = tuple[list[int], list[int]]


def texts_data(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Sequence[int]], max_length: int) -> Data:
    """Whole texts, as token ids without BOS and EOS; all of it is learned."""
    start, end = _ends(tokenizer)
    return _data([([start, *ids, end], [start, *ids, end]) for ids in texts], max_length)


def demonstrations_data(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], names: Sequence[str], max_length: int
) -> Data:
    """Demonstrations in the two forms that the pipeline will ask for.

    - The text with its calls but without their results: what is sampled.
    - The text alone behind each call with its result, of which only the text is learned: what the filter weighs. A
      model too small to take a word from a call before the text learns it here.

    Args:
        tokenizer: the base's.
        texts: with calls and results, as `zerogate.tools.inline` writes them.
        names: of the tools.
        max_length: most tokens in a sequence.
    """
    start, end = _ends(tokenizer)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]

    sequences: list[Sequence_] = []
    for text in texts:
        pieces, calls = parts(text, names)
        plain = [token for piece in pieces for token in encode(piece)]
        called = encode(pieces[0])
        for call, piece in zip(calls, pieces[1:], strict=True):
            called += encode(write_call(call.name, call.input)) + encode(piece)
            before = [start, *encode(write_call(call.name, call.input, call.result))]
            sequences.append(([*before, *plain, end], [*[IGNORE] * len(before), *plain, end]))
        sequences.append(([start, *called, end], [start, *called, end]))
    return _data(sequences, max_length)


def _data(sequences: list[Sequence_], max_length: int) -> Data:
    long = sum(len(ids) > max_length for ids, _ in sequences)
    report = EncodeReport(records=len(sequences), too_long=long, truncated=long)
    ids, labels = (
        [np.asarray(sequence[part][:max_length], dtype=np.int32) for sequence in sequences] for part in (0, 1)
    )
    return Data(Encoded(ids, labels, list(range(1, len(ids) + 1)), report), None, "prompt_completion", "plain", None)


def _ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the tokenizer has no EOS token, so no text could ever end; set one on the base's tokenizer")
    return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end), int(end)
