"""Kernels: plain and compiled forms agree to the last bit, and little work loads no compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import caching

from vlitqc_metrics._algorithms import compiled, dbscan, ego_splitting, near_duplicates, tiles, union_find
from vlitqc_metrics.duplicates import connected_groups

LITTLE = """
import json, sys
import numpy as np
from vlitqc_metrics._algorithms.dbscan import dbscan
from vlitqc_metrics._algorithms.ego_splitting import co_occurrence_edges, ego_splitting, persona_graph
from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

rng = np.random.default_rng(0)
x = rng.normal(size=(160, 32)).astype(np.float32)
dbscan(x, 0.5, 3)
near_duplicate_groups(x, 0.9)
edges = co_occurrence_edges([rng.integers(0, 100, 5) for _ in range(160)])
ego_splitting(edges, 100)
persona_graph(edges, 100)
print(json.dumps(sorted(sys.modules)))
"""

FROM_DISK = """
import json
import numpy as np
from vlitqc_metrics._algorithms import compiled, union_find

compiled.PLAIN_STEPS = -1
union_pairs, flatten = (compiled.suited(kernel, 0) for kernel in (union_find.union_pairs, union_find.flatten))
parent, rows = np.arange(9), np.arange(8, dtype=np.int32)
union_pairs(parent, rows, rows + np.int32(1))
flatten(parent)
kept = [[sum(counts.values()) for counts in (form.stats.cache_hits, form.stats.cache_misses)]
        for form in (union_pairs, flatten)]
print(json.dumps([parent.tolist(), kept]))
"""


def of_script(script: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


def rows(n: int, d: int) -> np.ndarray:
    """Groups of rows, some of them twice, some opposite."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n // 9 + 1, d))[rng.integers(n // 9 + 1, size=n)] + 0.3 * rng.normal(size=(n, d))
    x[rng.integers(n, size=n // 6)] = x[rng.integers(n, size=n // 6)]
    x[: n // 10] *= -1
    return x.astype(np.float32)


def words(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.zipf(1.3, rng.integers(0, 12)).clip(0, 300) for _ in range(n)]


def clusters(edges: np.ndarray) -> list[bytes]:
    return [cluster.tobytes() for cluster in ego_splitting.ego_splitting(edges, 400)]


def personas(edges: np.ndarray) -> tuple[bytes, bytes]:
    graph = ego_splitting.persona_graph(edges, 400)
    return graph.node.tobytes(), graph.edges.tobytes()


def pairs(x: np.ndarray, test: tiles.PairTest, threshold: float) -> list[bytes]:
    found = tiles.TiledRows(x, "euclidean" if test is tiles.PairTest.EUCLIDEAN else "cosine", 50)
    return [ends.tobytes() for tile in found.neighbours(test, threshold) for ends in tile]


BOTH: dict[str, Callable[[], object]] = {
    "cosine clusters": lambda: dbscan.dbscan(rows(130, 17), 0.3, 3, block=40).tobytes(),
    "euclidean clusters": lambda: dbscan.dbscan(rows(130, 5), 1.0, 4, metric="euclidean").tobytes(),
    "two passes": lambda: dbscan.dbscan(rows(130, 5), 0.2, 4, edge_budget=0, block=30).tobytes(),
    "near duplicates": lambda: near_duplicates.near_duplicate_groups(rows(130, 17), 1.0).tobytes(),
    "euclidean pairs": lambda: pairs(rows(120, 3), tiles.PairTest.EUCLIDEAN, 1.0),
    "cosine pairs": lambda: pairs(rows(120, 33), tiles.PairTest.COSINE_DISTANCE, 0.4),
    "opposite rows": lambda: pairs(rows(120, 33), tiles.PairTest.COSINE_DISTANCE, 2.0),
    "similar rows": lambda: pairs(rows(120, 33), tiles.PairTest.COSINE_SIMILARITY, 0.6),
    "word graph": lambda: ego_splitting.co_occurrence_edges(words(200)).tobytes(),
    "word clusters": lambda: clusters(ego_splitting.co_occurrence_edges(words(200))),
    "personas": lambda: personas(ego_splitting.co_occurrence_edges(words(200))),
}


@pytest.mark.parametrize("name", BOTH)
def test_both_forms_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PLAIN_STEPS", 1 << 40)
    plain = BOTH[name]()
    monkeypatch.setattr(compiled, "PLAIN_STEPS", -1)
    assert BOTH[name]() == plain


@pytest.mark.parametrize("test", tiles.PairTest)
def test_both_forms_decide_alike_at_the_very_threshold(test: tiles.PairTest) -> None:
    x = rows(60, 71)
    y = np.roll(x, 1, axis=0)
    lengths = [np.sqrt(np.einsum("ij,ij->i", z, z, dtype=np.float64)) for z in (x, y)]
    wide, other = x.astype(np.float64), y.astype(np.float64)
    if test is tiles.PairTest.EUCLIDEAN:
        thresholds = np.sqrt(((wide - other) ** 2).sum(axis=1))
    else:
        cosine = (wide * other).sum(axis=1) / (lengths[0] * lengths[1])
        thresholds = cosine if test is tiles.PairTest.COSINE_SIMILARITY else 1.0 - cosine
    loops = compiled.suited(tiles._decide, compiled.PLAIN_STEPS + 1)
    told = set()
    for value in thresholds:
        for threshold in (np.nextafter(value, -9), value, np.nextafter(value, 9)):
            rule = tiles.Rule(int(test), float(threshold), 0.0, 0.0, 0.0)
            expected = loops(x, y, *lengths, rule)
            assert np.array_equal(tiles._decide_few(x, y, *lengths, rule), expected)
            told.add(expected.sum())
    assert len(told) > 30


def test_rows_are_prepared_alike() -> None:
    x, rng = rows(50, 23), np.random.default_rng(1)
    centre, factor = rng.normal(size=23), rng.uniform(0.1, 3.0, 50)
    loops = compiled.suited(tiles._prepare, compiled.PLAIN_STEPS + 1)
    few = tiles._prepare_few(x, centre, factor)
    assert few.dtype == np.float32
    assert few.tobytes() == loops(x, centre, factor).tobytes()


def test_the_form_depends_on_what_was_asked_for_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(parent: np.ndarray, keys: np.ndarray) -> None:
        raise NotImplementedError

    kernel = dbscan._to_roots
    monkeypatch.setattr(compiled._Asked, "steps", 0)
    assert compiled.suited(kernel, 0) is kernel
    assert compiled.suited(kernel, compiled.PLAIN_STEPS // 2) is kernel
    assert compiled.suited(kernel, compiled.PLAIN_STEPS // 2, few) is few
    form = compiled.suited(kernel, 1)
    assert form is not kernel
    assert compiled.suited(kernel, 0, few) is form  # made once
    assert compiled.suited_to_pairs(kernel, 2) is form
    monkeypatch.setattr(compiled._Asked, "steps", 0)
    assert compiled.suited_to_pairs(kernel, 160) is kernel
    assert compiled.suited_to_pairs(kernel, 1000) is form


def test_many_small_pieces_of_work_are_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled._Asked, "steps", 0)
    for _ in range(60):
        dbscan.dbscan(rows(130, 17), 0.3, 3)
    assert compiled._Asked.steps > compiled.PLAIN_STEPS
    assert compiled.suited(tiles._neighbours, 0) is not tiles._neighbours


def test_large_groups_are_joined_by_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled._Asked, "steps", 0)
    n = compiled.PLAIN_STEPS
    groups = connected_groups(n, np.stack([np.arange(n - 1), np.arange(1, n)], axis=1))
    assert not groups.any()
    assert compiled._Asked.steps > compiled.PLAIN_STEPS


def test_without_a_folder_to_keep_it_in_a_kernel_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(compiled, "PLAIN_STEPS", -1)
    parent = np.arange(4)
    compiled._compiled.__wrapped__(union_find.flatten)(parent)
    assert parent.tolist() == [0, 1, 2, 3]


def test_little_work_loads_no_compiler() -> None:
    assert not set(of_script(LITTLE)) & {"numba", "llvmlite", "scipy"}


def test_a_second_process_takes_the_compiled_form_from_disk(tmp_path: Path) -> None:
    told = [of_script(FROM_DISK, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert told == [[[0] * 9, [[0, 1], [0, 1]]], [[0] * 9, [[1, 0], [1, 0]]]]
