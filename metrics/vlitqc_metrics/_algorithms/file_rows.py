"""Rows that stay in their file, for work on them that several machines share."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import RunError
from vlitqc.types import FloatArray, Spread
from vlitqc_metrics._algorithms.mapped import means_of, take

SPREAD_FROM = 100_000
"""Rows from which the comparison of all pairs is shared among machines: of fewer, at 384 numbers each, two cores take
under half a minute, of which sending the work away would save little."""


MARKED = 64
"""So many rows from either end tell a file from another of its name."""


class FileRows:
    """Rows of a mapped matrix, or means of some of its rows, read when they are asked for: little travels of them.

    ``rows[k]`` is ``x[first[k]]``, or the mean of ``counts[k]`` ≥ 1 rows from there on; ``x[k]`` without ``first``.
    It is indexed by slices and integer arrays, and sent to another process as the name of the file, which must be the
    same there, with a mark by which another file under that name is known.

    Raises:
        ValueError: ``x`` is not a whole matrix in a file; see ``in_a_file``.
        RunError: where it arrives, there is no such file, or another one.
    """

    ndim = 2

    def __init__(
        self,
        x: FloatArray,
        first: NDArray[np.int64] | None = None,
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        if not in_a_file(x):
            raise ValueError("x must be a matrix as numpy.load(…, mmap_mode='r') gives it")
        self._x = x
        self._first = first
        self._counts = counts
        self.dtype = x.dtype
        self.shape = (len(x) if first is None else len(first), x.shape[1])
        self.size = self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | NDArray[np.integer[Any]]) -> FloatArray:
        if self._first is None:
            return self._x[which]
        if self._counts is None:
            return self._x[self._first[which]]
        return means_of(self._x, self._first[which], self._counts[which])

    def __reduce__(self) -> tuple[Any, ...]:
        assert isinstance(self._x, np.memmap)
        place = str(self._x.filename), self._x.offset, self._x.shape
        return _arrived, (*place, _mark(self._x), self._first, self._counts)


def _arrived(
    path: str,
    offset: int,
    shape: tuple[int, int],
    mark: bytes,
    first: NDArray[np.int64] | None,
    counts: NDArray[np.int64] | None,
) -> FileRows:
    try:
        x = np.memmap(path, np.float32, "r", offset, shape)
        if _mark(x) != mark:
            raise ValueError("it holds other rows")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read where a part of the work was sent ({error}); every machine must see the run's "
            "folder under the same path"
        ) from error
    return FileRows(x, first, counts)


def _mark(x: np.memmap[Any, Any]) -> bytes:
    """A hash of the file's size and of its first and last rows."""
    assert x.filename is not None
    digest = hashlib.sha256(str(Path(x.filename).stat().st_size).encode())
    for rows in (x[:MARKED], x[-MARKED:]):
        digest.update(rows.tobytes())
    return digest.digest()


def in_a_file(x: FloatArray) -> bool:
    """Whether ``x`` is the whole of a float32 matrix as it lies in a file, mapped for reading alone."""
    return (
        isinstance(x, np.memmap)
        # Of a view the map's offset and name would lead to other rows.
        and isinstance(x.base, mmap.mmap)
        and isinstance(x.filename, Path | str)
        and x.dtype == np.dtype("<f4")
        and x.ndim == 2
        and x.flags.c_contiguous
        and not x.flags.writeable
    )


def rows_of(x: FloatArray, items: NDArray[np.int64] | None, spread: Spread | None) -> FloatArray | FileRows:
    """The rows ``items`` of ``x``, all by default: left in their file where ``spread`` is worth it, else in memory."""
    if worth_spreading(x, len(x if items is None else items), spread):
        return FileRows(x, items)
    return x if items is None else take(x, items)


def worth_spreading(x: FloatArray, n: int, spread: Spread | None) -> bool:
    """Whether the work on ``n`` rows of ``x`` can be shared and is worth it."""
    return spread is not None and n >= SPREAD_FROM and in_a_file(x)
