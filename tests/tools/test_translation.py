"""Translation: languages are told apart, English stays as it is, a table's words are put in."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerogate.errors import UserError
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


def test_a_translator_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the translator"):
        marian(tmp_path)
