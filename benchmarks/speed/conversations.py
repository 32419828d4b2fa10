"""Instructions with responses for the areas about text: real ones where ``--data`` holds them, else made ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import wordfreq
from numpy.typing import NDArray

from vlitqc.errors import VlitqcError
from vlitqc.formats import open_input
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Sample
from vlitqc_metrics._algorithms.words import stop_words

FOLDERS = (
    "llava_repo",
    "cc3m_llava34b_cap",
    "mantis_examples",
    "llama_factory",
    "fastchat",
    "llava_pretrain_2k",
)
"""Folders of ``--data`` with conversations in many words."""
LONGEST = 2000
Turn = tuple[str, str]
"""An instruction and its response."""

_VOCABULARY = 20_000


def turns(n: int, data: Path | None) -> list[Turn]:
    """``n`` turns, no two alike: those of ``data``, then made ones."""
    found = list(dict.fromkeys(_real(data)))[:n] if data else []
    return found + made_turns(n - len(found))


def made_turns(n: int) -> list[Turn]:
    """Frequent English words drawn by Zipf's law, in sentences; as long as those of LLaVA's conversations.

    An instruction asks for some 6 content words and a response has some 60 words, half of them stop words.
    """
    rng = np.random.default_rng(0)
    listed = wordfreq.top_n_list("en", _VOCABULARY, ascii_only=True)
    stops = stop_words()
    content = np.array([word for word in listed if word not in stops and len(word) > 1])
    every = np.array(listed)

    def drawn(words: NDArray[np.str_], lengths: NDArray[np.int64]) -> list[list[str]]:
        share = 1 / np.arange(1, len(words) + 1)
        chosen = words[rng.choice(len(words), int(lengths.sum()), p=share / share.sum())].tolist()
        stop = np.cumsum(lengths).tolist()
        return [chosen[b - n : b] for b, n in zip(stop, lengths.tolist(), strict=True)]

    asked = drawn(content, rng.poisson(5, n) + 1)
    said = drawn(every, rng.poisson(55, n) + 5)
    return [
        (f"What is the {' '.join(question)}?", ". ".join(_sentences(answer)))
        for question, answer in zip(asked, said, strict=True)
    ]


def _sentences(words: list[str]) -> list[str]:
    return [" ".join(words[start : start + 12]).capitalize() for start in range(0, len(words), 12)]


def _real(data: Path) -> Iterator[Turn]:
    for name in FOLDERS:
        try:
            records = open_input(data / name).records()
        except VlitqcError:  # not there
            continue
        for record in records:
            for turn in record.turns if isinstance(record, Sample) else ():
                asked, said = strip_media_tokens(turn.instruction), strip_media_tokens(turn.response)
                if asked and said and len(asked) < LONGEST and len(said) < LONGEST:
                    yield asked, said
