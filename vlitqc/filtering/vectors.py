"""What the records of a run mean, as vectors: read from the run's features, and grouped by k-means.

A record's vector joins the mean of its responses' unit vectors and the mean of its pictures', each scaled to length
1 and zeros where there is none; the whole is scaled to length 1 again. The dot product of two records is then the
mean of the cosine of their responses and that of their pictures where both have both, and of two texts without a
picture the cosine of their responses alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlitqc.engine.disk import writing
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.run import Run
from vlitqc.engine.shards import folder, read_done
from vlitqc.errors import RunError
from vlitqc.types import PICTURE_VECTORS, RESPONSE_VECTORS, FloatArray

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
        return _to_unit_length(joint)


def _to_unit_length(rows: FloatArray) -> FloatArray:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # A vector that overflowed says nothing, as one of zeros does.
    usable = np.isfinite(lengths) & (lengths > 0)
    rows[~usable] = 0
    rows /= np.where(usable, lengths, 1)[:, None]
    return rows


def read_vectors(run: Run, unreadable: NDArray[np.bool_], members: NDArray[np.int64]) -> Vectors | str:
    """The vectors of the records ``members`` (rows, ascending), or why there are none, in words.

    The run's features are read shard by shard and what the members need is put into a temporary file that is gone
    when the vectors are. Of several features of a kind that with most rows serves, of these the widest, of these the
    first by name.

    Raises RunError where the features are damaged or the disk for temporary files is full.
    """
    store = _features(run, unreadable)
    if store is None:
        return "the run's features are gone or another run's"
    names = {path.name[: -len(".npy")] for path in (run.path / "shards").glob("*/features/*.npy")}
    samples = (np.cumsum(~unreadable) - 1)[members]
    parts = []
    for prefix in (RESPONSE_VECTORS, PICTURE_VECTORS):
        # The largest rows and width, then the first name.
        sizes = {name: _size(store, name) for name in names if _is_vectors(name, prefix)}
        best = min(sizes, key=lambda name: (*(-size for size in sizes[name]), name), default=None)
        if best is not None and sizes[best] != (0, 0):
            parts.append(_on_disk(_means(store, best, samples), (len(members), sizes[best][1])))
    return Vectors(tuple(parts)) if parts else "this run has no vectors of responses or pictures"


def _features(run: Run, unreadable: NDArray[np.bool_]) -> ShardFeatures | None:
    """The run's features, where its shards hold exactly its records."""
    shards: list[Path] = []
    n_samples: list[int] = []
    n_records = 0
    # A longer run that was there before may have left shards behind the last one.
    while n_records < len(unreadable) and (done := read_done(folder(run.path / "shards", len(shards)))):
        shards.append(folder(run.path / "shards", len(shards)))
        n_samples.append(done.n_samples)
        n_records += done.n_records
    if n_records != len(unreadable) or sum(n_samples) != np.count_nonzero(~unreadable):
        return None
    return ShardFeatures(shards, n_samples, run.path / "features", seed=run.info["plan"]["seed"])


def _is_vectors(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and not name.endswith(".index")


def _size(store: ShardFeatures, name: str) -> tuple[int, int]:
    """Rows and width of a feature. Raises RunError where its shards do not agree."""
    shapes = [values.shape for values, _ in store.blocks(name)]
    if len({shape[1:] for shape in shapes}) > 1:
        raise RunError(f"the vectors of {name} differ in width between shards; score the data again")
    return sum(shape[0] for shape in shapes), shapes[0][1] if shapes else 0


def _means(store: ShardFeatures, name: str, samples: NDArray[np.int64]) -> Iterator[FloatArray]:
    """The unit means of the wanted samples' vectors, in order, block by block; zeros for a sample without."""
    done = 0
    for values, index in store.blocks(name):
        first, last = np.searchsorted(samples, (index[0], index[-1] + 1))
        wanted = np.isin(index, samples[first:last])
        found, starts = np.unique(index[wanted], return_index=True)
        if not len(found):
            continue
        block = np.zeros((last - done, values.shape[1]), np.float32)
        sums = np.add.reduceat(np.asarray(values[wanted], np.float32), starts, axis=0)
        block[np.searchsorted(samples, found) - done] = _to_unit_length(sums)
        done = int(last)
        yield block
        width = values.shape[1]
    if done and done < len(samples):
        yield np.zeros((len(samples) - done, width), np.float32)


def _on_disk(blocks: Iterator[FloatArray], shape: tuple[int, int]) -> FloatArray:
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as stream:
        for block in blocks:
            stream.write(block.data)
        stream.flush()
        # The mapping outlives the file's name and its handle.
        return np.memmap(stream, np.float32, "r", shape=shape)


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
    ).fit(_to_unit_length(np.subtract(rows, mean, out=rows)))
    for start in range(0, len(filled), BLOCK):
        block = filled[start : start + BLOCK]
        labels[block] = means.predict(_to_unit_length(vectors.take(block) - mean))
    return labels
