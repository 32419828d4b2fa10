"""Granularity complexity: how many things an instruction speaks of (principle 8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlitqc.types import Batch, LanguageModel, MetricSpec, Parser, Principle, Score
from vlitqc_metrics._algorithms.languages import KnownLanguages
from vlitqc_metrics._algorithms.texts import instructions


def mean_count(elements: Sequence[Sequence[str]], index: NDArray[np.int64], n: int) -> list[float | None]:
    """The mean number of elements over each sample's instructions; None for a sample without one.

    ``elements[i]`` are the distinct elements of the instruction that belongs to sample ``index[i]`` of ``n``.
    """
    turns = np.bincount(index, minlength=n)
    sums = np.bincount(index, weights=[len(found) for found in elements], minlength=n)
    return [float(total / k) if k else None for total, k in zip(sums, turns, strict=True)]


class GranularityComplexity:
    """Semantic elements an instruction: distinct non-pronoun object arguments of its parse, 0 and up.

    With a ``language_model`` an instruction whose language is none of ``languages`` is left out, because a
    parser of one language finds nonsense in another; without one every instruction is taken for one of them.
    Data in another language needs a parser of that language and its code here; a multilingual parser, all codes.
    """

    spec = MetricSpec(
        name="granularity_complexity",
        title="Granularity complexity",
        principle=Principle.OBJECT_COMPLEXITY,
        level="sample",
        summary="How many distinct things each instruction asks about.",
        unit="elements per instruction",
        bounds=(0.0, float("inf")),
        higher_is_better=True,
        reduction="mean over a sample's instructions; mean over samples",
        version="4",
        source="section 4.2.3 of the paper (semantic role labelling); here objects of the dependency parse",
    )

    def __init__(
        self,
        parser: Parser,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self.parser = parser
        self.known = KnownLanguages(language_model, languages)

    def score(self, batch: Batch) -> list[Score]:
        """One score a sample; none where no instruction has words of a known language."""
        texts, index = instructions(batch)
        foreign = self.known.foreign(batch, "instruction")
        flat = [code for row in foreign for code in row]
        spoken = [i for i, text in enumerate(texts) if text and flat[i] is None]
        asked = [texts[i] for i in spoken]
        elements = batch.once(
            f"elements: {self.parser.ref}",
            asked,
            lambda at: self.parser.elements([asked[i] for i in at]),
            model=self.parser.ref.name,
        )
        means = mean_count(elements, index[spoken], len(batch))
        return [
            Score(reason=self.known.reason(codes, "no instruction text")) if mean is None else Score(mean)
            for mean, codes in zip(means, foreign, strict=True)
        ]
