"""The languages of a batch's texts, and which of them a metric's model does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlitqc.language import UNKNOWN, language_name, not_known
from vlitqc.types import Batch, Features, FeatureStore, LanguageModel, TextLikelihood
from vlitqc_metrics._algorithms.texts import instructions, likelihoods, responses, turn_likelihoods

Side = Literal["instruction", "response"]
Turn = tuple[TextLikelihood, TextLikelihood]
ANY = "any"
_ALIKE = frozenset({"ms", "id"})
_NO_ROWS = np.empty(0, np.int64)


def told_turns(batch: Batch, detector: LanguageModel) -> list[Turn]:
    """What the model says of every turn's (instruction, response), once each text's language knows of the others.

    A text of one or two words or of an unknown language, and one that is no sound English (SLOR below 0, as words in
    random order have), is in the language of its turn's other side where that is a foreign one. Malay and Indonesian
    share most short sentences: where a record has texts in both, all are in the one that they are in as one text.
    """
    return batch.memo(("told_turns", detector.ref), lambda: _told_turns(batch, detector))


def _told_turns(batch: Batch, detector: LanguageModel) -> list[Turn]:
    found = turn_likelihoods(batch, detector)
    turns = [(_beside(asked, said), _beside(said, asked)) for asked, said in found]
    (asked, owners), (answered, _) = instructions(batch), responses(batch)
    records: dict[int, list[tuple[str, str]]] = {}
    for owner, texts, turn in zip(owners.tolist(), zip(asked, answered, strict=True), turns, strict=True):
        alike = [
            (told.language, text) for told, text in zip(turn, texts, strict=True) if told.language in _ALIKE
        ]
        records.setdefault(owner, []).extend(alike)
    mixed = {owner: rows for owner, rows in records.items() if len({code for code, _ in rows}) > 1}
    if not mixed:
        return turns
    whole = likelihoods(batch, detector, ["\n".join(text for _, text in rows) for rows in mixed.values()])
    settled = dict(zip(mixed, whole, strict=True))

    def one(told: TextLikelihood, owner: int) -> TextLikelihood:
        return _like(told, settled[owner]) if owner in settled and told.language in _ALIKE else told

    return [
        (one(asked, owner), one(said, owner))
        for (asked, said), owner in zip(turns, owners.tolist(), strict=True)
    ]


def turn_languages(batch: Batch, detector: LanguageModel) -> list[tuple[str, str]]:
    """The language of every turn's (instruction, response), as ISO 639 codes; see ``told_turns``."""
    return [(asked.language, said.language) for asked, said in told_turns(batch, detector)]


def _beside(text: TextLikelihood, other: TextLikelihood) -> TextLikelihood:
    unsound = text.value is None or (text.slor is not None and text.slor < 0)
    doubtful = text.language == UNKNOWN or (text.language == "en" and unsound)
    return _like(text, other) if doubtful and other.language not in ("", "en") else text


def _like(text: TextLikelihood, other: TextLikelihood) -> TextLikelihood:
    """The text in the other's language, which the model may or may not know."""
    if other.value is None:
        return replace(other, n_tokens=text.n_tokens)
    return replace(text, language=other.language)


class KnownLanguages:
    """The languages that a metric's model knows, and what tells a text's language.

    Args:
        detector: a language model, asked once a batch for every text, whose answers name the language. Without
            one no text counts as foreign, nor does a text whose language it leaves open (``""``).
        languages: ISO 639-1 codes, or ``any`` for a model of every language.

    Raises:
        TypeError: ``languages`` is neither ``any`` nor a list of such codes.
    """

    def __init__(self, detector: LanguageModel | None, languages: Sequence[str]) -> None:
        if languages == ANY:
            detector, languages = None, ()
        if isinstance(languages, str) or not all(isinstance(c, str) and c.isalpha() for c in languages):
            raise TypeError(f"languages must be 'any' or a list of codes such as ['en'], got {languages!r}")
        self.detector = detector
        self.codes = tuple(languages)

    @property
    def key(self) -> tuple[str, ...]:
        """Equal only where the same texts count as foreign; short and safe as part of a file name."""
        return () if self.detector is None else (self.detector.ref.key, *self.codes)

    def foreign(self, batch: Batch, side: Side) -> list[list[str | None]]:
        """For each turn of each sample the language of that side's text if it is not known, else None."""
        if self.detector is None:
            return [[None] * len(sample.turns) for sample in batch.samples]
        found = iter(turn_languages(batch, self.detector))
        codes = [[next(found)[side == "response"] for _ in sample.turns] for sample in batch.samples]
        return [[None if code in ("", *self.codes) else code for code in row] for row in codes]

    def reason(self, foreign: Sequence[str | None], otherwise: str) -> str:
        """Why a sample has no text to score: the first of its foreign languages, or ``otherwise``."""
        code = next((code for code in foreign if code is not None), None)
        return otherwise if code is None else not_known(code, self.codes)

    def features(self, batch: Batch, side: Side, *, spoken: bool = False) -> dict[str, Features]:
        """What ``left_out`` needs of a batch: a row for every turn, or only for those with a text (``spoken``)."""
        if self.detector is None:
            return {}
        texts, index = instructions(batch) if side == "instruction" else responses(batch)
        flat = [code or "" for row in self.foreign(batch, side) for code in row]
        rows = [i for i, text in enumerate(texts) if text or not spoken]
        return {self._feature(side): Features([flat[i] for i in rows], index[rows])}

    def left_out(self, store: FeatureStore, side: Side, sample_of: NDArray[np.int64] = _NO_ROWS) -> LeftOut:
        """Which texts are not known, and which rows of another feature, whose samples are ``sample_of``, are theirs.

        Both features have a row for the same turns; a sample that lacks either counts as known.
        """
        rows = np.zeros(len(sample_of), dtype=bool)
        if self.detector is None:
            return LeftOut(rows, _NO_ROWS, (), Counter(), self.codes)
        coded, index = store.coded(self._feature(side))
        names, numbers = coded.dictionary.to_pylist(), coded.indices.to_numpy()
        n = store.n_samples
        whole = np.bincount(index, minlength=n) == np.bincount(sample_of, minlength=n)
        told = np.array([name != "" for name in names], dtype=bool)[numbers]
        rows[whole[sample_of]] = told[whole[index]]
        first = np.full(n, -1, np.int64)
        # The last of several assignments holds, so a sample's first language comes last.
        first[index[told][::-1]] = numbers[told][::-1]
        counts = zip(names, np.bincount(numbers, minlength=len(names)).tolist(), strict=True)
        return LeftOut(rows, first, names, Counter({name: k for name, k in counts if name}), self.codes)

    def _feature(self, side: Side) -> str:
        return "-".join(["foreign", side, *self.key])


class LeftOut:
    """Texts that a metric leaves out because its model does not know their language.

    ``rows`` marks them and ``codes`` counts them by language; ``names[first[i]]`` is the first such language of
    sample ``i``, and ``first[i]`` is −1 where it has none (empty: no sample has).
    """

    def __init__(
        self,
        rows: NDArray[np.bool_],
        first: NDArray[np.int64],
        names: Sequence[str],
        codes: Counter[str],
        known: Sequence[str],
    ) -> None:
        self.rows = rows
        self.first = first
        self.names = names
        self.codes = codes
        self.known = known

    def details(self) -> dict[str, dict[str, int]]:
        """For a scorecard: how many texts of each language; nothing where none is left out."""
        told = {language_name(code): n for code, n in self.codes.most_common()}
        return {"left_out_languages": told} if told else {}

    def reason(self, otherwise: str) -> str:
        """Why there is nothing to score: the most frequent of the languages, or ``otherwise``."""
        return not_known(self.codes.most_common(1)[0][0], self.known) if self.codes else otherwise

    def missing(self, n: int, otherwise: str) -> list[str]:
        """Why each of ``n`` samples has no text to score: the first of its foreign languages, or ``otherwise``."""
        if not self.codes:
            return [otherwise] * n
        reasons = [*(not_known(name, self.known) for name in self.names), otherwise]
        return [reasons[i] for i in self.first.tolist()]
