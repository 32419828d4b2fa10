"""Things by number: which are equal, and which of the equal comes first, for millions at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def first_places(numbers: NDArray[np.integer]) -> NDArray[np.int64]:
    """The first place of each number from 0 to the largest; of one that does not occur, any."""
    first = np.zeros(int(numbers.max(initial=-1)) + 1, np.int64)
    # Of repeated places the last is kept.
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]
    return first


def first_like(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place the first with the same number; itself where that is negative."""
    first = np.arange(len(numbers))
    having = np.flatnonzero(numbers >= 0)
    mine = numbers[having]
    first[having] = having[first_places(mine)[mine]]
    return first


def numbered(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number from 0 for each pair (x, y), both ≥ −1, equal for equal pairs."""
    pairs = (x + 1) * (y.max(initial=-1) + 2) + y + 1
    numbers: NDArray[np.int64] = np.unique(pairs, return_inverse=True)[1].astype(np.int64, copy=False)
    return numbers


def numbered_sets(n: int, values: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of ``n`` owners a number of the set of its ``values`` (≥ 0), equal for equal sets; 0: the empty one."""
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    new = np.ones(len(owner), bool)
    new[1:] = (np.diff(owner) != 0) | (np.diff(values) != 0)
    owner, values = owner[new], values[new]
    counts = np.bincount(owner, minlength=n)
    starts = np.cumsum(counts) - counts
    numbers = np.zeros(n, np.int64)
    left = np.flatnonzero(counts)
    place, known = 0, 1
    # Sets that were equal so far are told apart by their next value.
    while len(left):
        numbers[left] = numbered(numbers[left], values[starts[left] + place]) + known
        known = int(numbers[left].max()) + 1
        place += 1
        left = left[counts[left] > place]
    return numbers


def most_frequent(numbers: NDArray[np.int64], owner: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """For each of ``n`` owners its most frequent number (≥ 0), the earlier one on a tie; −1 for one without."""
    kinds = int(numbers.max(initial=0)) + 1
    pairs, first, times = np.unique(owner * kinds + numbers, return_index=True, return_counts=True)
    order = np.lexsort((first, -times, pairs // kinds))
    owners, best = np.unique(pairs[order] // kinds, return_index=True)
    found = np.full(n, -1, np.int64)
    found[owners] = pairs[order[best]] % kinds
    return found
