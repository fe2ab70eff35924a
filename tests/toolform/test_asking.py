"""Answers that are kept: whose they are, through kills and changes. The model's part is played by a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_base import make_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from zerogate.data.jsonl import whole_lines
from zerogate.toolform import evaluate
from zerogate.toolform.document import Clock
from zerogate.toolform.tasks import Question
from zerogate.tools import Toolbox
from zerogate.tools.runtime import Answer

QUESTIONS = [Question(f"{n} + 1 =", (str(n + 1),), "number") for n in range(6)]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`ask` with a stand-in that always says the same, and is killed after some answers where told so."""
    tokenizer = make_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config)

    def run(
        said: str, questions: list[Question] = QUESTIONS, killed_after: int = 99, learned: str = "one"
    ) -> dict[str, Any]:
        asked = 0

        def answer(*given: Any, **settings: Any) -> Answer:
            nonlocal asked
            asked += 1
            if asked > killed_after:
                raise KeyboardInterrupt
            return Answer(text=said)

        monkeypatch.setattr(evaluate, "answer_with_tools", answer)
        found = evaluate.ask(
            model, tokenizer, questions, Toolbox([]), Clock(), [0], tmp_path / "sums.jsonl",
            most_calls=1, open_top_k=10, max_new_tokens=8, learned=learned,
        )  # fmt: skip
        return found | {"asked": asked, "said": {row["said"] for row in whole_lines(tmp_path / "sums.jsonl")}}

    return run


def test_answers_of_another_model_do_not_come_back_after_a_kill(ask: Callable[..., dict[str, Any]]) -> None:
    assert ask("1")["right"] == 1
    with pytest.raises(KeyboardInterrupt):
        ask("4", killed_after=3, learned="other")
    again = ask("4", learned="other")
    assert again["asked"] == 3 and again["said"] == {"4"}
    with pytest.raises(KeyboardInterrupt):
        ask("5", killed_after=0)
    assert ask("5")["said"] == {"5"}, "killed before the first answer"


@pytest.mark.parametrize("change", [{"answers": ("1",)}, {"rule": "five words"}, {"day": "2026-05-28"}])
def test_corrected_questions_are_asked_anew(ask: Callable[..., dict[str, Any]], change: dict[str, Any]) -> None:
    ask("1")
    assert ask("1")["asked"] == 0
    changed = ask("1", [replace(one, **change) for one in QUESTIONS])
    assert changed["asked"] == 6 and changed["right"] == (6 if "answers" in change else 1)


def test_a_question_without_room_for_an_answer_is_counted(ask: Callable[..., dict[str, Any]]) -> None:
    found = ask("1", [*QUESTIONS, Question("word " * 40, ("1",), "number")])
    assert (found["questions"], found["right"], found["too_long"], found["asked"]) == (7, 1, 1, 6)
