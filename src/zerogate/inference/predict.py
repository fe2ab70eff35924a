"""Ask what a run on a task with labels has learned: the class of a picture, the answer in a passage, the names or roles
in a sentence, the text that goes with a picture.

    predictor = Predictor(load_trained("runs/vit/best"))
    for row in predictor([{"image": "photos/red/3.png"}]): ...

Rows come back with what was said added, in their order.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel, PromptLearningConfig
from torch import Tensor

from zerogate.errors import UserError
from zerogate.training.context import load_text_tokenizer, tokenise
from zerogate.training.problems.base import longest_text, mixed_precision
from zerogate.training.problems.base_to_novel import CLASSES_FILE, BaseToNovel
from zerogate.training.problems.image_classification import ImageClassification
from zerogate.training.problems.image_files import Picture, decode
from zerogate.training.problems.labelled import LENGTHS_FILE
from zerogate.training.problems.pieces import cut_pieces, word_logits
from zerogate.training.problems.question_answering import QuestionAnswering
from zerogate.training.problems.sections import ClassNamesSection, QuestionSection, TaggedSection
from zerogate.training.problems.tagged_files import mark_predicate, marked_predicates
from zerogate.training.problems.text_batch import pad_text
from zerogate.training.problems.token_classification import ROLES_FILE, TokenClassification
from zerogate.training.problems.trained import Trained
from zerogate.training.problems.windows import answer_logits, best_in_window, best_of, cut_windows

Row = dict[str, Any]
Numbered = tuple[int, Row]
TextSection = TypeVar("TextSection", QuestionSection, TaggedSection)

# A text's words as corpora have them, marks by themselves.
_WORD = re.compile(r"\w+(?:[-'\u2019.]\w+)*|[^\w\s]")


class Predictor:
    """A trained model and how it is asked.

    Args:
        trained: what `load_trained` gives.
        batch_size: sequences or pictures at a time.
        top: how many classes to tell of each picture, the likeliest first.
        margin: by how much an answer's logits must beat those of there being none (SQuAD 2.0); none: there is one.
        classes: names to choose from, for a model of pictures and texts; by default those it was measured on.

    Raises:
        UserError: such a model without classes, or classes for another.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        batch_size: int = 16,
        top: int = 1,
        margin: float = -math.inf,
        classes: list[str] | None = None,
    ) -> None:
        self.trained, self.batch_size, self.top, self.margin = trained, batch_size, top, margin
        self.device = next(trained.model.parameters()).device
        if classes is not None and trained.task is not BaseToNovel:
            raise UserError("classes are named for a model of pictures and texts alone; this one has its own")
        known: dict[type, tuple[tuple[str, ...], Callable[[list[Numbered]], Iterator[Row]]]] = {
            ImageClassification: (("image",), self._classes),
            BaseToNovel: (("image",), self._classes),
            QuestionAnswering: (("question", "context"), self._answers),
            TokenClassification: (("text",), self._spans),
        }
        self.columns, self._ask = known[trained.task]
        if trained.task is BaseToNovel:
            self.names, self._texts = self._class_texts(classes)
        elif trained.task is not QuestionAnswering:
            self.names = [name for _, name in sorted(trained.model.config.id2label.items())]
        roles = trained.folder / ROLES_FILE
        self.mark: str | None = json.loads(roles.read_text(encoding="utf-8"))["mark"] if roles.is_file() else None

    def __call__(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Answer rows, some at a time.

        Args:
            rows: with the columns of the task: `image` (a file); `question` and `context`; `text`, or `tokens`. Asked
                for roles, a sentence has its predicate between asterisks, or `tokens` without them and `predicate`,
                the predicate's number among them.

        Yields:
            The row, and for a picture `label`, `score` and `top`; for a question `answer` ("" for none) and `score`,
            the logit above that of there being none; for a sentence `tokens` and `spans`, each with `label`, `text`,
            and the numbers of its `first` and `last` word; for roles `predicate`, its number in `tokens`, too.

        Raises:
            UserError: a row lacks a column (its number is named), a sentence asked for roles has no predicate or more
                than one, or a picture cannot be read.
        """
        numbered = enumerate(rows, 1)
        while chunk := list(islice(numbered, self.batch_size)):
            for number, row in chunk:
                self._check(row, number)
            yield from self._ask(chunk)

    def _check(self, row: Row, number: int) -> None:
        for column in self.columns:
            given = row.get(column)
            if column == "text" and "tokens" in row:
                words = row["tokens"]
                if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
                    raise UserError(f"row {number}: `tokens` is not a list of words")
            elif not isinstance(given, str) or not given.strip():
                raise UserError(f"row {number} has no {column!r}; a row needs {' and '.join(map(repr, self.columns))}")

    @torch.inference_mode()
    def _run(self, forward: Callable[[Any, dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Tensor:
        with mixed_precision(self.trained.model):
            said = forward(self.trained.model, {name: tensor.to(self.device) for name, tensor in inputs.items()})
        return said.float().cpu()

    def _cut(self, kind: type[TextSection]) -> TextSection:
        """How texts are cut: as in training where that is recorded, and as the base reads beside the prompts."""
        file = self.trained.folder / LENGTHS_FILE
        section = kind(path="", **(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}))
        prompts = sum(
            config.num_virtual_tokens
            for config in (self.trained.model.peft_config.values() if isinstance(self.trained.model, PeftModel) else ())
            if isinstance(config, PromptLearningConfig)
        )
        limit = longest_text(self.trained.model.config, self.trained.processor) - prompts
        room = min(limit, section.max_length)
        changed = {"max_length": room}
        if isinstance(section, QuestionSection) and not file.is_file():
            changed["stride"] = min(section.stride, room // 4)
        return section.model_copy(update=changed)

    # --- pictures -----------------------------------------------------------------------------------------------------

    def _classes(self, numbered: list[Numbered]) -> Iterator[Row]:
        rows = [row for _, row in numbered]
        pictures = [decode(_picture(Path(row["image"]))) for row in rows]
        inputs = {"pixel_values": self.trained.processor(pictures, return_tensors="pt")["pixel_values"]}
        if self.trained.task is BaseToNovel:
            logits_BN = self._run(lambda model, given: model(**given).logits_per_image, {**inputs, **self._texts})
        else:
            logits_BN = self._run(lambda model, given: model(**given).logits, inputs)
        for row, probs_N in zip(rows, logits_BN.softmax(-1), strict=True):
            scores, best = probs_N.topk(min(self.top, len(self.names)))
            top = [[self.names[n], round(p, 6)] for n, p in zip(best.tolist(), scores.tolist(), strict=True)]
            yield {**row, "label": top[0][0], "score": top[0][1], **({"top": top} if self.top > 1 else {})}

    def _class_texts(self, classes: list[str] | None) -> tuple[list[str], dict[str, Tensor]]:
        file = self.trained.folder / CLASSES_FILE
        learned = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        names = classes or [*learned.get("base", ()), *learned.get("novel", ())]
        if not names:
            raise UserError(f"{self.trained.folder} has no {CLASSES_FILE}: name the classes to choose from")
        template = learned.get("template", ClassNamesSection.model_fields["template"].default)
        tokenizer = load_text_tokenizer(self.trained.base)
        return names, tokenise(tokenizer, [template.replace("{}", name.replace("_", " ")) for name in names])

    # --- passages -----------------------------------------------------------------------------------------------------

    def _answers(self, numbered: list[Numbered]) -> Iterator[Row]:
        tokenizer = self.trained.processor
        section = self._cut(QuestionSection)
        windows = [
            window
            for number, row in numbered
            for window in cut_windows(tokenizer, row["question"], row["context"], section, number)
        ]
        found = []
        for at in range(0, len(windows), self.batch_size):
            some = [{**window, "labels": []} for window in windows[at : at + self.batch_size]]
            logits_B2T = self._run(answer_logits, _inputs(pad_text(some, tokenizer.pad_token_id, False)))
            found += [
                best_in_window(logits_2T, one["spans"], section.max_answer_length)
                for logits_2T, one in zip(logits_B2T, some, strict=True)
            ]
        both = zip(windows, found, strict=True)
        for (_, row), (_, own) in zip(numbered, groupby(both, key=lambda pair: pair[0]["row"]), strict=True):
            best = best_of([one for _, one in own])
            yield {**row, "answer": best.said(row["context"], self.margin), "score": round(best.margin, 4)}

    # --- sentences ----------------------------------------------------------------------------------------------------

    def _spans(self, numbered: list[Numbered]) -> Iterator[Row]:
        tokenizer, longest = self.trained.processor, self._cut(TaggedSection).max_length
        sentences = [self._sentence(row, number) for number, row in numbered]
        pieces = [
            {**piece, "row": index, "labels": []}
            for index, (words, predicate) in enumerate(sentences)
            for piece in cut_pieces(tokenizer, self._marked(words, predicate), longest)
        ]
        tags: list[list[str]] = [[] for _ in numbered]
        for at in range(0, len(pieces), self.batch_size):
            some = pieces[at : at + self.batch_size]
            logits_BTN = self._run(word_logits, _inputs(pad_text(some, tokenizer.pad_token_id, False)))
            for piece, line in zip(some, logits_BTN.argmax(-1).tolist(), strict=True):
                tags[piece["row"]] += ["O" if at is None else self.names[line[at]] for at in piece["starts"]]
        for (_, row), (words, predicate), said in zip(numbered, sentences, tags, strict=True):
            if predicate is None:
                yield {**row, "tokens": words, "spans": list(spans_of(words, said))}
            else:
                # What is said of the predicate and its marks means nothing: training asks for no tag there.
                own = [*said[:predicate], "O", *said[predicate + 3 :]]
                yield {**row, "tokens": words, "predicate": predicate, "spans": list(spans_of(words, own))}

    def _sentence(self, row: Row, number: int) -> tuple[list[str], int | None]:
        """A row's words and, for roles, the number of the predicate, whose marks are left out."""
        words = row.get("tokens") or _WORD.findall(row["text"])
        if self.mark is None:
            return words, None
        if "tokens" in row and (given := row.get("predicate")) is not None:
            if type(given) is not int or not 0 <= given < len(words):
                raise UserError(
                    f"row {number}: `predicate` must be a word's number, 0 to {len(words) - 1}, not {given!r}"
                )
            return words, given
        mark, found = self.mark, marked_predicates(words, self.mark)
        if len(found) != 1:
            named = ", ".join(repr(words[at]) for at in found)
            raise UserError(
                f"row {number} has {f'several words ({named})' if found else 'no word'} between two {mark!r} as its "
                f"predicate; write `Anna {mark} lives {mark} in Paris`, or give `tokens` without marks, and as "
                "`predicate` its number among them, from 0"
            )
        at = found[0]
        return [*words[: at - 1], words[at], *words[at + 2 :]], at - 1

    def _marked(self, words: list[str], predicate: int | None) -> tuple[str, ...]:
        return tuple(words) if predicate is None or self.mark is None else mark_predicate(words, predicate, self.mark)


def spans_of(words: list[str], tags: list[str]) -> Iterator[Row]:
    """The spans that BIO tags mean. An I- after another kind begins a span, as CoNLL's script has it."""
    first, kind = 0, ""
    for at, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            yield {"label": kind, "text": " ".join(words[first:at]), "first": first, "last": at - 1}
            kind = ""
        if tag != "O" and not kind:
            first, kind = at, tag[2:]


def _picture(file: Path) -> Picture:
    try:
        return Picture(str(file), "", file.expanduser().read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name not in ("labels", "rows")}
