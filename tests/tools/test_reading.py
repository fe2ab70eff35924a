"""The extractive reader: a tiny BERT that has learned one passage, and the tool that asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertModel, BertTokenizerFast

from zerogate.errors import UserError
from zerogate.tools.named import named_tools
from zerogate.tools.reading import extractive

TITLE, TEXT = "Owl", "The grey owl lives in the old tower of Brenna. It sleeps by day."
PASSAGE = f"{TITLE}. {TEXT}"  # as the tool shows it
QUESTION, ANSWER = "Where does the owl live?", "the old tower of Brenna"
OTHER = "What does the owl eat?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers the one question about the passage, and has no answer to the other."""
    folder = tmp_path_factory.mktemp("reader")
    words = sorted({word.strip(".?").lower() for text in (PASSAGE, QUESTION, OTHER) for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *words]))
    tokenizer: Any = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForQuestionAnswering(config)
    rows = tokenizer([QUESTION, OTHER], [PASSAGE, PASSAGE], padding=True, return_tensors="pt")
    at = PASSAGE.index(ANSWER)
    start, end = rows.char_to_token(0, at, 1), rows.char_to_token(0, at + len(ANSWER) - 1, 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(80):
        loss = model(**rows, start_positions=torch.tensor([start, 0]), end_positions=torch.tensor([end, 0])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_it_reads_an_answer_or_none(folder: Path) -> None:
    read = extractive(folder)
    found = read(QUESTION, PASSAGE)
    assert found is not None and found[0] == ANSWER and found[1] > 1
    assert read(OTHER, PASSAGE) is None


def test_the_tool_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / f"{TITLE}.txt").write_text(TEXT)
    tools = named_tools([f"qa={tmp_path / 'notes'}@{folder}"])
    assert tools.call("QA", QUESTION).result == ANSWER
    assert "no passage answers" in (tools.call("QA", OTHER).error or "")
    for wrong, message in (("qa=notes", "expected qa=DOCUMENTS@MODEL"), ("qa=notes@", "expected qa=")):
        with pytest.raises(UserError, match=message):
            named_tools([wrong])


def test_a_model_without_the_head_is_refused(folder: Path, tmp_path: Path) -> None:
    BertModel(BertConfig.from_pretrained(folder)).save_pretrained(tmp_path)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).exists():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match="no question answering head"):
        extractive(tmp_path)
    with pytest.raises(UserError, match="cannot load the reader"):
        extractive(tmp_path / "nothing")
