"""The features of a finished run, read back from its shards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlitqc.engine.disk import write_vectors
from vlitqc.types import FloatArray

T = TypeVar("T")


class ShardFeatures:
    """``FeatureStore`` over shard folders. Vectors are joined once into one memory-mapped file a feature."""

    def __init__(self, shards: Sequence[Path], n_samples: Sequence[int], joined: Path, *, seed: int) -> None:
        self._shards = list(shards)
        self._starts = np.concatenate([[0], np.cumsum(n_samples)]).astype(np.int64)
        self._joined = joined
        self._seed = seed
        self._memo: dict[Hashable, Any] = {}

    @property
    def n_samples(self) -> int:
        """How many readable samples the run holds."""
        return int(self._starts[-1])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    def vectors(self, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
        """All rows of a vector feature, memory-mapped, and the sample of each."""
        filled = list(self.blocks(name))
        if not filled:
            return np.empty((0, 0), np.float32), np.empty(0, np.int64)
        index = np.concatenate([index for _, index in filled])
        target = self._joined / f"{name}.npy"
        shape = (len(index), filled[0][0].shape[1])
        write_vectors(target, (values for values, _ in filled), shape)
        return np.load(target, mmap_mode="r"), index

    def blocks(self, name: str) -> Iterator[tuple[FloatArray, NDArray[np.int64]]]:
        """The same shard by shard, where a shard has any: nothing is joined, so nothing is written."""
        for i, shard in enumerate(self._shards):
            path = shard / "features" / f"{name}.npy"
            if path.exists() and len(values := np.load(path, mmap_mode="r")):
                yield values, self._index(i, name)

    def strings(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """All texts of a string feature and the sample of each."""
        texts: list[str] = []
        indices: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        for i, shard in enumerate(self._shards):
            path = shard / "features" / f"{name}.parquet"
            if path.exists():
                texts += pq.read_table(path)["text"].to_pylist()
                indices.append(self._index(i, name))
        return texts, np.concatenate(indices)

    def column(self, name: str) -> list[Any]:
        """A column of the table of scores, for readable samples only."""
        values: list[Any] = []
        for shard in self._shards:
            values += readable(pq.read_table(shard / "scores.parquet", columns=["state", name]))[
                name
            ].to_pylist()
        return values

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value stored under ``key``, computed on first use."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def _index(self, shard: int, name: str) -> NDArray[np.int64]:
        index: NDArray[np.int64] = np.load(self._shards[shard] / "features" / f"{name}.index.npy")
        index += self._starts[shard]
        return index


def readable(table: pa.Table) -> pa.Table:
    """The rows of records that could be read."""
    return table.filter(pc.not_equal(table["state"], "unreadable"))
