"""DBSCAN and near-duplicates over bands of tiles, which several machines compute; the answers are the same.

A band is a run of tiles of the upper triangle, taken row by row. It knows only its own pairs: a row with enough
neighbours among them is core, and pairs of such rows are joined where they are found. What comes back of a band is how
many neighbours each row has there, the joins that were made, as one pair a row at most, and the pairs that wait.
Clusters are sets, and sets do not depend on the order in which they are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

import numpy as np
from numpy import bool_, int32, int64, uint8
from numpy.typing import NDArray

from vlitqc.types import Spread
from vlitqc_metrics._algorithms.compiled import suited
from vlitqc_metrics._algorithms.dbscan import first_pass, join_cores, label, still_waiting
from vlitqc_metrics._algorithms.near_duplicates import joined
from vlitqc_metrics._algorithms.tiles import Block, Pairs, PairTest, TiledRows
from vlitqc_metrics._algorithms.union_find import flatten, union_pairs

BANDS_EACH = 4
"""Bands for each part that a spread computes at a time: a slow machine then holds up the others by a fraction."""

Range = tuple[int, int]
"""Tiles of a band, from the first to before the last, counted row by row."""

NO_PAIRS: Pairs = (np.empty(0, np.int32), np.empty(0, np.int32))


class Band(TiledRows):
    """The rows of ``rows``, of whose tiles only some are visited."""

    def __init__(self, rows: TiledRows, tiles: Range) -> None:
        # What a survey of all rows has found is not looked for again.
        self.__dict__.update(rows.__dict__)
        self.tiles = tiles

    def _tiles(self, parent: NDArray[int64]) -> Iterator[tuple[Block, int]]:
        start, stop = self.tiles
        first = 0
        for row_start in range(0, len(self), self.block):
            columns = range(row_start, len(self), self.block)
            mine = columns[max(0, start - first) : max(0, stop - first)]
            if mine:
                rows = self.read(row_start)
                for col_start in mine:
                    yield rows, col_start
            first += len(columns)


def ranges(rows: TiledRows, width: int) -> list[Range]:
    """The tiles of ``rows`` in bands of as many tiles each, but for one, for ``width`` at a time."""
    blocks = -(-len(rows) // rows.block)
    tiles = blocks * (blocks + 1) // 2
    n = max(1, min(tiles, BANDS_EACH * width))
    return [(tiles * k // n, tiles * (k + 1) // n) for k in range(n)]


def join_bands(rows: TiledRows, spread: Spread, threshold: float) -> NDArray[int64]:
    """The first member of each row's group of near-duplicates, as ``near_duplicates.joined`` finds it."""
    parent = np.arange(len(rows), dtype=np.int64)
    for joins in spread.map(partial(near_duplicate_band, rows, threshold), ranges(rows, spread.width)):
        suited(union_pairs, len(joins[0]))(parent, *_own(joins))
    suited(flatten, len(parent))(parent)
    return parent


def near_duplicate_band(rows: TiledRows, threshold: float, tiles: Range) -> Pairs:
    """What a band of tiles joins."""
    parent = joined(Band(rows, tiles), len(rows), threshold)
    return _joins(parent, np.arange(len(rows), dtype=np.int64))


def label_bands(
    rows: TiledRows, spread: Spread, test: PairTest, eps: float, min_samples: int, edge_budget: int
) -> NDArray[int64]:
    """The labels of ``dbscan``; memory is O(n) plus ``edge_budget`` bytes, and as much again in each band.

    Of these bytes every band may send back an equal share. A band whose waiting pairs are more is computed a second
    time, when the core rows are known, and what is joined by then is left out.
    """
    bands = ranges(rows, spread.width)
    parent = np.arange(len(rows), dtype=np.int64)
    degree = np.ones(len(rows), dtype=np.int64)
    kept: list[Pairs] = []
    again: list[Range] = []
    find = partial(dbscan_band, rows, test, eps, min_samples, edge_budget, edge_budget // len(bands))
    for band, (others, joins, waiting) in zip(bands, spread.map(find, bands), strict=True):
        degree += others
        suited(union_pairs, len(joins[0]))(parent, *_own(joins))
        if waiting is None:
            again.append(band)
        else:
            kept.append(_own(waiting))
    core = degree >= min_samples

    def found_again() -> Iterator[Pairs]:
        # Begun when the pairs that were kept have been joined.
        suited(flatten, len(parent))(parent)
        look = partial(border_band, rows, test, eps, edge_budget, np.packbits(core), parent.astype(np.int32))
        yield from map(_own, spread.map(look, again))

    return label(parent, core, chain(kept, found_again() if again else ()), edge_budget)


def dbscan_band(
    rows: TiledRows,
    test: PairTest,
    eps: float,
    min_samples: int,
    edge_budget: int,
    share: int,
    tiles: Range,
) -> tuple[NDArray[np.unsignedinteger], Pairs, Pairs | None]:
    """The other neighbours of each row in a band, counted up to ``min_samples`` − 1; what the band joins; and the
    pairs that wait, None where they take more than ``share`` bytes."""
    parent, degree, kept = first_pass(Band(rows, tiles), len(rows), test, eps, min_samples, edge_budget)
    waiting = None
    if kept is not None:
        waiting = still_waiting(parent, degree, min_samples, [NO_PAIRS, *kept])
        if 8 * len(waiting[0]) > share:
            waiting = None
    suited(flatten, len(parent))(parent)
    others = (np.minimum(degree, min_samples) - 1).astype(np.min_scalar_type(min_samples))
    return others, _joins(parent, np.arange(len(rows), dtype=np.int64)), waiting


def border_band(
    rows: TiledRows,
    test: PairTest,
    eps: float,
    edge_budget: int,
    core: NDArray[uint8],
    roots: NDArray[int32],
    tiles: Range,
) -> Pairs:
    """What a band joins beyond ``roots`` when all core rows are known (``core``, in bits), and a pair of each border
    row with a core row of each of its clusters."""
    parent = roots.astype(np.int64)
    is_core: NDArray[bool_] = np.unpackbits(core, count=len(rows)).astype(np.bool_)
    keys = join_cores(parent, is_core, Band(rows, tiles).neighbours(test, eps, parent), edge_budget)
    suited(flatten, len(parent))(parent)
    left, right = _joins(parent, roots)
    return (
        np.concatenate([left, (keys >> 32).astype(np.int32)]),
        np.concatenate([right, (keys & 0xFFFFFFFF).astype(np.int32)]),
    )


def _joins(parent: NDArray[int64], before: NDArray[int64] | NDArray[int32]) -> Pairs:
    """The pairs that make of the roots ``before`` the roots ``parent``."""
    changed = np.flatnonzero(parent != before)
    return parent[changed].astype(np.int32), changed.astype(np.int32)


def _own(pairs: Pairs) -> Pairs:
    """Copies: what has travelled may be read-only, which compiled code takes for another type."""
    left, right = pairs
    return left.copy(), right.copy()
