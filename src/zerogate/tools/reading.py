"""A reader for `zerogate.tools.answers.reader`: an extractive question answering model, whose answers are words of the
passage.

    reader(engine, extractive("deepset/roberta-base-squad2"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zerogate.errors import UserError
from zerogate.tools.answers import Read
from zerogate.tools.endpoint import endpoint

LONGEST = 30
"""Tokens in an answer."""


def reader_of(name: str) -> Read:
    """A reader by name: an endpoint where it is an address, else a model with a question answering head.

    Raises:
        UserError: it cannot be reached or loaded.
    """
    return endpoint(name) if name.startswith(("http://", "https://")) else extractive(name)


def extractive(name: str | Path, device: str | None = None) -> Read:
    """A model with a question answering head, from a folder or the Hub.

    It gives the likeliest words of a passage and by how many logits they lie above "no answer", as SQuAD 2.0's models
    score it (arXiv 1810.04805, section 4.3); no answer where that is the likeliest.

    Args:
        name: of the model and its tokenizer.
        device: where it runs; the CPU by default.

    Raises:
        UserError: it cannot be loaded, or has no such head.
    """
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        model, info = AutoModelForQuestionAnswering.from_pretrained(
            name, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"cannot load the reader {name}: {' '.join(str(error).split())[:300]}") from error
    if info["missing_keys"]:
        raise UserError(f"the reader {name} has no question answering head: it lacks {sorted(info['missing_keys'])[0]}")
    model = model.eval().to(device or "cpu")

    @torch.no_grad()
    def read(question: str, passage: str) -> tuple[str, float] | None:
        encoded = tokenizer(
            question, passage, truncation="only_second", max_length=min(tokenizer.model_max_length, 512),
            return_offsets_mapping=True, return_tensors="pt",
        )  # fmt: skip
        offsets = encoded.pop("offset_mapping")[0].tolist()
        inside = torch.tensor([part == 1 for part in encoded.sequence_ids(0)])
        out = model(**encoded.to(model.device))
        start_T, end_T = out.start_logits[0].float().cpu(), out.end_logits[0].float().cpu()
        score_TT = start_T[:, None] + end_T[None, :]
        allowed_TT = torch.ones_like(score_TT).triu().tril(LONGEST - 1).bool() & inside[:, None] & inside[None, :]
        best_TT = score_TT.masked_fill(~allowed_TT, -torch.inf)
        first, last = divmod(int(best_TT.argmax()), len(inside))
        sure = float(best_TT[first, last] - score_TT[0, 0])
        return (passage[offsets[first][0] : offsets[last][1]], sure) if sure > 0 else None

    return read
