"""Token classification: entities (NER) and semantic roles (SRL) by BIO tags; measured by the spans' micro-F1.

The tag of a word is learned and read at its first token. The figures are `seqeval`'s, as CoNLL's script counts: a span
is right if its first and last word and its kind are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from zerogate.bases.loss import IGNORE
from zerogate.errors import UserError
from zerogate.training.problems.base import check_length, load_fast_tokenizer, longest_text
from zerogate.training.problems.held_out import leak_line, read_parts, split_apart, split_groups
from zerogate.training.problems.labelled import Example, LabelledData, LabelledProblem, Part
from zerogate.training.problems.pieces import cut_pieces, word_logits
from zerogate.training.problems.problem import Merit
from zerogate.training.problems.sections import TaggedSection
from zerogate.training.problems.tagged_files import MARK, Sentence, read_sentences
from zerogate.training.problems.text_batch import pad_text

ROLES_FILE = "roles.json"
"""In a saved adapter's folder where every sentence was asked about a predicate: the `mark` before and after it."""


class TokenClassification(LabelledProblem):
    """Which words are names, or have a part in what the predicate says?"""

    peft_task = "TOKEN_CLS"
    pipeline = "token-classification"
    merit = Merit("eval_f1", higher_is_better=True)
    auto_class = "AutoModelForTokenClassification"
    shown = ("f1",)

    @property
    def section(self) -> TaggedSection:
        """The recipe's data section."""
        return self.recipe.data  # type: ignore[return-value]

    @cached_property
    def sentences(self) -> tuple[list[Sentence], list[Sentence]]:
        """What to learn from and what to measure on."""
        return read_parts(self.section, read_sentences, split_sentences)

    def label_names(self) -> list[str]:
        """O, then B- and I- of every kind that training has."""
        kinds = {tag[2:] for sentence in self.sentences[0] for tag in sentence.asked() if tag != "O"}
        return ["O", *(f"{place}-{kind}" for kind in sorted(kinds) for place in "BI")]

    def load_processor(self) -> Any:
        """The base's tokenizer."""
        return load_fast_tokenizer(self.recipe.base.name)

    def check_base(self, model: PreTrainedModel, processor: Any) -> None:
        """Sequences, with prompts before them, must not be longer than the base reads."""
        check_length(self.recipe, self.section.max_length, longest_text(model.config, processor))

    def load_data(self, processor: Any) -> LabelledData:
        """Read and tokenise."""
        try:
            import seqeval  # noqa: F401  needed only when something is measured, which is too late to say so
        except ImportError as error:
            raise UserError("token classification is measured by seqeval: pip install 'zerogate[labels]'") from error
        self.tokenizer = processor
        index = {label: number for number, label in enumerate(self.label_names())}
        train, held_out = (self._encode(part, index, self.section.max_length) for part in self.sentences)
        kinds = [name[2:] for name in index if name.startswith("B-")]
        named = ", ".join(kinds[:8]) + (f" and {len(kinds) - 8} more" if len(kinds) > 8 else "")
        told = [f"{len(train.records):,} training sentences, {len(kinds)} kinds of spans: {named}"]
        told += self._cut(train)
        if held_out.records:
            keys = ([sentence.text for sentence in part.records] for part in (train, held_out))
            told.append(f"{len(held_out.records):,} held-out sentences; {leak_line(*keys)}")
        return LabelledData(train, held_out if held_out.records else None, tuple(told))

    def _cut(self, part: Part) -> list[str]:
        cut = len(part) - len(part.records)
        return [f"{cut:,} more sequences, as sentences beyond data.max_length are cut"] if cut else []

    def _encode(self, sentences: list[Sentence], index: dict[str, int], longest: int) -> Part:
        examples: list[Example] = []
        for row, sentence in enumerate(sentences):
            for piece in cut_pieces(self.tokenizer, sentence.words, longest):
                labels = [IGNORE] * len(piece["input_ids"])
                for place, tag in zip(piece["starts"], sentence.tags[slice(*piece["words"])], strict=True):
                    if place is not None and tag is not None:
                        # A kind that training has not can be neither learned nor said; scoring still asks for it.
                        labels[place] = index.get(tag, IGNORE)
                examples.append({**piece, "row": row + 1, "labels": labels})
        return Part(examples, [len(example["input_ids"]) for example in examples], sentences)  # type: ignore[arg-type]

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Tokens, their mask and labels, each [B, T]."""
        return pad_text(examples, self.tokenizer.pad_token_id, labels_per_token=True)

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """[B, T, classes]."""
        return word_logits(model, inputs)

    def predict(self, logits: Tensor, inputs: dict[str, Tensor], examples: list[Example]) -> list[list[int]]:
        """The class of each word; 0, which is O, for words without a token."""
        choices = logits.argmax(-1).tolist()
        return [
            [0 if at is None else line[at] for at in example["starts"]]
            for line, example in zip(choices, examples, strict=True)
        ]

    def score(self, predictions: list[list[int]], part: Part) -> dict[str, float]:
        """Micro-averaged `precision`, `recall` and `f1` of spans."""
        from seqeval.metrics import f1_score, precision_score, recall_score

        names = self.label_names()
        said: dict[int, list[str]] = defaultdict(list)
        for index, classes in enumerate(predictions):
            said[part.examples[index]["row"] - 1] += [names[number] for number in classes]
        truth, guess = [], []
        for row, sentence in enumerate(part.records):
            pairs = [(tag, word) for tag, word in zip(sentence.tags, said[row], strict=True) if tag is not None]
            truth.append([tag for tag, _ in pairs])
            guess.append([word for _, word in pairs])
        return {
            "f1": float(f1_score(truth, guess, zero_division=0)),
            "precision": float(precision_score(truth, guess, zero_division=0)),
            "recall": float(recall_score(truth, guess, zero_division=0)),
        }

    def save_extras(self, folder: Path) -> None:
        """`labels.json` and `lengths.json`; `roles.json`, where all that was learned is asked about a predicate."""
        super().save_extras(folder)
        if all(sentence.unmarked for sentence in self.sentences[0]):
            (folder / ROLES_FILE).write_text(json.dumps({"mark": MARK}) + "\n", "utf-8")


def split_sentences(sentences: list[Sentence], count: int, seed: int) -> tuple[list[Sentence], list[Sentence]]:
    """Set `count` sentences aside, the same ones for the same seed; one asked about several predicates is not parted.

    Raises:
        UserError: that would leave nothing to train on.
    """
    if any(sentence.unmarked for sentence in sentences):
        return split_groups(sentences, count, seed, lambda sentence: sentence.text, "sentences")
    return split_apart(sentences, count, seed)
