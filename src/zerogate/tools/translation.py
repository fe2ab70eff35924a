"""Translation into English: what language it is says py3langid, the words are a translator's.

translation(marian("models/opus-mt-mul-en"))      # a translation model's folder
translation(Glossary({"chat": "cat"}))             # words by a table
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zerogate.errors import UserError
from zerogate.tools.tool import Limits, Sampling, Tool, ToolError

Translate = Callable[[str, str], str]
"""From a text and its language (ISO 639-1) to English."""

EXAMPLES = (
    "On the door stood Ferm\u00e9 le lundi [MT(Ferm\u00e9 le lundi) -> Closed on Mondays], so we went on.",
    "She called it a Katzensprung [MT(Katzensprung) -> stone's throw], a stone's throw.",
    "The sign read salida de emergencia [MT(salida de emergencia) -> emergency exit] in red letters.",
)


def translation(translate: Translate, name: str = "MT") -> Tool:
    """The tool.

    Args:
        translate: the translator.
        name: of the tool.

    Raises:
        UserError: py3langid is not installed.
    """
    if importlib.util.find_spec("py3langid") is None:
        raise UserError("translation needs py3langid to tell languages: pip install 'zerogate[tools]'")

    def run(input: str) -> str:
        language = language_of(input)
        if language == "en":
            return input
        return translate(input, language)

    return Tool(
        name,
        "Translates a word or a sentence into English.",
        run,
        examples=EXAMPLES,
        sampling=Sampling(threshold=0.0, positions=20, calls=10, gain=0.5),
        limits=Limits(seconds=30.0),
    )


def language_of(text: str) -> str:
    """The likeliest language, as ISO 639-1 names it."""
    import py3langid

    return str(py3langid.classify(text)[0])


class Glossary:
    """Words by a table, the rest as it stands: for tests, and where a list of terms is all there is."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = {word.lower(): english for word, english in words.items()}
        longest = sorted(self.words, key=len, reverse=True)
        self.pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest)) + r")(?!\w)", re.IGNORECASE)

    def __call__(self, text: str, language: str) -> str:
        """The text with every known word in English.

        Raises:
            ToolError: none is known.
        """
        found, count = self.pattern.subn(lambda m: self.words[m.group().lower()], text)
        if not count:
            raise ToolError(f"no word of {text[:60]!r} is in the glossary")
        return found


def marian(folder: str | Path, device: str | None = None) -> Translate:
    """A translation model of transformers (Marian, M2M100, NLLB and their like) from a folder or the Hub.

    Args:
        folder: of the model and its tokenizer.
        device: where it runs; the CPU by default.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True).eval().to(device or "cpu")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"cannot load the translator {folder}: {' '.join(str(error).split())[:300]}") from error

    def translate(text: str, language: str) -> str:
        if hasattr(tokenizer, "src_lang"):
            tokenizer.src_lang = language
        inputs = tokenizer(text, return_tensors="pt", truncation=True).to(model.device)
        options = {}
        if hasattr(tokenizer, "get_lang_id"):
            options["forced_bos_token_id"] = tokenizer.get_lang_id("en")
        new = model.generate(**inputs, max_new_tokens=200, num_beams=4, **options)
        return str(tokenizer.decode(new[0], skip_special_tokens=True))

    return translate
