"""Extractive question answering: the first and last token of the answer in a passage; measured by SQuAD's EM and F1.

Passages that are too long come as windows that overlap (`windows.py`). A window without the answer points at its first
token, which is also how "no answer" is said (SQuAD 2.0): it is, where that beats every answer in every window. Where no
question lacks an answer (1.1), one is always given.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from zerogate.training.problems.base import check_length, load_fast_tokenizer, longest_text
from zerogate.training.problems.held_out import leak_line, read_parts, split_groups
from zerogate.training.problems.labelled import Example, LabelledData, LabelledProblem, Part
from zerogate.training.problems.problem import Merit
from zerogate.training.problems.sections import QuestionSection
from zerogate.training.problems.squad_files import Question, read_questions
from zerogate.training.problems.squad_score import best_margin, exact_match, f1
from zerogate.training.problems.text_batch import pad_text
from zerogate.training.problems.windows import Found, answer_logits, best_in_window, best_of, cut_windows


class QuestionAnswering(LabelledProblem):
    """Which words of the passage answer the question?"""

    peft_task = "QUESTION_ANS"
    pipeline = "question-answering"
    merit = Merit("eval_f1", higher_is_better=True)
    auto_class = "AutoModelForQuestionAnswering"

    @property
    def section(self) -> QuestionSection:
        """The recipe's data section."""
        return self.recipe.data  # type: ignore[return-value]

    @property
    def shown(self) -> tuple[str, ...]:
        """F1 and exact match; where there may be no answer, F1 at the best margin, too."""
        some_without = any(not question.answers for question in self.questions[1])
        return ("f1", "exact_match", "best_f1") if some_without else ("f1", "exact_match")

    @cached_property
    def questions(self) -> tuple[list[Question], list[Question]]:
        """What to learn from and what to measure on."""
        return read_parts(self.section, read_questions, split_articles)

    def label_names(self) -> None:
        """None: places, no classes."""
        return None

    def load_processor(self) -> Any:
        """The base's tokenizer."""
        return load_fast_tokenizer(self.recipe.base.name)

    def check_base(self, model: PreTrainedModel, processor: Any) -> None:
        """Sequences, with prompts before them, must not be longer than the base reads."""
        check_length(self.recipe, self.section.max_length, longest_text(model.config, processor))

    def load_data(self, processor: Any) -> LabelledData:
        """Read and cut into windows."""
        self.tokenizer = processor
        train, held_out = (self._encode(part) for part in self.questions)
        told = [f"{len(train.records):,} training questions in {len(train):,} windows"]
        if held_out.records:
            keys = ([(q.question, q.context) for q in part.records] for part in (train, held_out))
            told.append(f"{len(held_out.records):,} held-out questions; {leak_line(*keys)}")
        return LabelledData(train, held_out if held_out.records else None, tuple(told))

    def _encode(self, questions: list[Question]) -> Part:
        examples: list[Example] = []
        for row, question in enumerate(questions):
            for window in cut_windows(self.tokenizer, question.question, question.context, self.section, row + 1):
                examples.append({**window, "labels": _answer(window["spans"], question)})
        return Part(examples, [len(example["input_ids"]) for example in examples], questions)  # type: ignore[arg-type]

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Tokens and their mask, each [B, T]; first and last token of the answer [B, 2]."""
        return pad_text(examples, self.tokenizer.pad_token_id, labels_per_token=False)

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """[B, 2, T]: of each token to be the first, and the last."""
        return answer_logits(model, inputs)

    def predict(self, logits: Tensor, inputs: dict[str, Tensor], examples: list[Example]) -> list[Found]:
        """The best answer in each window: first not after last, and not too long."""
        longest = self.section.max_answer_length
        return [best_in_window(said, one["spans"], longest) for said, one in zip(logits, examples, strict=True)]

    def score(self, predictions: list[Found], part: Part) -> dict[str, float]:
        """`exact_match` and `f1`, as SQuAD's script counts them.

        Where some questions have no answer, also `has_answer_` and `no_answer_` with each, over these questions alone;
        and with `best_margin`, the margin by which an answer must beat "no answer" for the highest F1 here,
        `best_f1` and `best_exact_match`.
        """
        windows: dict[int, list[Found]] = defaultdict(list)
        for index, prediction in enumerate(predictions):
            windows[part.examples[index]["row"] - 1].append(prediction)
        found = [(best_of(windows[row]), question) for row, question in enumerate(part.records)]
        without = [not question.answers for question in part.records]
        margin = 0.0 if any(without) else -math.inf
        scores = _scores(found, margin)
        if not any(without):
            return scores
        for name, kind in (("has_answer", False), ("no_answer", True)):
            if kind in without:
                some = [pair for pair, one in zip(found, without, strict=True) if one is kind]
                scores |= {f"{name}_{key}": value for key, value in _scores(some, margin).items()}
        answered = [f1(best.said(question.context, -math.inf), question.truths) for best, question in found]
        margin = best_margin([best.margin for best, _ in found], answered, [float(one) for one in without])
        scores |= {f"best_{key}": value for key, value in _scores(found, margin).items()}
        return scores | {"best_margin": margin}


def _scores(found: list[tuple[Found, Question]], margin: float) -> dict[str, float]:
    answers = [(best.said(question.context, margin), question.truths) for best, question in found]
    return {
        "exact_match": statistics.fmean(exact_match(*pair) for pair in answers),
        "f1": statistics.fmean(f1(*pair) for pair in answers),
    }


def split_articles(questions: list[Question], count: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Set `count` questions aside, whole articles, the same ones for the same seed.

    Raises:
        UserError: that would leave nothing to train on.
    """
    return split_groups(questions, count, seed, lambda question: question.group, "articles")


def _answer(spans: list[tuple[int, int] | None], question: Question) -> list[int]:
    """The tokens of the first answer; the window's first token twice where it is not wholly inside."""
    if not question.answers or not question.answers[0][0].strip():
        return [0, 0]
    text, start = question.answers[0]
    start += len(text) - len(text.lstrip())  # no token has the white space at its ends
    text = text.strip()
    inside = [
        at for at, span in enumerate(spans) if span is not None and span[0] < start + len(text) and span[1] > start
    ]
    if not inside:
        return [0, 0]
    first, last = spans[inside[0]], spans[inside[-1]]
    assert first is not None and last is not None  # chosen so
    whole = first[0] <= start and last[1] >= start + len(text)
    return [inside[0], inside[-1]] if whole else [0, 0]
