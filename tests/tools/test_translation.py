"""Translation: languages are told apart, English stays as it is, a table's words are put in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_base import make_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MBart50Tokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from zerogate.errors import UserError
from zerogate.tools.named import named_tools
from zerogate.tools.tool import ToolError
from zerogate.tools.translation import _NLLB, Glossary, _code, _languages, language_of, marian, translation

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


VOCABULARY = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "\u2581", *"Dacdehikntz"])}


def save_translator(folder: Path, tokenizer: Any) -> None:
    """A tiny random encoder and decoder with this tokenizer."""
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=200 + len(FAIRSEQ_LANGUAGE_CODES), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=256, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """What models were given, and what they wrote."""
    calls: list[tuple[list[int], list[int]]] = []
    generate = M2M100ForConditionalGeneration.generate

    def recorded(self: Any, **given: Any) -> Any:
        new = generate(self, **{**given, "max_new_tokens": 5})
        calls.append((given["input_ids"][0].tolist(), new[0].tolist()))
        return new

    monkeypatch.setattr(M2M100ForConditionalGeneration, "generate", recorded)
    return calls


def test_nllb_is_told_both_languages_by_its_own_codes(tmp_path: Path, seen: list[tuple[list[int], list[int]]]) -> None:
    tokenizer = NllbTokenizer(vocab=VOCABULARY)
    save_translator(tmp_path, tokenizer)
    translate = marian(tmp_path)
    for language, code in (("de", "deu_Latn"), ("zh", "zho_Hans"), ("kab", "kab_Latn"), ("ace", "ace_Latn")):
        translate("Die Katze", language)
        given, written = seen[-1]
        tokenizer.src_lang = code
        assert given == tokenizer("Die Katze").input_ids and given[0] == tokenizer.convert_tokens_to_ids(code)
        assert written[:2] == [2, tokenizer.convert_tokens_to_ids("eng_Latn")]
    with pytest.raises(ToolError, match="the language of 'Demat' is 'br', which the translator does not know"):
        translate("Demat", "br")
    assert len(seen) == 4


def test_m2m100_is_told_both_languages(tmp_path: Path, seen: list[tuple[list[int], list[int]]]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    said = ["die katze liegt auf dem ofen", "the cat lies on the stove"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(said), model_prefix=str(tmp_path / "pieces"), vocab_size=26, minloglevel=2
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "pieces.model"))
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *map(model.id_to_piece, range(model.get_piece_size()))])
    (tmp_path / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    tokenizer = M2M100Tokenizer(vocab_file=str(tmp_path / "vocab.json"), spm_file=str(tmp_path / "pieces.model"))
    save_translator(tmp_path / "model", tokenizer)
    translate = marian(tmp_path / "model")
    translate("die katze", "de")
    ((given, written),) = seen
    assert given[0] == tokenizer.get_lang_id("de") and written[:2] == [2, tokenizer.get_lang_id("en")]
    with pytest.raises(ToolError, match="'la', which the translator does not know"):
        translate("cattus", "la")


def test_the_detectors_languages_as_tokenizers_call_them() -> None:
    import py3langid

    py3langid.classify("")
    labels = set(py3langid.langid.IDENTIFIER.labels)
    nllb = _languages(NllbTokenizer(vocab=VOCABULARY))
    assert set(nllb) == set(FAIRSEQ_LANGUAGE_CODES) and set(_NLLB) <= labels and set(_NLLB.values()) <= set(nllb)
    assert len(set(_NLLB.values())) == len(_NLLB)
    unknown = {label for label in labels if _code(label, nllb) is None}
    assert unknown == {
        "an", "bcl", "br", "ext", "fy", "gcf", "gcr", "gom", "grc", "guw", "hbo", "la", "pcm", "sdh", "se", "uzs", "vo",
        "wa", "wuu", "zxx",
    }  # fmt: skip
    mbart = _languages(MBart50Tokenizer())
    assert [_code(language, mbart) for language in ("de", "en", "br")] == ["de_DE", "en_XX", None]


def test_a_translator_without_english_is_refused(tmp_path: Path) -> None:
    save_translator(tmp_path, NllbTokenizer(vocab=VOCABULARY, extra_special_tokens=["deu_Latn", "fra_Latn"]))
    with pytest.raises(UserError, match="does not know English"):
        marian(tmp_path)


def test_a_translator_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the translator"):
        marian(tmp_path)
