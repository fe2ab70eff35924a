"""Translation: languages are told apart, English stays as it is, a table's words are put in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_base import make_tokenizer
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from zerogate.errors import UserError
from zerogate.tools.named import named_tools
from zerogate.tools.translation import Glossary, language_of, marian, translation

pytest.importorskip("py3langid")


def test_other_languages_are_translated_and_english_is_left_alone() -> None:
    glossary = Glossary({"die katze": "the cat", "schl\u00e4ft": "sleeps", "Katze": "cat", "auf": "on", "dem": "the"})
    tool = translation(glossary)
    said = "Die Katze schl\u00e4ft auf dem alten Ofen"
    assert language_of(said) == "de"
    assert tool.call(said).result == "the cat sleeps on the alten Ofen"
    english = "The cat sleeps on the old stove"
    assert tool.call(english).result == english
    assert "is in the glossary" in (tool.call("\u00bfD\u00f3nde est\u00e1 la biblioteca municipal?").error or "")
    assert tool.sampling.gain == 0.5 and tool.sampling.positions == 20


def test_a_translation_model_from_a_folder(tmp_path: Path) -> None:
    """A tiny encoder and decoder that has learned two sentences."""
    pairs = {"Die Katze liegt auf dem Ofen": "The cat lies", "Wir haben heute keine Zeit": "We have no time"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=256, dropout=0.0,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, decoder_start_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    inputs = tokenizer(list(pairs), padding=True, return_tensors="pt")
    labels = tokenizer([f"{english}</s>" for english in pairs.values()], padding=True, return_tensors="pt").input_ids
    labels[labels == tokenizer.pad_token_id] = -100
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(120):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.1
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tools = named_tools([f"translate={tmp_path}"])
    assert {said: tools.call("MT", said).result for said in pairs} == pairs
    assert tools.call("MT", "We have all the time in the world").result == "We have all the time in the world"


def test_a_translator_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the translator"):
        marian(tmp_path)
