"""The pairs of ``tiles.TiledRows`` from float16 products on a GPU, with an exact recheck.

A GPU multiplies float16 many times faster than float32. Of unit rows a and b with d entries, with u = 2⁻¹¹ the
roundoff of float16, a float16 tile that is summed in float32 is off by at most

    δ = 3·u + d·2⁻²³ + √d·2⁻²⁴   (1.6e-3 at d = 768):

2·u for the two rows, u for the product as it is stored, d·2⁻²³ for the sum, whose partial sums a tensor core may
truncate, and √d·2⁻²⁴ for entries so small that float16 has no full precision for them. A pair within δ of the
threshold is computed again in float32 on the device, and one that float32 leaves undecided too (``Rule``; 2.4e-5 at
d = 384) in float64 on the host, by the very code that decides it without a GPU. So the pairs are the same, and
float16 costs only time: bfloat16 would be as fast, with eight times the δ.

On the device lie the rows in float32 and float16 (6·n·d bytes: 4.6 GB for a million rows of 768), two tiles with
their masks (0.4 GB), and under 1 GB of hits. While the hits of one tile are read, the next is being multiplied.
Tests run this path on torch's CPU, where it gives the same pairs; it has not been timed on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy import int64
from numpy.typing import NDArray
from torch import Tensor

from vlitqc_metrics._algorithms.compiled import suited
from vlitqc_metrics._algorithms.tiles import Pairs, PairTest, Rule, TiledRows
from vlitqc_metrics._algorithms.union_find import flatten

HALF_BLOCK = 8192
"""Rows per block on the device: large enough that launching a product costs little beside it."""

_HALF_ROUNDOFF = 2.0**-11
_MOST_HITS = 1 << 23  # hits listed at a time, 16 bytes each
_MOST_ENTRIES = 1 << 25  # entries of rows gathered at a time for float32 products
_WORKING_BYTES = 2 << 30


class _Tile(NamedTuple):
    row_start: int
    col_start: int
    products: Tensor
    near: Tensor
    n_near: Tensor


class HalfTiles:
    """The rows of ``rows``, on a device of torch, with the same ``neighbours``.

    Args:
        rows: the rows, with the cosine metric.
        device: ``cuda``; any other device of torch gives the same pairs.
        block: rows per block.

    Raises:
        ValueError: the metric of ``rows`` is not ``cosine``, or ``block`` is below 1.
    """

    def __init__(self, rows: TiledRows, device: str, block: int = HALF_BLOCK) -> None:
        if rows.metric != "cosine":
            raise ValueError(f"float16 tiles are for the cosine metric, got {rows.metric!r}")
        if block < 1:
            raise ValueError(f"block must be at least 1 row, got {block}")
        self.rows = rows
        self.block = block
        n, d = rows.x.shape
        self.exact = torch.empty((n, d), dtype=torch.float32, device=device)
        for start in range(0, n, rows.block):
            self.exact[start : start + rows.block] = torch.from_numpy(rows.read(start).prepared)
        self.half = self.exact.half()
        # One part in a hundred more covers the products of the errors above.
        self.margin = 1.01 * (3 * _HALF_ROUNDOFF + d * 2.0**-23 + math.sqrt(d) * 2.0**-24)

    def neighbours(
        self, test: PairTest, threshold: float, joined: NDArray[int64] | None = None
    ) -> Iterator[Pairs]:
        """Yield the pairs i < j that pass ``test``; see ``TiledRows.neighbours``.

        What lies in one set of ``joined`` is left out on the device, so that of a dense cloud little is copied to
        the host.
        """
        rule = self.rows.rule(test, threshold)
        n, before = len(self.rows), None
        for row_start in range(0, n, self.block):
            roots = None if joined is None else self._roots(joined)
            for col_start in range(row_start, n, self.block):
                tile = self._multiply(row_start, col_start, rule, roots)
                if before is not None:
                    yield from self._pairs(before, rule)
                before = tile
        if before is not None:
            yield from self._pairs(before, rule)

    def _roots(self, joined: NDArray[int64]) -> Tensor:
        roots = joined.copy()
        suited(flatten, len(roots))(roots)
        return torch.from_numpy(roots).to(self.half.device, torch.int32)

    def _multiply(self, row_start: int, col_start: int, rule: Rule, roots: Tensor | None) -> _Tile:
        """Queue the product of two blocks and the comparison of it; waits for nothing."""
        rows, cols = slice(row_start, row_start + self.block), slice(col_start, col_start + self.block)
        with _summed_in_float32():
            products = self.half[rows] @ self.half[cols].T
        near = products >= _float16_from(_cosine(rule) - self.margin)
        if row_start == col_start:
            near = near.triu(1)
        if roots is not None:
            near &= roots[rows, None] != roots[None, cols]
        return _Tile(row_start, col_start, products, near, near.count_nonzero())

    def _pairs(self, tile: _Tile, rule: Rule) -> Iterator[Pairs]:
        """The neighbours among a tile's hits, a bounded number at a time."""
        height, width = tile.near.shape
        n_near = int(tile.n_near)
        strip = height if n_near <= _MOST_HITS else max(1, _MOST_HITS // width)
        for start in range(0, height if n_near else 0, strip):
            i, j = tile.near[start : start + strip].nonzero(as_tuple=True)
            sure = tile.products[start : start + strip][i, j].float() > _cosine(rule) + self.margin
            i, j = i + (tile.row_start + start), j + tile.col_start
            parts = [(i[sure], j[sure]), *self._decide(i[~sure], j[~sure], rule)]
            left, right = (
                torch.cat(ends).to("cpu", torch.int32).numpy() for ends in zip(*parts, strict=True)
            )
            yield left, right

    def _decide(self, i: Tensor, j: Tensor, rule: Rule) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the pairs that are neighbours, by float32 products and, where these are too near, float64."""
        at_once = max(1, _MOST_ENTRIES // self.exact.shape[1])
        for start in range(0, len(i), at_once):
            left, right = i[start : start + at_once], j[start : start + at_once]
            cosine = (self.exact[left] * self.exact[right]).sum(1).double()
            excess = 2.0 - 2.0 * cosine - rule.limit
            margin = 2.0 * rule.slack + rule.floor
            passes = excess < -margin
            (open_,) = (excess.abs() <= margin).nonzero(as_tuple=True)
            decided = self.rows.decide(rule, left[open_].cpu().numpy(), right[open_].cpu().numpy())
            passes[open_] = torch.from_numpy(decided).to(passes.device)
            yield left[passes], right[passes]


def _cosine(rule: Rule) -> float:
    """The cosine at which v = 2·(1 − cosine) reaches the limit."""
    return 1.0 - rule.limit / 2.0


def _float16_from(bound: float) -> float:
    """The least float16 that is not below ``bound``: for a float16 product, ≥ either is the same."""
    near = np.float16(bound)
    return float(near if float(near) >= bound else np.nextafter(near, np.float16(np.inf)))


@contextmanager
def _summed_in_float32() -> Iterator[None]:
    """Forbid CUDA's products to add up parts of a sum in float16, as they may by default."""
    setting = torch.backends.cuda.matmul
    allowed = setting.allow_fp16_reduced_precision_reduction
    setting.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        setting.allow_fp16_reduced_precision_reduction = allowed


def fits(rows: TiledRows) -> bool:
    """Whether there is a GPU with room for ``rows``."""
    if not torch.cuda.is_available():
        return False
    return 6 * rows.x.size + _WORKING_BYTES <= torch.cuda.mem_get_info()[0]
