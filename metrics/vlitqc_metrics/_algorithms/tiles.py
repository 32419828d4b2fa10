"""All pairs of rows, tile by tile: exact neighbour tests at the speed of a float32 matrix product.

A tile is the product of two blocks of rows; only tiles on and above the diagonal are computed, and nothing
larger than one tile is ever held. Both metrics are reduced to one number per pair,

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
from collections.abc import Iterator
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numba import njit
from numpy import float32, float64, int32
from numpy.typing import NDArray

Metric = Literal["cosine", "euclidean"]

BLOCK = 2048
"""Rows per block: a tile of 16 MiB keeps the matrix product at full speed and its reading in cache reach."""

_ROUNDOFF = 2.0**-24
_PREPARATION_TERMS = 16
_UNDERFLOW = 2.0**-124
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


class _Rule(NamedTuple):
    """The test, and which v it leaves undecided: |v − limit| ≤ slack·(|a|² + |b|²) + floor."""

    test: int
    threshold: float
    limit: float
    slack: float
    floor: float


class TiledRows:
    """A matrix whose pairs of rows are visited tile by tile.

    Args:
        x: float32[n, d], finite; may be memory-mapped, it is read block by block.
        metric: ``cosine`` or ``euclidean``.
        block: rows per block.

    Raises:
        TypeError: ``x`` is not float32.
        ValueError: ``x`` is not two-dimensional, has no columns or too many rows, holds NaN or infinity, or
            (cosine) holds a row of zeros; the message names the row. Also an unknown metric or a block
            below 1.
    """

    def __init__(self, x: NDArray[float32], metric: Metric, block: int = BLOCK) -> None:
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f"metric must be 'cosine' or 'euclidean', got {metric!r}")
        if block < 1:
            raise ValueError(f"block must be at least 1 row, got {block}")
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
        self.centre = np.zeros(x.shape[1])
        self.scale = 1.0
        self._survey()

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def _survey(self) -> None:
        """Read every row once: refuse what has no distance, and find the centre and the spread."""
        n, d = self.x.shape
        if n == 0:
            return
        total, low, high = np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
        for start in range(0, n, self.block):
            rows = np.asarray(self.x[start : start + self.block])
            bad = ~np.isfinite(rows).all(axis=1)
            if bad.any():
                raise ValueError(f"row {start + int(bad.argmax())} of x holds NaN or infinity; drop it first")
            if self.metric == "cosine":
                zero = ~rows.any(axis=1)
                if zero.any():
                    raise ValueError(
                        f"row {start + int(zero.argmax())} of x is all zeros and has no cosine; drop it first"
                    )
            else:
                total += rows.sum(axis=0, dtype=np.float64)
                np.minimum(low, rows.min(axis=0), out=low)
                np.maximum(high, rows.max(axis=0), out=high)
        if self.metric == "euclidean":
            # Distances do not change with the origin, the error bound does: it is smallest around the mean.
            self.centre = total / n
            spread = float(np.maximum(high - self.centre, self.centre - low).max())
            if spread > 0:
                # A power of two changes no digit, and values within [−1, 1] cannot overflow in float32.
                self.scale = math.ldexp(1.0, -math.frexp(spread)[1])

    def read(self, start: int) -> Block:
        """Prepare the block of rows that begins at ``start``."""
        raw = np.array(self.x[start : start + self.block])  # a copy: never a memory map, which numba rejects
        wide = raw.astype(np.float64)
        length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        if self.metric == "cosine":
            prepared = (wide / length[:, None]).astype(np.float32)
            squared_norm = np.ones(len(raw))
        else:
            prepared = ((wide - self.centre) * self.scale).astype(np.float32)
            squared_norm = np.einsum("ij,ij->i", prepared, prepared, dtype=np.float64)
        return Block(start, raw, length, prepared, squared_norm)

    def tiles(self) -> Iterator[tuple[Block, Block, NDArray[float32]]]:
        """Yield (rows, columns, products) for each tile with ``rows.start <= columns.start``.

        ``products[i, j]`` is the float32 product of prepared row i of the first block and row j of the
        second. The array is overwritten by the next tile.
        """
        buffer = np.empty(self.block * self.block, dtype=np.float32)
        for row_start in range(0, len(self), self.block):
            rows = self.read(row_start)
            for col_start in range(row_start, len(self), self.block):
                cols = rows if col_start == row_start else self.read(col_start)
                shape = (len(rows.raw), len(cols.raw))
                products = buffer[: shape[0] * shape[1]].reshape(shape)
                np.matmul(rows.prepared, cols.prepared.T, out=products)
                yield rows, cols, products

    def neighbours(self, test: PairTest, threshold: float) -> Iterator[tuple[NDArray[int32], NDArray[int32]]]:
        """Yield, tile by tile, the pairs i < j that pass ``test`` as two int32 arrays (i, j).

        The arrays are views that the next tile overwrites: copy what is to be kept.
        """
        if test is PairTest.EUCLIDEAN:
            limit = (threshold * self.scale) * (threshold * self.scale)
        elif test is PairTest.COSINE_DISTANCE:
            limit = 2.0 * threshold
        else:
            limit = 2.0 * (1.0 - threshold)
        terms = (self.x.shape[1] + _PREPARATION_TERMS) * _ROUNDOFF
        floor = self.x.shape[1] * _UNDERFLOW
        rule = _Rule(int(test), float(threshold), float(limit), terms / (1.0 - terms), floor)
        pairs = np.empty((2, self.block * self.block), dtype=np.int32)
        for rows, cols, products in self.tiles():
            count = _neighbours(products, rows, cols, rule, pairs)
            yield pairs[0, :count], pairs[1, :count]


@njit(cache=True)
def _passes(rows: Block, i: int, cols: Block, j: int, rule: _Rule) -> bool:
    """Decide one pair in float64."""
    x = rows.raw[i]
    y = cols.raw[j]
    total = 0.0
    if rule.test == _EUCLIDEAN:
        for k in range(x.shape[0]):
            step = float64(x[k]) - float64(y[k])
            total += step * step
        return total <= rule.threshold * rule.threshold
    if rule.test == _COSINE_DISTANCE:
        for k in range(x.shape[0]):
            total += (float64(x[k]) / rows.length[i]) * (float64(y[k]) / cols.length[j])
        return min(1.0 - total, 2.0) <= rule.threshold  # opposite rows may round past 2
    x_square = 0.0
    y_square = 0.0
    for k in range(x.shape[0]):
        total += float64(x[k]) * float64(y[k])
        x_square += float64(x[k]) * float64(x[k])
        y_square += float64(y[k]) * float64(y[k])
    return max(total / math.sqrt(x_square * y_square), -1.0) >= rule.threshold


@njit(cache=True)
def _neighbours(
    products: NDArray[float32], rows: Block, cols: Block, rule: _Rule, pairs: NDArray[int32]
) -> int:
    """Write the tile's neighbours i < j into the two rows of ``pairs``; return how many there are."""
    count = 0
    for i in range(products.shape[0]):
        first = i + 1 if rows.start == cols.start else 0
        for j in range(first, products.shape[1]):
            squares = rows.squared_norm[i] + cols.squared_norm[j]
            excess = squares - 2.0 * float64(products[i, j]) - rule.limit
            margin = rule.slack * squares + rule.floor
            if excess > margin:
                continue
            if excess < -margin or _passes(rows, i, cols, j, rule):
                pairs[0, count] = rows.start + i
                pairs[1, count] = cols.start + j
                count += 1
    return count
