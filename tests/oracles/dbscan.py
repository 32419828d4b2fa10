"""DBSCAN and near-duplicate groups by their definitions, one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]


def euclidean(x: Row, y: Row) -> float:
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def cosine(x: Row, y: Row) -> float:
    dot = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(math.fsum(a * a for a in x) * math.fsum(b * b for b in y))


def cosine_distance(x: Row, y: Row) -> float:
    return 1.0 - cosine(x, y)


def reachable(start: int, neighbours: list[set[int]], through: set[int]) -> set[int]:
    """The rows reached from ``start`` by steps that stay within ``through``."""
    found, waiting = {start}, [start]
    while waiting:
        fresh = (neighbours[waiting.pop()] & through) - found
        found |= fresh
        waiting.extend(fresh)
    return found


def dbscan_labels(
    rows: Sequence[Row], eps: float, min_samples: int, distance: Callable[[Row, Row], float]
) -> tuple[list[int], list[list[int]]]:
    """Labels, and for each row that is not core the labels of all clusters that it borders on."""
    n = len(rows)
    neighbours = [{j for j in range(n) if i == j or distance(rows[i], rows[j]) <= eps} for i in range(n)]
    core = {i for i in range(n) if len(neighbours[i]) >= min_samples}
    labels = [-1] * n
    clusters = 0
    for i in sorted(core):
        if labels[i] == -1:
            for j in reachable(i, neighbours, core):
                labels[j] = clusters
            clusters += 1
    bordered = [sorted({labels[j] for j in neighbours[i] & core}) if i not in core else [] for i in range(n)]
    for i, candidates in enumerate(bordered):
        if candidates:
            labels[i] = candidates[0]
    return labels, bordered


def near_duplicate_labels(rows: Sequence[Row], threshold: float) -> list[int]:
    """Number the components of "cosine at least ``threshold``" by first member."""
    n = len(rows)
    neighbours = [{j for j in range(n) if i != j and cosine(rows[i], rows[j]) >= threshold} for i in range(n)]
    labels = [-1] * n
    groups = 0
    for i in range(n):
        if labels[i] == -1:
            for j in reachable(i, neighbours, set(range(n))):
                labels[j] = groups
            groups += 1
    return labels
