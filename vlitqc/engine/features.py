"""The features of a finished run, read back from its shards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.engine.disk import read_table, write_vectors
from vlitqc.errors import RunError
from vlitqc.types import FloatArray, Spread

T = TypeVar("T")

NO_ROWS = np.empty(0, np.int64)


class ShardFeatures:
    """``FeatureStore`` over shard folders. Vectors are joined once into one memory-mapped file a feature."""

    def __init__(
        self,
        shards: Sequence[Path],
        n_samples: Sequence[int],
        joined: Path,
        *,
        seed: int,
        spread: Spread | None = None,
    ) -> None:
        self._shards = list(shards)
        self._starts = np.concatenate([[0], np.cumsum(n_samples)]).astype(np.int64)
        self._joined = joined
        self._seed = seed
        self._spread = spread
        self._vectors: dict[str, tuple[FloatArray, NDArray[np.int64]]] = {}
        self._memo: dict[Hashable, Any] = {}

    @property
    def n_samples(self) -> int:
        """How many readable samples the run holds."""
        return int(self._starts[-1])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def spread(self) -> Spread | None:
        """What shares work among machines."""
        return self._spread

    def vectors(self, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
        """All rows of a vector feature, memory-mapped, and the sample of each."""
        if name not in self._vectors:
            self._vectors[name] = self._join(name)
        return self._vectors[name]

    def _join(self, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
        # Only shapes are kept: a shard that stays mapped stays resident.
        filled = [(values.shape[1], index) for values, index in self.blocks(name)]
        if not filled:
            return np.empty((0, 0), np.float32), NO_ROWS
        index = np.concatenate([index for _, index in filled])
        target = self._joined / f"{name}.npy"
        shape = (len(index), filled[0][0])
        write_vectors(target, (values for values, _ in self.blocks(name)), shape)
        return np.load(target, mmap_mode="r"), index

    def blocks(self, name: str) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """The same shard by shard, where a shard has any: nothing is joined, so nothing is written."""
        for i, shard in enumerate(self._shards):
            path = shard / "features" / f"{name}.npy"
            if path.exists() and len(values := _loaded(path, "r")):
                yield values, self._index(i, name)

    def strings(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """All texts of a string feature and the sample of each."""
        texts: list[str] = []
        indices = [NO_ROWS]
        for table, index in self._texts(name):
            texts += table["text"].to_pylist()
            indices.append(index)
        return texts, np.concatenate(indices)

    def coded(self, name: str) -> tuple[pa.DictionaryArray, NDArray[np.int64]]:
        """The same by number: ``dictionary[indices[i]]``, in the order of first appearance."""
        found = list(self._texts(name))
        return encoded([table["text"] for table, _ in found]), np.concatenate(
            [NO_ROWS, *(index for _, index in found)]
        )

    def column(self, name: str, samples: NDArray[np.int64] | None = None) -> list[Any]:
        """A column of the table of scores, for all readable samples or for some."""
        values: list[Any] = []
        order = None if samples is None else np.argsort(samples, kind="stable")
        ascending = None if samples is None else samples[order]
        for i, shard in enumerate(self._shards):
            rows = None
            if ascending is not None:
                first, last = np.searchsorted(ascending, self._starts[i : i + 2])
                if first == last:
                    continue
                rows = ascending[first:last] - self._starts[i]
            values += read_column(shard, name, rows)
        if order is None:
            return values
        found: list[Any] = [None] * len(values)
        for at, value in zip(order.tolist(), values, strict=True):
            found[at] = value
        return found

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value stored under ``key``, computed on first use."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def _texts(self, name: str) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
        for i, shard in enumerate(self._shards):
            path = shard / "features" / f"{name}.parquet"
            if path.exists():
                yield read_table(path), self._index(i, name)

    def _index(self, shard: int, name: str) -> NDArray[np.int64]:
        index: NDArray[np.int64] = _loaded(self._shards[shard] / "features" / f"{name}.index.npy")
        index += self._starts[shard]
        return index


def _loaded(path: Path, mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Raises RunError where the file is damaged."""
    try:
        found: NDArray[Any] = np.load(path, mode)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{path} cannot be read ({error}); score the data again") from error
    return found


def readable(table: pa.Table) -> pa.Table:
    """The rows of records that could be read."""
    return table.filter(pc.not_equal(table["state"], "unreadable"))


def read_column(shard: Path, name: str, rows: NDArray[Any] | None = None) -> list[Any]:
    """A column of a shard's table of scores: of its readable records, or of some (numbers or a mask) of them."""
    found = readable(read_table(shard / "scores.parquet", ["state", name]))[name]
    if rows is not None:
        found = found.filter(pa.array(rows)) if rows.dtype == np.bool_ else found.take(rows)
    values: list[Any] = found.to_pylist()
    return values


def encoded(texts: Sequence[pa.ChunkedArray]) -> pa.DictionaryArray:
    """Texts, one after the other, by number: one dictionary, without repetition, in the order of first appearance."""
    # With large offsets, so that a dictionary may hold more than 2 GB.
    chunks = [chunk.cast(pa.large_string()) for text in texts for chunk in text.chunks]
    return pa.chunked_array(chunks, pa.large_string()).dictionary_encode().combine_chunks()
