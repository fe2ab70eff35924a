"""Answers are words of the passage, whether or not a tokenizer counts the space before a word as the word's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from zerogate.training.problems.question_answering import _answer
from zerogate.training.problems.sections import QuestionSection
from zerogate.training.problems.squad_files import Question
from zerogate.training.problems.windows import best_in_window, best_of, cut_windows

CONTEXT = " \n anna  lives in\n\nthe old city of Rom\u00e9, and\u3000who lives\tthere? \n "
SECTION = QuestionSection(path="", max_length=48, stride=20)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Every character is a token, but for some words; a space belongs to the word after it, as `kind` has it."""
    space = "\u2581" if kind == "metaspace" else "\u0120"
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet(), *"\u2581\u00e9\u3000\n\t", *CONTEXT.replace(" ", "")})
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters]
    merges = []
    for word in ("the", "old", "city", "of", "lives"):
        for size in range(1, len(word) + 1):
            merges.append(((space + word)[:size], word[size - 1]))
            pieces.append((space + word)[: size + 1])
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    metaspace = pre_tokenizers.Metaspace()
    made.pre_tokenizer = metaspace if kind == "metaspace" else pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    if kind == "trimmed":
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    else:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def pointed(window: dict[str, Any], first: int, last: int) -> torch.Tensor:
    """[2, T]: logits that point at these tokens."""
    logits = torch.zeros(2, len(window["spans"]))
    logits[0, first] = logits[1, last] = 5.0
    return logits


@pytest.mark.parametrize("kind", ["metaspace", "byte level", "trimmed"])
def test_answers_begin_and_end_with_a_word(kind: str) -> None:
    windows = cut_windows(tokenizer(kind), "where ?", CONTEXT, SECTION, 1)
    assert len(windows) > 1
    said = set()
    for window in windows:
        inside = [at for at, span in enumerate(window["spans"]) if span is not None]
        for first in inside:
            for last in inside:
                answer = best_in_window(pointed(window, first, last), window["spans"], 30).said(CONTEXT, -1.0)
                assert answer and answer == answer.strip() and answer in CONTEXT
                said.add(answer)
    assert {"the old city", "city of", "old", "?"} <= said


@pytest.mark.parametrize("kind", ["metaspace", "byte level", "trimmed"])
@pytest.mark.parametrize("text", ["the old city of Rom\u00e9", "anna", "old", "there?", "in\n\nthe", "who"])
def test_what_is_learned_is_what_is_said(kind: str, text: str) -> None:
    question = Question("a", CONTEXT, "where ?", ((text, CONTEXT.index(text)),))
    learned = []
    for window in cut_windows(tokenizer(kind), question.question, CONTEXT, SECTION, 1):
        first, last = _answer(window["spans"], question)
        if (first, last) != (0, 0):
            learned.append(best_in_window(pointed(window, first, last), window["spans"], 30).said(CONTEXT, -1.0))
    assert learned and set(learned) == {text}


def test_a_window_of_white_space_has_no_answer() -> None:
    context = "anna" + " " * 200 + "lives"
    windows = cut_windows(tokenizer("byte level"), "where ?", context, SECTION, 1)
    found = [best_in_window(torch.zeros(2, len(window["spans"])), window["spans"], 30) for window in windows]
    assert any(one.logit == -torch.inf for one in found)
    assert best_of(found).said(context, -1.0) in {"a", "an", "anna", "lives"}
