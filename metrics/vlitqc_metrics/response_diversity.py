"""Response diversity: how many groups of like responses there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    LanguageModel,
    MetricSpec,
    Principle,
    TextEncoder,
)
from vlitqc_metrics._algorithms.batch_embeddings import response_feature, response_features
from vlitqc_metrics._algorithms.cluster_summary import (
    UNLABELLED,
    Density,
    cluster,
    label_of_first,
    summarise,
    why_unlabelled,
)
from vlitqc_metrics._algorithms.languages import KnownLanguages


class ResponseDiversity:
    """log10 of the number of DBSCAN clusters of the responses' embeddings.

    Two responses are neighbours at a cosine distance of at most ``eps``. The defaults belong to
    all-MiniLM-L6-v2, under which captions of one photograph by two people have a median cosine of 0.62,
    those of different photographs 0.1, and a caption's nearest among a thousand others 0.75: at eps = 0.25
    captions of like content join. From 0.35 on, chains swallow a fifth of a mixed set of captions into one
    cluster, from 0.45 on most of it, and the count falls. The paper does not print its own eps and
    min_samples; another encoder needs other ones.

    With a ``language_model`` a response whose language is none of ``languages`` is left out: an encoder of English
    puts all texts of another language near each other. Without one every response is taken for one of them.
    """

    spec: ClassVar[MetricSpec] = MetricSpec(
        name="response_diversity",
        title="Response diversity",
        principle=Principle.RESPONSE_DIVERSITY,
        level="dataset",
        summary="log10 of the number of clusters that DBSCAN finds among the responses' embeddings.",
        unit="log10(clusters)",
        bounds=(0.0, math.inf),
        higher_is_better=True,
        reduction="all responses of the data set are clustered together",
        version="3",
        source="VLIT review (TMLR 2024), section 4.1; Ester et al. 1996 (DBSCAN)",
        columns=("response_cluster",),
    )

    def __init__(
        self,
        encoder: TextEncoder,
        eps: float = 0.25,
        min_samples: int = 3,
        max_items: int = 200_000,
        language_model: LanguageModel | None = None,
        languages: Sequence[str] = ("en",),
    ) -> None:
        self.encoder = encoder
        self.known = KnownLanguages(language_model, languages)
        self.density = Density(eps, min_samples, max_items)

    def features(self, batch: Batch) -> Mapping[str, Features]:
        """One unit vector of every non-empty response, and its language."""
        return {
            **response_features(batch, self.encoder),
            **self.known.features(batch, "response", spoken=True),
        }

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Clusters the responses; the column holds the cluster of each sample's first response."""
        rows, sample_of = store.vectors(response_feature(self.encoder))
        n = store.n_samples
        left_out = self.known.left_out(store, "response", sample_of)
        items = np.flatnonzero(~left_out.rows)
        sample_of = sample_of[items]
        missing = left_out.missing(n, "no response")
        if not len(items):
            return DatasetScore(reason=left_out.reason("no response text"), n_total=n, missing=missing)
        found = cluster(
            rows,
            self.density,
            seed=store.seed,
            items=items if left_out.codes else None,
            spread=store.spread,
        )
        score = summarise(
            found,
            sample_of,
            self.density,
            math.log10,
            n_scored=len(np.unique(sample_of[found.labels != UNLABELLED])),
            n_total=n,
            seed=store.seed,
            items="responses",
            columns={"response_cluster": label_of_first(found.labels, sample_of, n)},
            missing=why_unlabelled(found, sample_of, missing, "responses"),
        )
        return replace(score, details={**score.details, **left_out.details()})
