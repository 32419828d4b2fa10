"""Rows of matrices that are memory-mapped and larger than the memory that a metric may take."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from vlitqc.types import FloatArray

ROWS = 4_096
"""Rows that are read between two releases: the system maps 64 KB around each that it has to fetch, so 256 MB."""


def release(x: NDArray[np.generic]) -> None:
    """Give back the memory of what was read of ``x``, where it is mapped read-only; a later access maps it again."""
    base: object = x
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not x.flags.writeable:
        base.madvise(mmap.MADV_DONTNEED)


def take(x: FloatArray, items: NDArray[np.int64]) -> FloatArray:
    """``x[items]`` in memory, without what lies between them."""
    rows = np.empty((len(items), x.shape[1]), np.float32)
    for start in range(0, len(items), ROWS):
        rows[start : start + ROWS] = x[items[start : start + ROWS]]
        release(x)
    return rows


def means_of(x: FloatArray, first: NDArray[np.int64], counts: NDArray[np.int64]) -> FloatArray:
    """The mean of each ``counts[k]`` rows of ``x`` from ``first[k]`` on, in memory; zeros where there are none."""
    ends = np.cumsum(counts)
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - counts), counts)
    sums = take(x, places)
    having = counts > 0
    if len(sums) > np.count_nonzero(having):
        sums = np.add.reduceat(sums, (ends - counts)[having], axis=0)
    means = np.zeros((len(first), x.shape[1]), np.float32)
    means[having] = sums / counts[having, None].astype(np.float32)
    return means


class SampleMeans:
    """The mean of each sample's rows, computed when it is asked for.

    Args:
        rows: ``float32[r, d]``, may be memory-mapped.
        sample_of: ``int64[r]``, the sample of each row, non-decreasing.
        n: how many samples there are.
    """

    def __init__(self, rows: FloatArray, sample_of: NDArray[np.int64], n: int) -> None:
        self.rows = rows
        self._starts = np.searchsorted(sample_of, np.arange(n + 1))

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many rows each sample has."""
        return np.diff(self._starts)

    def __call__(self, samples: NDArray[np.int64]) -> FloatArray:
        """``float32[len(samples), d]``; zeros for a sample without a row."""
        return means_of(self.rows, *self.places(samples))

    def places(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first of each sample's ``rows``, and how many it has."""
        return self._starts[samples], self._starts[samples + 1] - self._starts[samples]
