"""All pairs of rows, tile by tile: exact neighbour tests at the speed of a float32 matrix product.

A tile is the product of two blocks of rows; only tiles on and above the diagonal are computed. Every core
multiplies a tile of its own and reads it while it lies in its cache, so no more than one tile a core is ever
held, and reading costs about a hundredth of the product at d = 384. Both metrics are reduced to one number per
pair,

    v = |a|² + |b|² − 2·a·b,

with a, b the rows after preparation (Euclidean: centred, scaled by a power of two into [−1, 1]; cosine:
divided by their length, so that v = 2·(1 − cosine)). With u = 2⁻²⁴ a float32 product of d terms, in any
order of summation, is off by at most γ·|a|·|b|, γ = d·u/(1 − d·u) (Higham, *Accuracy and Stability of
Numerical Algorithms*, 2nd ed., section 3.1), and 2·|a|·|b| ≤ |a|² + |b|²; rounding the prepared rows to
float32 adds less than 16·u of the same sum. A pair whose v lies within (d + 16)·u/(1 − (d + 16)·u)·(|a|² +
|b|²) of the threshold (2.4e-5 of cosine at d = 384) is therefore undecided and is computed again in float64
from the original rows; every other pair is decided by v. The answer is that of a float64 computation of all
pairs.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy import bool_, float32, float64, int32, int64
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from vlitqc_metrics._algorithms.compiled import NUMPY_STEPS, suited, suited_to_pairs
from vlitqc_metrics._algorithms.file_rows import FileRows
from vlitqc_metrics._algorithms.union_find import flatten

T = TypeVar("T")

Metric = Literal["cosine", "euclidean"]
Device = Literal["auto", "cpu", "cuda"]

Pairs = tuple[NDArray[int32], NDArray[int32]]
"""Rows i and rows j of pairs i < j, side by side."""

BLOCK = 1024
"""Rows per block: a tile of 4 MiB keeps the matrix product at full speed and its reading in cache reach."""

_ROUNDOFF = 2.0**-24
_PREPARATION_TERMS = 16
_UNDERFLOW = 2.0**-124
_GPU_ROWS = 20_000  # fewer take seconds on the CPU, no more than it takes to start a GPU
_GPU_SIGNS = ("/dev/nvidiactl", "/dev/dxg", "C:/Windows/System32/nvcuda.dll")
_SEGMENT = 128  # products that are compared at once; only a segment with a hit is looked at one by one
_MOST_COLUMNS = 1 << 22  # beyond it the error bound above is no longer small


class PairTest(IntEnum):
    """The float64 comparison that defines a neighbour."""

    EUCLIDEAN = 0  # Σ (xₖ − yₖ)² ≤ eps²
    COSINE_DISTANCE = 1  # 1 − Σ (xₖ/|x|)·(yₖ/|y|) ≤ eps, rounded as scikit-learn's cosine_distances rounds
    COSINE_SIMILARITY = 2  # Σ xₖ·yₖ / √(|x|²·|y|²) ≥ threshold; exactly 1 for equal rows


# What compiled code compares with: it reads module constants, not enumerations.
_EUCLIDEAN = int(PairTest.EUCLIDEAN)
_COSINE_DISTANCE = int(PairTest.COSINE_DISTANCE)


class Block(NamedTuple):
    """Rows ``start : start + len(raw)``: as given (x) and as prepared (a)."""

    start: int
    raw: NDArray[float32]
    length: NDArray[float64]
    """|x|"""
    prepared: NDArray[float32]
    squared_norm: NDArray[float64]
    """|a|²"""


class Rule(NamedTuple):
    """The test, and which v it leaves undecided: |v − limit| ≤ slack·(|a|² + |b|²) + floor."""

    test: int
    threshold: float
    limit: float
    slack: float
    floor: float


class _Desk(NamedTuple):
    """What one tile is computed on: its products, the pairs found, and the hits of a segment."""

    products: NDArray[float32]
    pairs: NDArray[int32]
    hits: NDArray[int64]


class TiledRows:
    """A matrix whose pairs of rows are visited tile by tile.

    Args:
        x: float32[n, d], finite; may be memory-mapped, it is read block by block.
        metric: ``cosine`` or ``euclidean``.
        block: rows per block.
        threads: tiles computed at a time; as many as BLAS would use threads by default. Labels do not depend
            on the number; of pairs that lie in one set of ``joined``, those left out do.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: ``x`` is not two-dimensional, has no columns or too many rows, holds NaN or infinity, or
            (cosine) holds a row of zeros; the message names the row. Also an unknown metric, or a block or
            a number of threads below 1.
    """

    def __init__(
        self, x: NDArray[float32] | FileRows, metric: Metric, block: int = BLOCK, threads: int | None = None
    ) -> None:
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
        if block < 1:
            raise ValueError(f"block must be at least 1 row, got {block}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if x.dtype != np.float32:
            raise TypeError(f"x must be float32, got {x.dtype}; convert it with x.astype(numpy.float32)")
        if x.ndim != 2:
            raise ValueError(f"x must have shape (n, d), got {x.shape}")
        if x.shape[0] >= 1 << 31:
            raise ValueError(f"x may have at most 2³¹ − 1 rows, got {x.shape[0]}")
        if not 1 <= x.shape[1] <= _MOST_COLUMNS:
            raise ValueError(f"x must have 1 to {_MOST_COLUMNS} columns, got {x.shape[1]}")
        self.x = x
        self.metric = metric
        self.block = max(1, min(block, x.shape[0]))
        self.threads = threads
        self.centre = np.zeros(x.shape[1])
        self.factor = np.ones(x.shape[0])
        """What a row is multiplied by after the centre is taken off."""
        self.length = np.zeros(x.shape[0])
        """|x|"""
        self.scale = 1.0
        self._survey()

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def _survey(self) -> None:
        """Read every row once: refuse what has no distance, and find lengths, the centre and the spread."""
        n, d = self.x.shape
        if n == 0:
            return
        total, low, high = np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
        for start in range(0, n, self.block):
            rows = np.asarray(self.x[start : start + self.block])
            wide = rows.astype(np.float64)
            length = np.sqrt(np.einsum("ij,ij->i", wide, wide))  # neither overflows nor vanishes in float64
            bad = ~np.isfinite(length)
            if bad.any():
                raise ValueError(f"row {start + int(bad.argmax())} of x holds NaN or infinity; drop it first")
            self.length[start : start + len(rows)] = length
            if self.metric == "cosine":
                zero = length == 0
                if zero.any():
                    raise ValueError(
                        f"row {start + int(zero.argmax())} of x is all zeros and has no cosine; drop it first"
                    )
            else:
                total += wide.sum(axis=0)
                np.minimum(low, rows.min(axis=0), out=low)
                np.maximum(high, rows.max(axis=0), out=high)
        if self.metric == "cosine":
            self.factor = 1.0 / self.length
            return
        # Distances do not change with the origin, the error bound does: it is smallest around the mean.
        self.centre = total / n
        spread = float(np.maximum(high - self.centre, self.centre - low).max())
        if spread > 0:
            # A power of two changes no digit, and values within [−1, 1] cannot overflow in float32.
            self.scale = math.ldexp(1.0, -math.frexp(spread)[1])
            self.factor *= self.scale

    def read(self, start: int) -> Block:
        """Prepare the block of rows that begins at ``start``."""
        stop = start + self.block
        raw = np.array(self.x[start:stop], order="C")  # a copy: never a memory map, which numba rejects
        prepare = suited(_prepare, raw.size // NUMPY_STEPS, _prepare_few)
        prepared = prepare(raw, self.centre, self.factor[start:stop])
        squared_norm = (
            np.ones(len(raw))
            if self.metric == "cosine"
            else np.einsum("ij,ij->i", prepared, prepared, dtype=np.float64)
        )
        return Block(start, raw, self.length[start:stop], prepared, squared_norm)

    def rule(self, test: PairTest, threshold: float) -> Rule:
        """The rule that decides ``test`` at ``threshold`` from float32 products of these rows."""
        if test is PairTest.EUCLIDEAN:
            limit = (threshold * self.scale) * (threshold * self.scale)
        elif test is PairTest.COSINE_DISTANCE:
            limit = 2.0 * threshold
        else:
            limit = 2.0 * (1.0 - threshold)
        terms = (self.x.shape[1] + _PREPARATION_TERMS) * _ROUNDOFF
        floor = self.x.shape[1] * _UNDERFLOW
        return Rule(int(test), float(threshold), float(limit), terms / (1.0 - terms), floor)

    def neighbours(
        self, test: PairTest, threshold: float, joined: NDArray[int64] | None = None
    ) -> Iterator[Pairs]:
        """Yield, tile by tile and always in the same order, the pairs i < j that pass ``test``.

        ``joined`` are the parents of disjoint sets over the rows, which the caller may go on joining: a pair
        that is seen to lie in one of them is left out, and tiles of nothing else are not multiplied. The arrays
        are the caller's to keep or to change.
        """
        rule = self.rule(test, threshold)
        parent = np.arange(len(self)) if joined is None else joined
        find_neighbours = suited_to_pairs(_neighbours, len(self))
        controller = ThreadpoolController().select(user_api="blas") if len(self) > self.block else None
        threads = self.threads or (_blas_threads(controller) if controller else 1)
        desks: SimpleQueue[_Desk] = SimpleQueue()
        for _ in range(threads):
            desks.put(
                _Desk(
                    np.empty(self.block * self.block, dtype=np.float32),
                    np.empty((2, self.block * self.block), dtype=np.int32),
                    np.empty(_SEGMENT, dtype=np.int64),
                )
            )

        def compute(rows: Block, col_start: int) -> Pairs:
            desk = desks.get()
            try:
                cols = rows if col_start == rows.start else self.read(col_start)
                shape = (len(rows.raw), len(cols.raw))
                products = desk.products[: shape[0] * shape[1]].reshape(shape)
                np.matmul(rows.prepared, cols.prepared.T, out=products)
                count, undecided = find_neighbours(
                    products, rows, cols, rule, _low(rows, rule, True), _low(cols, rule, False), parent, desk
                )
                found = desk.pairs[:, :count].copy()
                if undecided:
                    doubtful = desk.pairs[:, -undecided:]
                    passing = doubtful[:, self.decide(rule, *doubtful)]
                    found = np.ascontiguousarray(np.concatenate([found, passing], axis=1))
            finally:
                desks.put(desk)
            return found[0], found[1]

        if controller is None or threads == 1:
            for rows, col_start in self._tiles(parent):
                yield compute(rows, col_start)
            return
        # One thread a tile scales better than all threads on one tile, and other threads read meanwhile.
        under_way: deque[Future[Pairs]] = deque()
        with controller.limit(limits=1), ThreadPoolExecutor(threads) as pool:
            for rows, col_start in self._tiles(parent):
                under_way.append(pool.submit(compute, rows, col_start))
                if len(under_way) > 2 * threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    def _tiles(self, parent: NDArray[int64]) -> Iterator[tuple[Block, int]]:
        """The row block and the first column of each tile on or above the diagonal, but for those of one set.

        ``parent`` is flattened before each row of tiles: that its rows lie in one set can then be seen.
        """
        flat = suited(flatten, len(self) * (1 + len(self) // self.block))
        for row_start in range(0, len(self), self.block):
            flat(parent)
            elsewhere = parent != parent[row_start]
            col_starts: Iterable[int] = range(row_start, len(self), self.block)
            if not elsewhere[row_start : row_start + self.block].any():
                col_starts = np.unique(np.flatnonzero(elsewhere[row_start:]) // self.block).tolist()
                col_starts = [row_start + place * self.block for place in col_starts]
            rows = None
            for col_start in col_starts:
                rows = rows or self.read(row_start)
                yield rows, col_start

    def decide(self, rule: Rule, left: NDArray[int64], right: NDArray[int64]) -> NDArray[bool_]:
        """Whether each pair ``left[k]``, ``right[k]`` passes, in float64 from the original rows."""
        passes = np.empty(len(left), dtype=np.bool_)
        decide = suited(_decide, len(left) * self.x.shape[1] // NUMPY_STEPS, _decide_few)
        for start in range(0, len(left), self.block):
            i, j = left[start : start + self.block], right[start : start + self.block]
            passes[start : start + len(i)] = decide(
                np.ascontiguousarray(self.x[i]),
                np.ascontiguousarray(self.x[j]),
                self.length[i],
                self.length[j],
                rule,
            )
        return passes


class PairSource(Protocol):
    """What finds the neighbours of rows."""

    def neighbours(
        self, test: PairTest, threshold: float, joined: NDArray[int64] | None = None
    ) -> Iterator[Pairs]: ...


def on_device(rows: TiledRows, device: Device) -> PairSource:
    """``rows`` themselves, or on a GPU where ``device`` says so; the pairs found are the same.

    ``auto`` takes a GPU for at least 20,000 rows with the cosine metric that fit into its free memory. torch is
    only imported where the machine seems to have one.

    Raises:
        ValueError: ``device`` is unknown, or is ``cuda`` where there is no torch, no GPU with room, or not the cosine
            metric.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    if device == "cpu" or (device == "auto" and not _worth_a_gpu(rows)):
        return rows
    if rows.metric != "cosine":
        raise ValueError(f"device 'cuda' is for the cosine metric, got {rows.metric!r}; use 'cpu'")
    try:
        from vlitqc_metrics._algorithms.half_tiles import HalfTiles, fits
    except ImportError as error:
        if device == "auto":
            return rows
        raise ValueError(f"device 'cuda' needs torch ({error}); install it, or use 'cpu'") from error
    if fits(rows):
        return HalfTiles(rows, "cuda")
    if device == "cuda":
        raise ValueError(
            "device 'cuda' was asked for but torch sees no GPU with room for the rows; use 'cpu'"
        )
    return rows


def work_on(rows: TiledRows, device: Device, work: Callable[[PairSource], T]) -> T:
    """What ``work`` makes of the pairs of ``rows``; where ``auto`` took a GPU whose memory others have filled since,
    it starts again on the CPU.

    Raises ValueError as ``on_device`` does.
    """
    try:
        return work(on_device(rows, device))
    except RuntimeError as error:
        # By name, for torch may not be there.
        if device != "auto" or type(error).__name__ != "OutOfMemoryError":
            raise
    return work(rows)


def takes_gpu(rows: TiledRows, device: Device) -> bool:
    """Whether ``on_device`` means to take a GPU for ``rows``."""
    if device != "auto" or not _worth_a_gpu(rows):
        return device == "cuda"
    try:
        from vlitqc_metrics._algorithms.half_tiles import fits
    except ImportError:
        return False
    return fits(rows)


def _worth_a_gpu(rows: TiledRows) -> bool:
    """Whether to look for one: many rows, and signs of a driver and of torch."""
    return (
        rows.metric == "cosine"
        and len(rows) >= _GPU_ROWS
        and any(Path(sign).exists() for sign in _GPU_SIGNS)
        and find_spec("torch") is not None
    )


def _blas_threads(controller: ThreadpoolController) -> int:
    """How many threads the loaded BLAS would use."""
    return max((library.num_threads for library in controller.lib_controllers), default=os.cpu_count() or 1)


def _low(block: Block, rule: Rule, with_limit: bool) -> NDArray[float32]:
    """This block's part of the product below which a pair is surely no neighbour.

    v > limit + margin means a·b < ½·((1 − slack)·(|a|² + |b|²) − limit − floor). Both parts are lowered by more
    than their rounding to float32 and that of their sum.
    """
    part = 0.5 * (1.0 - rule.slack) * block.squared_norm
    if with_limit:
        part -= 0.5 * (rule.limit + rule.floor)
    low = part - 4.0 * _ROUNDOFF * np.abs(part) - _UNDERFLOW
    # No product of rows within [−1, 1] lies anywhere near the lowest float32.
    return np.maximum(low, -(2.0**126)).astype(np.float32)


def _prepare(raw: NDArray[float32], centre: NDArray[float64], factor: NDArray[float64]) -> NDArray[float32]:
    """(x − centre)·factor, computed in float64."""
    prepared = np.empty(raw.shape, dtype=np.float32)
    for i in range(raw.shape[0]):
        for k in range(raw.shape[1]):
            prepared[i, k] = float32((float64(raw[i, k]) - centre[k]) * factor[i])
    return prepared


def _prepare_few(
    raw: NDArray[float32], centre: NDArray[float64], factor: NDArray[float64]
) -> NDArray[float32]:
    """``_prepare`` with two more matrices in memory."""
    return ((raw - centre) * factor[:, None]).astype(np.float32)


def _decide(
    x: NDArray[float32],
    y: NDArray[float32],
    x_length: NDArray[float64],
    y_length: NDArray[float64],
    rule: Rule,
) -> NDArray[bool_]:
    """Decide pairs of rows side by side, in float64."""
    passes = np.empty(x.shape[0], dtype=np.bool_)
    for i in range(x.shape[0]):
        total = 0.0
        if rule.test == _EUCLIDEAN:
            for k in range(x.shape[1]):
                step = float64(x[i, k]) - float64(y[i, k])
                total += step * step
            passes[i] = total <= rule.threshold * rule.threshold
        elif rule.test == _COSINE_DISTANCE:
            for k in range(x.shape[1]):
                total += (float64(x[i, k]) / x_length[i]) * (float64(y[i, k]) / y_length[i])
            passes[i] = min(1.0 - total, 2.0) <= rule.threshold  # opposite rows may round past 2
        else:
            x_square = 0.0
            y_square = 0.0
            for k in range(x.shape[1]):
                total += float64(x[i, k]) * float64(y[i, k])
                x_square += float64(x[i, k]) * float64(x[i, k])
                y_square += float64(y[i, k]) * float64(y[i, k])
            passes[i] = max(total / math.sqrt(x_square * y_square), -1.0) >= rule.threshold
    return passes


def _decide_few(
    x: NDArray[float32],
    y: NDArray[float32],
    x_length: NDArray[float64],
    y_length: NDArray[float64],
    rule: Rule,
) -> NDArray[bool_]:
    """``_decide`` with a few more matrices in memory. ``cumsum`` adds in the order of the columns, as its loops do."""
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    if rule.test == _EUCLIDEAN:
        step = wide_x - wide_y
        return _total(step, step) <= rule.threshold * rule.threshold
    if rule.test == _COSINE_DISTANCE:
        distance = 1.0 - _total(wide_x / x_length[:, None], wide_y / y_length[:, None])
        return np.minimum(distance, 2.0) <= rule.threshold
    square = _total(wide_x, wide_x) * _total(wide_y, wide_y)
    return np.maximum(_total(wide_x, wide_y) / np.sqrt(square), -1.0) >= rule.threshold


def _total(x: NDArray[float64], y: NDArray[float64]) -> NDArray[float64]:
    return np.cumsum(x * y, axis=1)[:, -1]


def _neighbours(
    products: NDArray[float32],
    rows: Block,
    cols: Block,
    rule: Rule,
    row_low: NDArray[float32],
    col_low: NDArray[float32],
    parent: NDArray[int64],
    desk: _Desk,
) -> tuple[int, int]:
    """Write the tile's neighbours i < j to the front of the two rows of ``desk.pairs``, undecided pairs to their end.

    Returns how many there are of each.
    """
    count = 0
    undecided = 0
    for i in range(products.shape[0]):
        low = row_low[i]
        for start in range(i + 1 if rows.start == cols.start else 0, products.shape[1], _SEGMENT):
            part = products[i, start : start + _SEGMENT]
            part_low = col_low[start : start + _SEGMENT]
            near = 0  # a bare count of comparisons, so that the compiler makes vector instructions of it
            for k in range(part.shape[0]):
                near += part[k] >= low + part_low[k]
            if near == 0:
                continue
            near = 0
            for k in range(part.shape[0]):
                desk.hits[near] = start + k
                near += part[k] >= low + part_low[k]
            for hit in range(near):
                j = desk.hits[hit]
                if parent[rows.start + i] == parent[cols.start + j]:
                    continue
                squares = rows.squared_norm[i] + cols.squared_norm[j]
                excess = squares - 2.0 * float64(products[i, j]) - rule.limit
                margin = rule.slack * squares + rule.floor
                if excess > margin:
                    continue
                if excess < -margin:
                    place = count
                    count += 1
                else:
                    undecided += 1
                    place = desk.pairs.shape[1] - undecided
                desk.pairs[0, place] = rows.start + i
                desk.pairs[1, place] = cols.start + j
    return count, undecided
