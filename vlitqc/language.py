"""What languages are called, and how a model that does not know a text's language says so."""

from __future__ import annotations

from collections.abc import Sequence

LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "ca": "Catalan",
    "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fi": "Finnish", "fil": "Filipino", "fr": "French", "gu": "Gujarati", "he": "Hebrew",
    "hi": "Hindi", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam", "ms": "Malay", "my": "Burmese",
    "nb": "Norwegian", "nl": "Dutch", "or": "Odia", "pa": "Punjabi", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sh": "Serbo-Croatian", "si": "Sinhala", "sk": "Slovak",
    "sl": "Slovenian", "sv": "Swedish", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""ISO 639 code → English name, of every language that the detection tells from others."""


UNKNOWN = "und"
"""The code of a text in no language that the detection knows."""


def language_name(code: str) -> str:
    """``Malay (ms)``."""
    return f"{LANGUAGES[code]} ({code})" if code in LANGUAGES else f"an unknown language ({code})"


def not_known(code: str, known: Sequence[str]) -> str:
    """Why a model of the languages ``known`` has nothing to say of a text in the language ``code``."""
    names = [LANGUAGES.get(one, one) for one in known]
    told = f"{names[0]}-only model" if len(names) == 1 else f"model of {', '.join(names)} only"
    return f"{told}; the text is in {language_name(code)}"
