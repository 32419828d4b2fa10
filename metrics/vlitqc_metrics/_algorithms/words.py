"""Content words of texts as integer ids, for the word co-occurrence graph."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Web addresses and angle-bracketed marks (<image>, <|im_start|>, HTML) hold letters but no words of the text.
_MARK = re.compile(r"</?[a-z_|][^<>\n]{0,120}>|\b(?:https?://|www\.)\S+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
# The second half of a contraction, or a possessive: what is left is a stop word or the content word.
_ENDING = re.compile(r"(?:n't|'(?:s|m|re|ve|ll|d))$")
# Halves that "won't" and "shan't" leave; spaCy lists "ca" of "can't" only.
_HALVES = frozenset({"wo", "sha"})


@cache
def stop_words() -> frozenset[str]:
    """spaCy's English stop words, and the halves that contractions leave."""
    spacy = find_spec("spacy")
    if spacy is None or spacy.origin is None:
        raise ModuleNotFoundError("spacy, whose stop words are left out, is not installed", name="spacy")
    # The list is a file that needs nothing else; importing it as a module brings in all of spaCy, and torch.
    listed = runpy.run_path(str(Path(spacy.origin).parent / "lang" / "en" / "stop_words.py"))
    return frozenset(listed["STOP_WORDS"]) | _HALVES


def content_words(text: str) -> list[str]:
    """Lower-cased words of a text in order, without stop words, single letters, numbers, marks and addresses.

    Contractions and possessives lose their ending: ``dog's`` is ``dog``, ``isn't`` is the stop word ``is``.
    Scripts without spaces are not segmented; a run of their letters counts as one word.
    """
    if "<" in text or "://" in text or "www." in text.lower():
        text = _MARK.sub(" ", text)
    stops = stop_words()
    words = _WORD.findall(text.lower().replace("\u2019", "'"))
    stems = [_ENDING.sub("", word) if "'" in word else word for word in words]
    return [word for word in stems if len(word) > 1 and word not in stops]


def content_word_ids(texts: Sequence[str]) -> tuple[list[NDArray[np.int32]], list[str]]:
    """Content words of each text as ids, and the vocabulary.

    Returns ``ids`` with ``ids[t]: int32[n_words]`` the words of text t in order, repeats kept, and
    ``vocabulary`` with ``vocabulary[i]`` the word of id i, numbered by first appearance.
    """
    numbers: dict[str, int] = {}
    ids = [
        np.array([numbers.setdefault(word, len(numbers)) for word in content_words(text)], dtype=np.int32)
        for text in texts
    ]
    return ids, list(numbers)
