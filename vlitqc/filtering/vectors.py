"""What the records of a run mean, as vectors: read from the run's features, and grouped by k-means.

A record's vector joins the mean of its responses' unit vectors and the mean of its pictures', each scaled to length
1 and zeros where there is none; the whole is scaled to length 1 again. The dot product of two records is then the
mean of the cosine of their responses and that of their pictures where both have both, and of two texts without a
picture the cosine of their responses alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from vlitqc.engine.run import Run
from vlitqc.engine.vectors import KINDS, features_of, to_unit_length, unit_means
from vlitqc.types import FloatArray

MOST_CLUSTERS = 1_000
LEARNT_FROM = 50
LEARNT_FROM_LEAST = 10_000
"""Rows a cluster, and rows in all, that the centres of k-means are learnt from at least, drawn at random; all rows are
then assigned."""
PASSES = 10
BLOCK = 4_096


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector a member, ``parts[k][i]`` its unit vector of one kind or zeros; on disk, not in memory."""

    parts: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, members: NDArray[np.int64]) -> FloatArray:
        """The joint unit vectors of some members, ``float32[n, d]``; a row of zeros where there is no vector."""
        joint = np.concatenate([part[members] for part in self.parts], axis=1)
        return to_unit_length(joint)


def read_vectors(run: Run, unreadable: NDArray[np.bool_], members: NDArray[np.int64]) -> Vectors | str:
    """The vectors of the records ``members`` (rows, ascending), or why there are none, in words.

    They lie in temporary files that are gone when the vectors are. Raises RunError where the features are damaged or
    the disk for temporary files is full.
    """
    readable = int(np.count_nonzero(~unreadable))
    store = features_of(run.path, len(unreadable), readable, seed=run.info["plan"]["seed"])
    if isinstance(store, str):
        return store
    samples = (np.cumsum(~unreadable) - 1)[members]
    means = (unit_means(run.path, store, kind, samples) for kind in KINDS)
    parts = tuple(part for part in means if part is not None)
    return Vectors(parts) if parts else "this run has no vectors of responses or pictures"


def clusters(vectors: Vectors, most: int, *, seed: int) -> NDArray[np.int64]:
    """The semantic cluster of every member, ``int64[n]``, from 0; -1 for one without a vector.

    Mini-batch k-means (Sculley, "Web-scale k-means clustering", WWW 2010), k = √(n / 2) and no more than ``most`` or
    1,000, a fixed number of passes so that no sum over threads decides when to stop. The vectors less their mean,
    scaled to length 1: what all have in common would draw most of them into one cluster.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(vectors)
    labels = np.full(n, -1, np.int64)
    blocks = [np.arange(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    filled = np.concatenate([block[vectors.take(block).any(axis=1)] for block in blocks])
    if not len(filled):
        return labels
    k = max(1, min(isqrt(len(filled) // 2), most, MOST_CLUSTERS))
    learnt = np.random.default_rng(seed).permutation(filled)[: max(LEARNT_FROM * k, LEARNT_FROM_LEAST)]
    rows = vectors.take(np.sort(learnt))
    mean = rows.mean(axis=0)
    means = MiniBatchKMeans(
        k,
        max_iter=PASSES,
        n_init=1,
        tol=0.0,
        max_no_improvement=None,
        compute_labels=False,
        random_state=seed % 2**32,
    ).fit(to_unit_length(np.subtract(rows, mean, out=rows)))
    for start in range(0, len(filled), BLOCK):
        block = filled[start : start + BLOCK]
        labels[block] = means.predict(to_unit_length(vectors.take(block) - mean))
    return labels
