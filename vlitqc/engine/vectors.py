"""One vector a record of what its responses say and what its pictures show, read from a run's features."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlitqc.engine.disk import writing
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.mirror import Mirror
from vlitqc.engine.shards import Done, folder, read_done
from vlitqc.errors import RunError
from vlitqc.types import PICTURE_VECTORS, RESPONSE_VECTORS, FloatArray

KINDS = {"response": RESPONSE_VECTORS, "picture": PICTURE_VECTORS}
"""Kind of vectors → how the names of its features begin."""
BLOCK = 4_096
"""Rows that are read into memory at once."""


def shards_of(run: Path, n_records: int, n_samples: int) -> list[tuple[Path, Done]] | None:
    """The folders of a run's shards with their markers, in order; None where they do not hold exactly its records.

    ``n_records`` and, of these, the readable ``n_samples`` are what the run's table of scores has. Those of a run at
    a URL come from there when they are first wanted.
    """
    found = _whole(run, n_records, n_samples)
    if found is None and (mirror := Mirror.at(run)):
        mirror.pull("shards")
        found = _whole(run, n_records, n_samples)
    return found


def _whole(run: Path, n_records: int, n_samples: int) -> list[tuple[Path, Done]] | None:
    found: list[tuple[Path, Done]] = []
    records = samples = 0
    # A longer run that was there before may have left shards behind the last one.
    while records < n_records and (done := read_done(folder(run / "shards", len(found)))):
        found.append((folder(run / "shards", len(found)), done))
        records += done.n_records
        samples += done.n_samples
    return found if (records, samples) == (n_records, n_samples) else None


def features_of(run: Path, n_records: int, n_samples: int, *, seed: int) -> ShardFeatures | str:
    """The run's features, or why there are none, in words."""
    shards = shards_of(run, n_records, n_samples)
    if shards is None:
        return "the run's features are gone or another run's"
    return ShardFeatures(
        [path for path, _ in shards], [done.n_samples for _, done in shards], run / "features", seed=seed
    )


def unit_means(run: Path, store: ShardFeatures, kind: str, samples: NDArray[np.int64]) -> FloatArray | None:
    """The mean of the vectors of each of ``samples`` (ascending), scaled to length 1: ``float32[len(samples), d]``.

    A row of zeros where a sample has no vector; None where the run has none of this kind ("response" or "picture").
    They are read shard by shard and lie in a temporary file that is gone when the array is. Of several features of
    a kind that with most rows serves, of these the widest, of these the first by name.

    Raises RunError where the features are damaged or the disk for temporary files is full.
    """
    names = {path.name[: -len(".npy")] for path in (run / "shards").glob(f"*/features/{KINDS[kind]}*.npy")}
    # The largest rows and width, then the first name.
    sizes = {name: _size(store, name) for name in names if not name.endswith(".index")}
    best = min(sizes, key=lambda name: (*(-size for size in sizes[name]), name), default=None)
    if best is None or sizes[best] == (0, 0) or not len(samples):
        return None
    shape = (len(samples), sizes[best][1])
    return _on_disk(_means(store, best, samples, shape[1]), shape)


def to_unit_length(rows: FloatArray) -> FloatArray:
    """The rows, scaled to length 1 in place; one that cannot be becomes zeros."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # A vector that overflowed says nothing, as one of zeros does.
    usable = np.isfinite(lengths) & (lengths > 0)
    rows[~usable] = 0
    rows /= np.where(usable, lengths, 1)[:, None]
    return rows


def _size(store: ShardFeatures, name: str) -> tuple[int, int]:
    """Rows and width of a feature. Raises RunError where its shards do not agree."""
    shapes = [values.shape for values, _ in store.blocks(name)]
    if len({shape[1:] for shape in shapes}) > 1:
        raise RunError(f"the vectors of {name} differ in width between shards; score the data again")
    return sum(shape[0] for shape in shapes), shapes[0][1] if shapes else 0


def _means(store: ShardFeatures, name: str, samples: NDArray[np.int64], width: int) -> Iterator[FloatArray]:
    """The unit means of the wanted samples' vectors, in order, block by block; zeros for a sample without."""
    done = 0
    for values, index in store.blocks(name):
        first, last = np.searchsorted(samples, (index[0], index[-1] + 1))
        wanted = np.isin(index, samples[first:last])
        found, starts = np.unique(index[wanted], return_index=True)
        if not len(found):
            continue
        block = np.zeros((last - done, width), np.float32)
        sums = np.asarray(values[wanted], np.float32)
        # Most samples have one response or one picture, whose vector is its own sum.
        if len(starts) < len(sums):
            sums = np.add.reduceat(sums, starts, axis=0)
        block[np.searchsorted(samples, found) - done] = to_unit_length(sums)
        done = int(last)
        yield block
    if done < len(samples):
        yield np.zeros((len(samples) - done, width), np.float32)


def _on_disk(blocks: Iterator[FloatArray], shape: tuple[int, int]) -> FloatArray:
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as stream:
        for block in blocks:
            stream.write(block.data)
        stream.flush()
        # The mapping outlives the file's name and its handle.
        return np.memmap(stream, np.float32, "r", shape=shape)
