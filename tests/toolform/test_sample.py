"""Proposing calls: with a base that was taught to write them, on the embedded base's own scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_base import make_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from zerogate.toolform.positions import Text
from zerogate.toolform.sample import few_shot, propose
from zerogate.tools.calculator import calculator
from zerogate.tools.inline import OPEN
from zerogate.tools.tool import Sampling

TEXT = "We sold 12 crates of 18 jars, 216 in all."


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny base that has learned one text with a call by heart."""
    folder = make_base(tmp_path_factory.mktemp("base"), context=512)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shown = TEXT.replace(" 216", " [Calculator(12 * 18)] 216")
    ids = torch.tensor([[tokenizer.bos_token_id or 0, *tokenizer(shown, add_special_tokens=False)["input_ids"]]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.05
    return model.eval(), tokenizer


def test_calls_are_found_where_the_model_would_make_them(
    taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = taught
    text = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    before = [tokenizer.bos_token_id or 0]
    tool = replace(calculator(), sampling=Sampling(threshold=0.05, positions=3, calls=4))
    other_text = tokenizer("The owl sleeps.", add_special_tokens=False)["input_ids"]
    texts = [Text(before, text), Text(before, other_text)]
    found, _ = propose(model, tokenizer, tool, texts)
    index, chance = found.positions[0]
    assert tokenizer.decode(text[index:]).startswith(" 216") and chance > 0.5
    assert found.sampled == 4 * len(found.positions)
    assert (index, "12 * 18") in found.calls
    assert propose(model, tokenizer, tool, texts, batch_size=1)[0] == found, "batches do not matter"
    with monkeypatch.context() as patched:
        patched.setattr("zerogate.toolform.sample.shared_cache", lambda *given: {})
        assert propose(model, tokenizer, tool, texts)[0] == found, "nor that beginnings are computed once"
    assert propose(model, tokenizer, tool, texts[:1]) == [found], "nor other texts"
    # A tool of another name: the model writes calls, and none of them is this one's.
    (other,) = propose(model, tokenizer, replace(tool, name="Calendar"), texts[:1])
    assert other.positions == found.positions and other.calls == []
    # With its name in the opening: the same calls where the model chooses among tools by itself.
    (named,) = propose(model, tokenizer, tool, texts[:1], opening=f"{OPEN}Calculator")
    assert named.positions[0][0] == index and (index, "12 * 18") in named.calls
    assert (
        propose(model, tokenizer, replace(tool, name="Calendar"), texts[:1], opening=f"{OPEN}Calendar")[0].calls == []
    )
    assert tokenizer(OPEN, add_special_tokens=False)["input_ids"]


def test_the_prompt_shows_calls_without_results() -> None:
    prompt = few_shot(calculator(), TEXT)
    assert "With calls: Twelve crates hold 18 jars each, so the cellar has [Calculator(12 * 18)] 216 jars." in prompt
    assert "Text: Twelve crates hold 18 jars each, so the cellar has 216 jars." in prompt
    assert "->" not in prompt and prompt.endswith(f"Text: {TEXT}\nWith calls:")
