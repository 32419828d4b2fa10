"""Correctness: how well the responses match their own pictures, against other pictures of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlitqc.analysis.bootstrap import bootstrap_mean
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    FloatArray,
    ImageText,
    LanguageModel,
    MetricSpec,
    Principle,
)
from vlitqc_metrics._algorithms.batch_embeddings import (
    join,
    match_vectors,
    picture_feature,
    picture_features,
    picture_hash_feature,
)
from vlitqc_metrics._algorithms.languages import KnownLanguages, LeftOut
from vlitqc_metrics._algorithms.mapped import release
from vlitqc_metrics._algorithms.numbering import first_places

FEWEST_OTHERS = 20
"""With fewer other pictures a percentile has steps of over 5 points and says little."""

_BLOCK = 256


def matching_percentiles(
    responses: FloatArray,
    response_sample: NDArray[np.int64],
    pictures: FloatArray,
    distinct: NDArray[np.int64],
    own: Sequence[NDArray[np.int64]],
    *,
    n_others: int = 200,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile of each sample's own picture among random other pictures, for its responses.

    For a response t of sample i, with s* = max over its own pictures of t·v, and ``n_others`` pictures drawn
    without replacement from those that are not the sample's own::

        percentile = 100 · (#{t·v < s*} + #{t·v = s*} / 2) / n

    A sample's value is the mean over its responses. The pictures are drawn anew for every block of 256
    responses, and each response passes over its own, so that one matrix product serves a block.

    Args:
        responses: ``float32[r, d]``, any length.
        response_sample: ``int64[r]``, the sample of each response, non-decreasing.
        pictures: unit rows ``float32[p, d]``, may be memory-mapped; a picture may occur more than once.
        distinct: one row of ``pictures`` for each distinct picture.
        own: for each sample, its own pictures, out of ``distinct``.
        n_others: how many other pictures to draw; all of them where there are fewer.
        seed: of the draw.

    Returns:
        ``float64[samples]``, 0 to 100; 50 is what unrelated pictures get (k/(k+1)·100 for samples with k
        pictures, of which the best counts). NaN where a sample has no picture, no response or no others.
    """
    n_samples = len(own)
    total = np.zeros(n_samples)
    count = np.zeros(n_samples)
    rng = np.random.default_rng(seed)
    usable = np.array([len(mine) > 0 for mine in own], dtype=bool)[response_sample]
    chosen = np.flatnonzero(usable)
    for start in range(0, len(chosen), _BLOCK):
        rows = chosen[start : start + _BLOCK]
        samples = response_sample[rows]
        most_own = max(len(own[i]) for i in samples)
        drawn = rng.choice(distinct, size=min(len(distinct), n_others + most_own), replace=False)
        texts = np.asarray(responses[rows], dtype=np.float32)
        others = texts @ np.asarray(pictures[drawn], dtype=np.float32).T
        place = {int(row): at for at, row in enumerate(drawn)}
        for k, i in enumerate(samples):
            is_other = np.ones(len(drawn), dtype=bool)
            is_other[[place[row] for row in own[i].tolist() if row in place]] = False
            rivals = others[k, is_other][:n_others]
            if not len(rivals):
                continue
            best = (texts[k] @ pictures[own[i]].T).max()
            # A picture may occur again under another hash; its product must tie in spite of rounding.
            tied = np.abs(rivals - best) <= 1e-6
            total[i] += 100.0 * ((rivals < best) & ~tied).mean() + 50.0 * tied.mean()
            count[i] += 1
        if start % (16 * _BLOCK) == 0:
            release(responses)
            release(pictures)
    with np.errstate(invalid="ignore"):
        return total / count


class _OfSamples(Sequence[NDArray[np.int64]]):
    """For each of ``n`` samples those of ``items`` that are its own; ``sample_of`` is non-decreasing."""

    def __init__(self, items: NDArray[np.int64], sample_of: NDArray[np.int64], n: int) -> None:
        self._items = items
        self._starts = np.searchsorted(sample_of, np.arange(n + 1))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: Any) -> Any:
        return self._items[self._starts[i] : self._starts[i + 1]]


class MatchingPercentile:
    """Matching percentile under any image-text model; it has no scale, so it can be read across models.

    With a ``language_model`` a response whose language is none of ``languages`` is left out; without one every
    response is taken for one of them.
    """

    spec: ClassVar[MetricSpec] = MetricSpec(
        name="matching_percentile",
        title="Matching percentile",
        principle=Principle.CORRECTNESS,
        level="dataset",
        summary="Share of other pictures of the data set that fit a response worse than its own picture does.",
        unit="percentile",
        bounds=(0.0, 100.0),
        higher_is_better=True,
        reduction="largest over the sample's pictures; mean over responses; mean over samples",
        version="4",
        source="this project; companion of matching_degree",
        columns=("matching_percentile",),
        # Models look at some 224 px of the shorter side, which a long picture has only at full size.
        image_side=2048,
    )

    def __init__(
        self,
        model: ImageText,
        n_others: int = 200,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self.model = model
        self.n_others = n_others
        self.known = KnownLanguages(language_model, languages)

    def features(self, batch: Batch) -> Mapping[str, Features]:
        """Response vectors, picture vectors, the pictures' content hashes and the responses' languages."""
        return {
            self._responses: join(match_vectors(batch, self.model, self.known)),
            **picture_features(batch, self.model),
            **self.known.features(batch, "response", spoken=True),
        }

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Mean percentile with a bootstrap interval over samples; a column with each sample's own."""
        n = store.n_samples
        responses, response_sample = store.vectors(self._responses)
        vectors, picture_sample = store.vectors(picture_feature(self.model))
        coded, _ = store.coded(picture_hash_feature(self.model))
        left_out = self.known.left_out(store, "response")
        missing = self._missing(left_out, response_sample, picture_sample, n)
        none = "no sample has both a readable image and a response"
        if not len(responses) or not len(vectors):
            reason = none if len(responses) else left_out.reason(none)
            return DatasetScore(reason=reason, n_total=n, missing=missing)
        picture = coded.indices.to_numpy()
        first = first_places(picture)
        if len(first) - 1 < FEWEST_OTHERS:
            return DatasetScore(
                reason=f"fewer than {FEWEST_OTHERS} other images to compare with ({len(first) - 1})",
                n_total=n,
                missing=missing,
            )
        values = matching_percentiles(
            responses,
            response_sample,
            vectors,
            first,
            _OfSamples(first[picture], picture_sample, n),
            n_others=self.n_others,
            seed=store.seed,
        )
        scored = values[np.isfinite(values)]
        if not len(scored):
            return DatasetScore(reason=left_out.reason(none), n_total=n, missing=missing)
        return DatasetScore(
            value=float(scored.mean()),
            interval=bootstrap_mean(scored, seed=store.seed),
            n_scored=len(scored),
            n_total=n,
            details={
                "n_others": min(self.n_others, len(first) - 1),
                "n_distinct_images": len(first),
                "share_below_50": float((scored < 50).mean()),
                **left_out.details(),
            },
            columns={self.spec.name: pa.array(values, from_pandas=True)},
            missing=missing,
        )

    def _missing(
        self,
        left_out: LeftOut,
        response_sample: NDArray[np.int64],
        picture_sample: NDArray[np.int64],
        n: int,
    ) -> list[str | None]:
        """What each sample lacks for a percentile, if anything."""
        answered, pictured = (
            (np.bincount(having, minlength=n) > 0).tolist() for having in (response_sample, picture_sample)
        )
        return [
            "no readable picture" if not shown else None if said else unanswered
            for shown, said, unanswered in zip(
                pictured, answered, left_out.missing(n, "no response"), strict=True
            )
        ]

    @property
    def _responses(self) -> str:
        return "-".join(["match", self.model.ref.key, *self.known.key])
