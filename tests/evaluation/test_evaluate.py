"""Evaluating real models: the same responses at any batch size, saved as they come, resumed after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig
from tiny_base import make_adapter, make_base

from zerogate.bases import load_adapted, load_base
from zerogate.bases.decode import decode_batch
from zerogate.data import Turn, prompt_ids
from zerogate.errors import UserError
from zerogate.evaluation.evaluate import TaskResult, evaluate_task, mean_accuracy
from zerogate.evaluation.score import score_file, total
from zerogate.evaluation.tasks import Question, find_task, read_questions

TASK = find_task("gsm8k")
QUESTIONS = [
    Question(row, f"Where {'or ' * (row % 4)}does the fox live? {row}", "In a den." * (row % 2), str(row))
    for row in range(1, 12)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("evaluate")
    base = make_base(root / "base", context=512)
    return base, make_adapter(root / "adapter", base)


@pytest.fixture(scope="module")
def model(folders: tuple[Path, Path]) -> tuple[Any, Any]:
    base, adapter = folders
    return load_adapted(str(base), {"one": adapter})


def ask(model: tuple[Any, Any], **settings: Any) -> TaskResult:
    settings = {"max_new_tokens": 12, "batch_size": 4, "questions": QUESTIONS} | settings
    questions = settings.pop("questions")
    return evaluate_task(*model, TASK, questions, **settings)


def responses(result: TaskResult) -> list[str]:
    return [row["response"] for row in result.rows]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_batch_of_any_size_gives_the_same_responses(model: tuple[Any, Any], num_beams: int) -> None:
    alone = responses(ask(model, batch_size=1, num_beams=num_beams))
    assert len(set(alone)) > 3, "the questions must be told apart for this to mean anything"
    for batch_size in (2, 3, 11):
        assert responses(ask(model, batch_size=batch_size, num_beams=num_beams)) == alone
    turned = ask(model, questions=QUESTIONS[::-1], batch_size=11, num_beams=num_beams)  # other neighbours
    assert responses(turned)[::-1] == alone


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
    ids=["prompt tuning", "prefix tuning"],
)
def test_learned_tokens_before_the_prompt_bear_batches(
    config: PeftConfig, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """PEFT puts prompt tuning's tokens before the padding, which then counts in the prompt's positions."""
    base = folders[0]
    model = load_adapted(str(base), {"soft": make_adapter(tmp_path / "soft", base, config=config)})
    alone = responses(ask(model, batch_size=1, questions=QUESTIONS[:5]))
    assert responses(ask(model, batch_size=5, questions=QUESTIONS[:5])) == alone


def test_a_response_is_what_generate_gives_to_the_prompt_alone(model: tuple[Any, Any]) -> None:
    """The reference is transformers' own beam search on one unpadded prompt."""
    network, tokenizer = model
    rows = ask(model, batch_size=11).rows
    for row, question in zip(rows[:4], QUESTIONS, strict=False):
        ids = prompt_ids([Turn("user", question.instruction, question.input)], "alpaca", tokenizer)
        output = network.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=12, num_beams=4, do_sample=False, pad_token_id=2
        )
        assert row["response"] == tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
        assert row["prompt"] == tokenizer.decode(ids)


@pytest.mark.slow
def test_on_the_embedded_base_with_real_questions(shared_data: Callable[[str], Path]) -> None:
    model = load_base("pocket", dtype="float32")
    task = find_task("arc-c")
    questions = read_questions(task, shared_data("commonsense/ARC-Challenge_test.json"), limit=5)
    alone, together = (
        evaluate_task(*model, task, questions, batch_size=size, max_new_tokens=16).rows for size in (1, 5)
    )
    assert [row["response"] for row in alone] == [row["response"] for row in together]


def test_a_prompt_that_nearly_fills_the_context_shortens_no_other(model: tuple[Any, Any]) -> None:
    network, tokenizer = model
    words = "Where does the fox live?"
    while len(prompt_ids([Turn("user", words)], "alpaca", tokenizer)) < 505:
        words += " fox"
    questions = [QUESTIONS[0], Question(2, words, "", "2"), QUESTIONS[2]]
    together = ask(model, questions=questions)
    alone = [ask(model, questions=[question]) for question in questions]
    assert responses(together) == [responses(result)[0] for result in alone]
    assert len(decode_batch(network, tokenizer, [[0, 5, 6]], max_new_tokens=12)[0]) == 12


def test_prompts_without_room(model: tuple[Any, Any]) -> None:
    questions = [QUESTIONS[0], Question(7, "fox " * 600, "", "2")]
    with pytest.raises(UserError, match=r"1 of 2 prompts leave no room .* row 7 .*--skip-long"):
        ask(model, questions=questions)
    result = ask(model, questions=questions, skip_long=True)
    assert result.rows[1]["response"] is None
    assert result.rows[1]["extracted_strict"] is None
    assert not result.rows[1]["compat"]
    assert result.n == 2


def test_the_active_adapter_answers_or_none(model: tuple[Any, Any], folders: tuple[Path, Path]) -> None:
    base = load_base(str(folders[0]))
    assert responses(ask(base)) != responses(ask(model))
    with model[0].disable_adapter():
        assert responses(ask(model)) == responses(ask(base))


def test_predictions_hold_all_and_can_be_scored_again(model: tuple[Any, Any], tmp_path: Path) -> None:
    file = tmp_path / "gsm8k.jsonl"
    result = ask(model, predictions=file, models={"base": "tiny"})
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == result.rows
    assert rows[3].keys() >= {
        "task", "row", "prompt", "response", "label", "extracted_compat", "extracted_strict", "compat", "strict"
    }  # fmt: skip
    assert rows[0]["decoding"] == {
        "num_beams": 4, "max_new_tokens": 12, "do_sample": False, "template": "alpaca", "base": "tiny"
    }  # fmt: skip
    again = score_file(TASK, file)
    assert total(again) == result.score
    assert again == rows


def test_stopped_and_resumed(model: tuple[Any, Any], tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    ask(model, predictions=whole)
    stopped = tmp_path / "stopped.jsonl"

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(model, predictions=stopped, progress=stop)
    with stopped.open("ab") as file:
        file.write(b'{"task": "GSM8K", "row": 9, "resp')  # a line torn by a crash
    seen: list[tuple[int, int]] = []
    result = ask(model, predictions=stopped, progress=lambda done, total: seen.append((done, total)), batch_size=2)
    assert seen == [(8, 11), (10, 11), (11, 11)]
    assert result.resumed == 8
    assert stopped.read_bytes() == whole.read_bytes()
    assert ask(model, predictions=stopped).resumed == 11


def test_a_file_of_other_questions_or_settings_is_refused(model: tuple[Any, Any], tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    ask(model, predictions=file)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"num_beams: 4 -> 2.*--overwrite"):
        ask(model, predictions=file, num_beams=2)
    with pytest.raises(UserError, match="base: None -> other"):
        ask(model, predictions=file, models={"base": "other"})
    with pytest.raises(UserError, match="line 1 answers another question"):
        ask(model, predictions=file, questions=QUESTIONS[::-1])
    changed = [Question(1, "Who?", "", "1"), *QUESTIONS[1:]]
    with pytest.raises(UserError, match="line 1 answers another question"):
        ask(model, predictions=file, questions=changed)
    with pytest.raises(UserError, match="has 11 rows, the questions are only 3"):
        ask(model, predictions=file, questions=QUESTIONS[:3])
    assert file.read_bytes() == before
    assert ask(model, predictions=file, questions=changed, overwrite=True).resumed == 0


def test_no_questions_and_a_model_in_training(model: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match="no questions"):
        ask(model, questions=[])
    model[0].train()
    with pytest.raises(ValueError, match="training mode"):
        ask(model)
    model[0].eval()


def test_the_mean_counts_each_task_once(model: tuple[Any, Any]) -> None:
    first = ask(model, questions=QUESTIONS[:2])
    second = ask(model, questions=QUESTIONS)
    compat, strict = mean_accuracy([first, second])
    assert compat == (first.compat + second.compat) / 2
    assert strict == (first.strict + second.strict) / 2
