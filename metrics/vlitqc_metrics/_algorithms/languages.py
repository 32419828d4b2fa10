"""Which texts of a batch are in a language that a metric's model does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vlitqc.types import Batch, LanguageModel
from vlitqc_metrics._algorithms.texts import turn_likelihoods


class KnownLanguages:
    """The languages that a metric's model knows, and what tells a text's language.

    Args:
        detector: a language model, asked once a batch for every text, whose answers name the language. Without
            one no text counts as foreign, nor does a text whose language it leaves open (``""``).
        languages: ISO 639-1 codes.

    Raises:
        TypeError: ``languages`` is no list of such codes.
    """

    def __init__(self, detector: LanguageModel | None, languages: Sequence[str]) -> None:
        if isinstance(languages, str) or not all(isinstance(c, str) and c.isalpha() for c in languages):
            raise TypeError(f"languages must be a list of codes such as ['en'], got {languages!r}")
        self.detector = detector
        self.codes = tuple(languages)

    @property
    def key(self) -> tuple[str, ...]:
        """Equal only where the same texts count as foreign; short and safe as part of a file name."""
        return () if self.detector is None else (self.detector.ref.key, *self.codes)

    def foreign(self, batch: Batch, side: Literal["instruction", "response"]) -> list[list[str | None]]:
        """For each turn of each sample the language of that side's text if it is not known, else None."""
        if self.detector is None:
            return [[None] * len(sample.turns) for sample in batch.samples]
        found = iter(turn_likelihoods(batch, self.detector))
        codes = [[next(found)[side == "response"].language for _ in s.turns] for s in batch.samples]
        return [[None if code in ("", *self.codes) else code for code in row] for row in codes]

    def reason(self, foreign: Sequence[str | None], otherwise: str) -> str:
        """Why a sample has no text to score: the first of its foreign languages, or ``otherwise``."""
        code = next((code for code in foreign if code is not None), None)
        return otherwise if code is None else f"language {code} not supported by this model"
