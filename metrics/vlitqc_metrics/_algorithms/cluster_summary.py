"""From cluster labels to a data set's diversity: a count, its interval, and a curve over sample size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlitqc.analysis.bootstrap import REPLICATES
from vlitqc.analysis.diversity import expected_clusters
from vlitqc.types import DatasetScore, FloatArray, Spread
from vlitqc_metrics._algorithms.dbscan import NOISE, dbscan
from vlitqc_metrics._algorithms.file_rows import rows_of

LARGEST = 20
_CURVE = 8
_TWO_SIDED_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Density:
    """What makes a cluster: cosine distance of neighbours, neighbours of a core item, most items clustered.

    Beyond ``max_items`` a random part of that size is clustered and the others have no label: the cost is
    quadratic (100,000 items take about half a minute on two cores at 384 numbers each, a minute and a half at
    1,280: a tenth more than the matrix product alone).
    """

    eps: float
    min_samples: int
    max_items: int

    def __post_init__(self) -> None:
        if not isinstance(self.eps, int | float) or not 0 <= self.eps <= 2:
            raise TypeError(f"eps must be a cosine distance from 0 to 2, got {self.eps!r}")
        for name, number in (("min_samples", self.min_samples), ("max_items", self.max_items)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise TypeError(f"{name} must be a whole number from 1, got {number!r}")


@dataclass(frozen=True, slots=True)
class Clustering:
    """Labels of all items: a cluster's number, ``NOISE``, or ``UNLABELLED`` for items left out of the draw."""

    labels: NDArray[np.int64]
    n_clusters: int
    n_clustered: int


UNLABELLED = -2
"""The label of an item that was not drawn for clustering."""


def cluster(
    rows: FloatArray,
    density: Density,
    *,
    seed: int,
    items: NDArray[np.int64] | None = None,
    spread: Spread | None = None,
) -> Clustering:
    """DBSCAN labels by cosine distance of the rows ``items`` (all by default), or of a random part of them.

    ``spread`` shares the work where there is much of it.
    """
    n = len(rows) if items is None else len(items)
    if n <= density.max_items:
        mine = rows_of(rows, items, spread)
        labels = dbscan(mine, density.eps, density.min_samples, spread=spread)
        return Clustering(labels, int(labels.max(initial=NOISE)) + 1, n)
    drawn = np.sort(np.random.default_rng(seed).choice(n, density.max_items, replace=False))
    chosen = drawn if items is None else items[drawn]
    found = dbscan(rows_of(rows, chosen, spread), density.eps, density.min_samples, spread=spread)
    labels = np.full(n, UNLABELLED, dtype=np.int64)
    labels[drawn] = found
    return Clustering(labels, int(found.max(initial=NOISE)) + 1, density.max_items)


def count_error(
    labels: NDArray[np.int64], sample_of: NDArray[np.int64], min_samples: int, *, seed: int
) -> float:
    """Standard error of the number of clusters, by resampling samples with the labels fixed.

    Each of 1,000 replicates draws as many samples as there are, with replacement, and counts the clusters
    that keep at least ``min_samples`` items. Whole samples are drawn, because the turns of one conversation
    are not independent.

    It is too small where many groups are about as large as ``min_samples``: those just below are noise here, and
    no replicate makes clusters of them, as another sample would. Their sizes, from which ``bootstrap_kinds``
    estimates what was not seen, are not known.
    """
    kept = labels >= 0
    clusters = labels[kept]
    samples, of_sample = np.unique(sample_of, return_inverse=True)
    of_item = of_sample[kept]
    n_clusters = int(clusters.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    counts = np.empty(REPLICATES)
    for b in range(REPLICATES):
        times = np.bincount(rng.integers(0, len(samples), len(samples)), minlength=len(samples))
        sizes = np.bincount(clusters, weights=times[of_item], minlength=n_clusters)
        counts[b] = np.count_nonzero(sizes >= min_samples)
    return float(counts.std(ddof=1))


def summarise(
    found: Clustering,
    sample_of: NDArray[np.int64],
    density: Density,
    value: Callable[[float], float],
    *,
    n_scored: int,
    n_total: int,
    seed: int,
    items: str,
    columns: Mapping[str, pa.Array],
    missing: Sequence[str],
) -> DatasetScore:
    """The data set's score from a clustering.

    The interval is ``value(K ± 1.96·se)`` (Chao et al., *Ecological Monographs* 84 (2014), section on
    intervals), K the number of clusters and se that of ``count_error``. Percentiles of the replicates
    themselves would lie below K, because a resample repeats items and so loses small clusters and never finds
    a new one. No end lies below one cluster. Of simulated populations with tight clusters the interval holds the
    number that another sample would have on average in 75 to 95 of 100 samples: the fewer, the more clusters are about
    as large as ``min_samples``.

    Args:
        found: the clustering.
        sample_of: the unit of resampling that each item belongs to.
        density: what the clusters were made with.
        value: from a number of clusters, at least 1, to the metric's value; non-decreasing.
        n_scored: samples with a clustered item; the score says 0 where there is no cluster.
        n_total: samples of the run.
        seed: of the replicates.
        items: what was clustered, as a word of the details.
        columns: passed on.
        missing: why each sample has no label, where it has none.
    """
    labels = found.labels
    drawn = labels != UNLABELLED
    members = np.bincount(labels[labels >= 0], minlength=found.n_clusters)
    details: dict[str, Any] = {
        "n_clusters": found.n_clusters,
        f"n_{items}": len(labels),
        f"n_{items}_clustered": found.n_clustered,
        "noise_share": float((labels[drawn] == NOISE).mean()) if found.n_clustered else 0.0,
        "largest_clusters": np.sort(members)[::-1][:LARGEST].tolist(),
        "eps": density.eps,
        "min_samples": density.min_samples,
        "curve": curve(members, found.n_clustered, density.min_samples),
    }
    if found.n_clusters == 0:
        return DatasetScore(
            reason=f"no cluster: no {density.min_samples} of the {found.n_clustered} {items} lie close together",
            n_total=n_total,
            details=details,
            columns=columns,
            missing=missing,
        )
    error = _TWO_SIDED_95 * count_error(labels[drawn], sample_of[drawn], density.min_samples, seed=seed)
    low, high = max(1.0, found.n_clusters - error), found.n_clusters + error
    return DatasetScore(
        value=value(found.n_clusters),
        interval=(value(low), value(high)),
        n_scored=n_scored,
        n_total=n_total,
        details=details,
        columns=columns,
        missing=missing,
    )


def curve(members: NDArray[np.int64], n_items: int, min_samples: int) -> dict[str, list[float]]:
    """Expected clusters among m random items, for eight m up to all: what data sets of two sizes share."""
    sizes = sorted({max(1, round(n_items * k / _CURVE)) for k in range(1, _CURVE + 1)}) if n_items else []
    return {
        "m": [float(m) for m in sizes],
        "clusters": [expected_clusters(members, n_items, m, min_samples) for m in sizes],
    }


def label_of_first(labels: NDArray[np.int64], sample_of: NDArray[np.int64], n_samples: int) -> pa.Array:
    """For each sample the label of its first item, −1 for noise; null without one, or where it was not drawn."""
    column = np.full(n_samples, UNLABELLED, np.int64)
    samples, first = np.unique(sample_of, return_index=True)
    column[samples] = labels[first]
    return pa.array(column, mask=column == UNLABELLED)


def why_unlabelled(
    found: Clustering, sample_of: NDArray[np.int64], without: Sequence[str], items: str
) -> list[str]:
    """Why each sample has no label: ``without``, for one without an item, or that its first was not drawn."""
    undrawn = f"not among the {found.n_clustered} {items} drawn for clustering"
    having = np.bincount(sample_of, minlength=len(without)) > 0
    return [undrawn if there else text for there, text in zip(having.tolist(), without, strict=True)]
