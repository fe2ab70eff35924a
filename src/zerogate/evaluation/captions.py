"""Captions scored against several references each: BLEU-4 and CIDEr, as the COCO server and the paper's table 5 do.

    score = caption_score(["a dog runs"], [["a dog is running", "the dog runs"]])
    score.bleu4, score.cider        # as shares: the papers' 36.2 and 122.2 are 0.362 and 1.222 here

Both are corpus figures. BLEU-4 counts matching runs of up to four words in all captions together; CIDEr (its clipped
variant, CIDEr-D) weighs runs by how rare they are among the references of the set that is scored, so figures of
different sets, or of a part of one, cannot be compared. The computing is pycocoevalcap's, the words are
`caption_words`: `pip install 'zerogate[vision]'`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zerogate.errors import UserError
from zerogate.evaluation.caption_words import caption_words
from zerogate.evaluation.scorers import Scorer, kind_of, own_turn


@dataclass(frozen=True)
class CaptionScore:
    """How captions do.

    Attributes:
        n: captions scored, one for each image.
        bleu4: corpus BLEU with runs of one to four words, 0 to 1.
        cider: CIDEr-D, 0 to 10; None for a single image, as rarity is counted between images.
        empty: captions without a word.
    """

    n: int
    bleu4: float
    cider: float | None
    empty: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


class CaptionScorer(Scorer):
    """Captions: no single one is right or wrong, all of them together have a score."""

    def read_label(self, value: Any) -> str:
        """The references: a list of texts, or one text with a reference on each line."""
        texts = value.split("\n") if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"is {kind_of(value)}, not a list of captions")
        found = [" ".join(text.split()) for text in texts if text.strip()]
        if not found:
            raise ValueError("holds no caption")
        return "\n".join(found)

    def fields(self, response: str, label: str) -> dict[str, Any]:
        """The words that are scored, so that a reader sees what counted."""
        return {"caption": " ".join(caption_words(own_turn(response)))}

    def total(self, rows: Iterable[Mapping[str, Any]], kinds: Sequence[str] = ()) -> CaptionScore:
        """BLEU-4 and CIDEr over all rows, which have `response` and `label`."""
        rows = list(rows)
        captions = [own_turn(row["response"] or "") for row in rows]
        return caption_score(captions, [row["label"].split("\n") for row in rows])


def caption_score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScore:
    """Score captions.

    Args:
        captions: one for each image, as written.
        references: for each image, what people wrote of it.

    Raises:
        UserError: pycocoevalcap is not installed.
        ValueError: different numbers of both, none at all, or an image without references.
    """
    if len(captions) != len(references) or not captions or not all(references):
        raise ValueError(
            f"{len(captions)} captions and {len(references)} lists of references, none of them empty, differ"
        )
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise UserError(
            "captions are scored with pycocoevalcap, which is not installed: pip install 'zerogate[vision]'"
        )
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    said = {n: [" ".join(caption_words(caption))] for n, caption in enumerate(captions)}
    wanted = {n: [" ".join(caption_words(text)) for text in texts] for n, texts in enumerate(references)}
    empty = sum(not words for (words,) in said.values())
    bleu4 = float(Bleu(4).compute_score(wanted, said, verbose=0)[0][3]) if empty < len(said) else 0.0
    cider = float(Cider().compute_score(wanted, said)[0]) if len(said) > 1 else None
    return CaptionScore(len(said), bleu4, cider, empty)
