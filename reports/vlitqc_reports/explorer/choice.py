"""Which records have cards on the page: chosen for what they show, not drawn blindly."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = (1, 5, 10, 25)
"""Percentiles on the worse side around which records are shown: where a threshold may well come to lie."""

GROUPS_AT_ONCE = 3
"""Of each group so many records are chosen in a turn in which every other purpose has one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The values of one metric, one a place, NaN where it is missing, and what is known of its good end."""

    values: NDArray[np.float64]
    higher_is_better: bool | None
    floor: float | None = None


def choose(
    metrics: Sequence[Judged], groups: Sequence[Iterable[int]], *, n: int, most: int, seed: int
) -> list[int]:
    """At most ``most`` of the places 0 to n - 1, in order of importance, each once.

    Every purpose has its own order, and they take turns: for each metric the worst (both ends where no end is
    better), those nearest to the recommended floor and to percentiles on the worse side, from both sides in turn;
    then each of ``groups`` (representatives of clusters, duplicates side by side); and a few drawn at random, which
    show what is usual.
    """
    purposes: list[Iterator[int]] = []
    for metric in metrics:
        purposes += _of_metric(metric)
    for group in groups:
        purposes += [iter(group)] * GROUPS_AT_ONCE
    purposes.append(iter(np.random.default_rng(seed).choice(n, min(n, most), replace=False).tolist()))
    return list(itertools.islice(_in_turn(purposes), most))


def _of_metric(metric: Judged) -> Iterator[Iterator[int]]:
    order = np.argsort(metric.values, kind="stable")
    order = order[: len(order) - int(np.count_nonzero(np.isnan(metric.values)))]
    if not len(order):
        return
    ascending = metric.values[order]
    if metric.higher_is_better in (True, None):
        yield (int(place) for place in order)
    if metric.higher_is_better in (False, None):
        yield (int(place) for place in order[::-1])
    if metric.floor is not None:
        yield _around(order, int(np.searchsorted(ascending, metric.floor)))
    for level in LEVELS:
        share = level / 100 if metric.higher_is_better is not False else 1 - level / 100
        yield _around(order, round(share * len(order)))


def _around(order: NDArray[np.intp], at: int) -> Iterator[int]:
    """The places next to position ``at`` of an order, below and above in turn."""
    below, above = iter(range(at - 1, -1, -1)), iter(range(at, len(order)))
    return (int(order[k]) for k in _in_turn([below, above]))


def _in_turn(orders: Iterable[Iterator[int]]) -> Iterator[int]:
    """One of each order after another, until all are at their end; nothing twice."""
    seen: set[int] = set()
    waiting = list(orders)
    while waiting:
        for order in tuple(waiting):
            item = next((i for i in order if i not in seen), None)
            if item is None:
                waiting.remove(order)
            else:
                seen.add(item)
                yield item
