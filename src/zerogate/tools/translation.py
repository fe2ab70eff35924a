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
"""From a text and its language (ISO 639-1, or 639-3 where that has no code) to English."""

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
    """The likeliest language, as ISO 639-1 names it, or 639-3 where that has no code."""
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
        UserError: it cannot be loaded, or does not know English.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True).eval().to(device or "cpu")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"cannot load the translator {folder}: {' '.join(str(error).split())[:300]}") from error

    known = _languages(tokenizer)
    english = _code("en", known)
    if known and english is None:
        raise UserError(f"the translator {folder} does not know English, which is translated into: take another model")
    options = {} if english is None else {"forced_bos_token_id": known[english]}

    def translate(text: str, language: str) -> str:
        if known:
            if (code := _code(language, known)) is None:
                raise ToolError(f"the language of {text[:60]!r} is {language!r}, which the translator does not know")
            tokenizer.src_lang = code
        inputs = tokenizer(text, return_tensors="pt", truncation=True).to(model.device)
        new = model.generate(**inputs, max_new_tokens=200, num_beams=4, **options)
        return str(tokenizer.decode(new[0], skip_special_tokens=True))

    return translate


def _languages(tokenizer: Any) -> dict[str, int]:
    """The languages that a tokenizer has tokens for, by its own codes; none for a model of one pair of languages."""
    if hasattr(tokenizer, "get_lang_id"):  # M2M100, whose codes are ISO 639-1
        return {code: tokenizer.get_lang_id(code) for code in tokenizer.lang_code_to_token}
    codes = [token for token in tokenizer.all_special_tokens if _LANGUAGE_TOKEN.fullmatch(token)]
    return {code: tokenizer.convert_tokens_to_ids(code) for code in codes}


def _code(language: str, known: Mapping[str, int]) -> str | None:
    """What a tokenizer calls a language of the detector; None if it does not know it."""
    for code in (language, _NLLB.get(language)):
        if code in known:
            return code
    return next((code for code in known if code.startswith(f"{language}_")), None)


_LANGUAGE_TOKEN = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]+")
"""`deu_Latn` of NLLB (ISO 639-3 and the script), `de_DE` of mBART."""

_NLLB = {
    "af": "afr_Latn", "am": "amh_Ethi", "ar": "arb_Arab", "as": "asm_Beng", "az": "azj_Latn", "ba": "bak_Cyrl",
    "be": "bel_Cyrl", "bg": "bul_Cyrl", "bn": "ben_Beng", "bs": "bos_Latn", "ca": "cat_Latn", "cs": "ces_Latn",
    "cy": "cym_Latn", "da": "dan_Latn", "de": "deu_Latn", "dz": "dzo_Tibt", "el": "ell_Grek", "en": "eng_Latn",
    "eo": "epo_Latn", "es": "spa_Latn", "et": "est_Latn", "eu": "eus_Latn", "fa": "pes_Arab", "fi": "fin_Latn",
    "fo": "fao_Latn", "fr": "fra_Latn", "ga": "gle_Latn", "gd": "gla_Latn", "gl": "glg_Latn", "gu": "guj_Gujr",
    "ha": "hau_Latn", "he": "heb_Hebr", "hi": "hin_Deva", "hr": "hrv_Latn", "ht": "hat_Latn", "hu": "hun_Latn",
    "hy": "hye_Armn", "id": "ind_Latn", "ig": "ibo_Latn", "is": "isl_Latn", "it": "ita_Latn", "ja": "jpn_Jpan",
    "jv": "jav_Latn", "ka": "kat_Geor", "kk": "kaz_Cyrl", "km": "khm_Khmr", "kn": "kan_Knda", "ko": "kor_Hang",
    "ku": "kmr_Latn", "ky": "kir_Cyrl", "lb": "ltz_Latn", "lg": "lug_Latn", "ln": "lin_Latn", "lo": "lao_Laoo",
    "lt": "lit_Latn", "lv": "lvs_Latn", "mg": "plt_Latn", "mk": "mkd_Cyrl", "ml": "mal_Mlym", "mn": "khk_Cyrl",
    "mr": "mar_Deva", "ms": "zsm_Latn", "mt": "mlt_Latn", "my": "mya_Mymr", "ne": "npi_Deva", "nl": "nld_Latn",
    "nn": "nno_Latn", "no": "nob_Latn", "oc": "oci_Latn", "om": "gaz_Latn", "or": "ory_Orya", "pa": "pan_Guru",
    "pl": "pol_Latn", "ps": "pbt_Arab", "pt": "por_Latn", "qu": "quy_Latn", "ro": "ron_Latn", "ru": "rus_Cyrl",
    "rw": "kin_Latn", "sa": "san_Deva", "si": "sin_Sinh", "sk": "slk_Latn", "sl": "slv_Latn", "sn": "sna_Latn",
    "so": "som_Latn", "sq": "als_Latn", "sr": "srp_Cyrl", "st": "sot_Latn", "sv": "swe_Latn", "sw": "swh_Latn",
    "ta": "tam_Taml", "te": "tel_Telu", "tg": "tgk_Cyrl", "th": "tha_Thai", "tk": "tuk_Latn", "tl": "tgl_Latn",
    "tr": "tur_Latn", "tt": "tat_Cyrl", "ug": "uig_Arab", "uk": "ukr_Cyrl", "ur": "urd_Arab", "uz": "uzn_Latn",
    "vi": "vie_Latn", "xh": "xho_Latn", "yo": "yor_Latn", "zh": "zho_Hans", "zu": "zul_Latn",
    "ace": "ace_Latn", "gug": "grn_Latn",
}  # fmt: skip
"""The detector's languages as NLLB has them; left out are codes that differ by nothing but the script (`kab_Latn`)."""
