"""Visual diversity: how many groups of like pictures there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from vlitqc.types import Batch, DatasetScore, Features, FeatureStore, ImageEncoder, MetricSpec, Principle
from vlitqc_metrics._algorithms.batch_embeddings import (
    picture_feature,
    picture_features,
    picture_hash_feature,
)
from vlitqc_metrics._algorithms.cluster_summary import (
    UNLABELLED,
    Density,
    cluster,
    label_of_first,
    summarise,
    why_unlabelled,
)
from vlitqc_metrics._algorithms.numbering import first_places


class VisualSemanticDiversity:
    """The number of DBSCAN clusters of the distinct pictures' embeddings.

    Pictures with the same bytes count once, so asking many questions of one picture adds nothing. The
    defaults belong to EfficientNet-Lite0's pooled features, under which two photographs have a median cosine
    of about 0.25 and a photograph's nearest among a few hundred others about 0.53: at eps = 0.4 photographs
    of the same kind of scene join; at 0.5 half of all photographs become one cluster. The paper does not
    print its own eps and min_samples; another encoder needs other ones.
    """

    spec: ClassVar[MetricSpec] = MetricSpec(
        name="visual_semantic_diversity",
        title="Visual semantic diversity",
        principle=Principle.VISUAL_DIVERSITY,
        level="dataset",
        summary="Number of clusters that DBSCAN finds among the embeddings of the distinct images.",
        unit="clusters",
        bounds=(1.0, math.inf),
        higher_is_better=True,
        reduction="all distinct pictures of the data set are clustered together",
        version="2",
        source="VLIT review (TMLR 2024), section 4.1; Ester et al. 1996 (DBSCAN)",
        columns=("image_cluster",),
        # Models look at some 224 px of the shorter side, which a long picture has only at full size.
        image_side=2048,
    )

    def __init__(
        self, encoder: ImageEncoder, eps: float = 0.4, min_samples: int = 3, max_items: int = 100_000
    ) -> None:
        self.encoder = encoder
        self.density = Density(eps, min_samples, max_items)

    def features(self, batch: Batch) -> Mapping[str, Features]:
        """Vectors and content hashes of each sample's distinct readable pictures."""
        return picture_features(batch, self.encoder)

    def resolve(self, store: FeatureStore) -> DatasetScore:
        """Clusters the distinct pictures; the column holds the cluster of each sample's first picture."""
        rows, sample_of = store.vectors(picture_feature(self.encoder))
        coded, _ = store.coded(picture_hash_feature(self.encoder))
        n = store.n_samples
        if not len(rows):
            return DatasetScore(reason="no readable image", n_total=n)
        # In the order of their first appearance, so that cluster numbers follow the data.
        picture = coded.indices.to_numpy()
        first = first_places(picture)
        found = cluster(rows, self.density, seed=store.seed, items=first, spread=store.spread)
        of_row = found.labels[picture]
        return summarise(
            found,
            np.arange(len(first), dtype=np.int64),
            self.density,
            float,
            n_scored=len(np.unique(sample_of[of_row != UNLABELLED])),
            n_total=n,
            seed=store.seed,
            items="images",
            columns={"image_cluster": label_of_first(of_row, sample_of, n)},
            missing=why_unlabelled(found, sample_of, ["no readable picture"] * n, "images"),
        )
