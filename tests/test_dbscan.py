from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.dbscan import cosine_distance, dbscan_labels, euclidean
from sklearn.cluster import DBSCAN

from vlitqc_metrics._algorithms import dbscan as dbscan_module
from vlitqc_metrics._algorithms.compiled import suited_to_pairs
from vlitqc_metrics._algorithms.dbscan import dbscan
from vlitqc_metrics._algorithms.tiles import Metric, PairTest, TiledRows

DISTANCES = {"euclidean": euclidean, "cosine": cosine_distance}


def line(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def sklearn_labels(x: np.ndarray, eps: float, min_samples: int, metric: str) -> list[int]:
    fitted = DBSCAN(eps=eps, min_samples=min_samples, metric=metric).fit(x.astype(np.float64))
    labels: list[int] = fitted.labels_.tolist()
    return labels


Case = tuple[np.ndarray, float, int, Metric]


def lattice(rng: np.random.Generator, min_samples: int) -> Case:
    """Whole numbers and a whole eps: many distances are exactly eps."""
    x = rng.integers(0, 9, size=(int(rng.integers(10, 110)), int(rng.integers(1, 4))))
    return x.astype(np.float32), float(rng.integers(1, 3)), min_samples, "euclidean"


def bridged(rng: np.random.Generator, min_samples: int, metric: Metric) -> Case:
    """Dense groups along a line or an arc, and between them single rows that both sides may reach."""
    groups, size = int(rng.integers(2, 6)), min_samples + int(rng.integers(0, 4))
    dense = 2.4 * np.repeat(np.arange(groups), size) + rng.uniform(-0.35, 0.35, size=groups * size)
    between = 2.4 * np.arange(groups - 1) + 1.2
    places = rng.permutation(np.concatenate([dense, between]))
    if metric == "euclidean":
        return places[:, None].astype(np.float32), 1.0, min_samples, metric
    arc = np.stack([np.cos(0.1 * places), np.sin(0.1 * places)], axis=1)
    return arc.astype(np.float32), float(1 - np.cos(0.1)), min_samples, metric


def clouds(rng: np.random.Generator, min_samples: int, metric: Metric) -> Case:
    """Normal clouds that overlap more or less."""
    n, d, groups = int(rng.integers(10, 110)), int(rng.integers(1, 6)), int(rng.integers(1, 5))
    centres = rng.normal(size=(groups, d + (metric == "cosine")))
    noise = rng.normal(size=(n, centres.shape[1])) * rng.uniform(0.1, 0.8)
    x = (centres[rng.integers(groups, size=n)] + noise).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distances: np.ndarray = 1 - unit @ unit.T
    if metric == "euclidean":
        distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    # Around the mean distance to the row that makes another one core, some rows are core and some are not.
    nearest = np.sort(distances, axis=1)[:, min(min_samples, n) - 1]
    return x, float(nearest.mean() * rng.uniform(0.5, 0.9)), min_samples, metric


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    min_samples = int(rng.integers(3, 10))
    metric: Metric = "cosine" if seed % 2 else "euclidean"
    if seed % 6 == 0:
        return lattice(rng, min_samples)
    return (bridged if seed % 5 < 2 else clouds)(rng, min_samples, metric)


def cases_with_border_rows(wanted: int) -> Iterator[tuple[int, np.ndarray, float, int, Metric]]:
    seed = 0
    while wanted:
        x, eps, min_samples, metric = random_case(seed)
        fitted = DBSCAN(eps=eps, min_samples=min_samples, metric=metric).fit(x.astype(np.float64))
        if (fitted.labels_ >= 0).sum() > len(fitted.core_sample_indices_):
            yield seed, x, eps, min_samples, metric
            wanted -= 1
        seed += 1


def test_labels_equal_scikit_learns_on_300_random_cases_with_border_rows() -> None:
    cases = with_contested_border = with_noise = with_more_clusters = 0
    for seed, x, eps, min_samples, metric in cases_with_border_rows(300):
        expected = sklearn_labels(x, eps, min_samples, metric)
        for block, budget in ((2048, 1 << 30), (5 + seed % 13, 1 << 30), (3 + seed % 11, 0)):
            labels = dbscan(x, eps, min_samples, metric=metric, block=block, edge_budget=budget)
            assert labels.tolist() == expected, (seed, block, budget)
        oracle, bordered = dbscan_labels(x.tolist(), eps, min_samples, DISTANCES[metric])
        assert oracle == expected, seed
        assert any(bordered), seed
        cases += 1
        with_contested_border += any(len(clusters) > 1 for clusters in bordered)
        with_noise += -1 in oracle
        with_more_clusters += max(oracle) >= 1
    assert cases == 300
    assert with_contested_border >= 50
    assert with_noise >= 150
    assert with_more_clusters >= 150


def test_distance_of_exactly_eps_is_a_neighbour() -> None:
    x = line(0, 1, 2, 3)
    assert dbscan(x, 1.0, 3, metric="euclidean").tolist() == [0, 0, 0, 0]
    assert dbscan(x, float(np.nextafter(1.0, 0)), 3, metric="euclidean").tolist() == [-1] * 4
    right_angle = np.eye(2, dtype=np.float32)
    assert dbscan(right_angle, 1.0, 2).tolist() == [0, 0]
    assert dbscan(right_angle, float(np.nextafter(1.0, 0)), 2).tolist() == [-1, -1]


def test_opposite_rows_are_at_cosine_distance_2() -> None:
    x = np.array([[1, 2, 3], [-7, -14, -21]], dtype=np.float32)
    assert dbscan(x, 2.0, 2).tolist() == [0, 0]
    assert dbscan(x, 1.999, 2).tolist() == [-1, -1]


@pytest.mark.parametrize("reverse", [False, True])
def test_border_row_between_two_clusters_joins_the_first(reverse: bool) -> None:
    # 4 has neighbours 3 and 5 only: with min_samples 4 it is not core, yet lies within eps of both cores.
    values = [1.5, 2, 2.5, 3, 4, 5, 5.5, 6, 6.5]
    x = line(*(values[::-1] if reverse else values))
    assert dbscan(x, 1.0, 4, metric="euclidean").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_border_row_before_all_cores_takes_the_smallest_adjacent_label() -> None:
    x = line(4, 5, 5.5, 6, 6.5, 3, 2.5, 2, 1.5)
    assert dbscan(x, 1.0, 4, metric="euclidean").tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_clusters_never_join_through_a_border_row() -> None:
    labels = dbscan(line(1.5, 2, 2.5, 3, 4, 5, 5.5, 6, 6.5), 1.0, 4, metric="euclidean")
    assert labels[0] != labels[-1]


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_labels_do_not_depend_on_the_block(block: int) -> None:
    x = np.random.default_rng(5).normal(size=(50, 3)).astype(np.float32)
    expected = sklearn_labels(x, 0.7, 4, "euclidean")
    assert dbscan(x, 0.7, 4, metric="euclidean", block=block).tolist() == expected


def test_pairs_beyond_the_budget_are_computed_twice_with_equal_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = 0
    neighbours = TiledRows.neighbours

    def counted(self: TiledRows, *arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return neighbours(self, *arguments)

    monkeypatch.setattr(TiledRows, "neighbours", counted)
    rng = np.random.default_rng(11)
    x = (rng.normal(size=(400, 2)) + 4 * rng.integers(0, 3, size=(400, 1))).astype(np.float32)
    expected = sklearn_labels(x, 0.35, 6, "euclidean")
    assert len(set(expected)) > 3
    assert -1 in expected
    seen = {}
    for budget in (1 << 27, 8 * 400 * 4 * 2, 512, 0):
        passes = 0
        labels = dbscan(x, 0.35, 6, metric="euclidean", block=32, edge_budget=budget)
        assert labels.tolist() == expected
        seen[budget] = passes
    # Fewer than min_samples − 1 pairs of each row wait, and half of the budget must stay free.
    assert seen == {1 << 27: 1, 8 * 400 * 4 * 2: 1, 512: 2, 0: 2}


def test_a_dense_cloud_needs_one_pass_with_hardly_a_pair_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []
    join_or_wait = suited_to_pairs(dbscan_module._join_or_wait, 3000)

    def watched(*arguments: Any) -> int:
        waiting.append(join_or_wait(*arguments))
        return waiting[-1]

    def suited(kernel: Any, n: int) -> Any:
        return watched if kernel is dbscan_module._join_or_wait else suited_to_pairs(kernel, n)

    monkeypatch.setattr(dbscan_module, "suited_to_pairs", suited)
    x = np.random.default_rng(2).normal(size=(3000, 2)).astype(np.float32)
    labels = dbscan(  # 4.5 million pairs
        x, 100.0, 3, metric="euclidean", block=256, edge_budget=0, threads=2
    )
    assert set(labels.tolist()) == {0}
    assert (
        len(waiting) == 12 + 4
    )  # the first of 12 rows of tiles joins all; four of the next were under way by then
    assert sum(waiting) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_that_of_the_tiles_however_many_pairs_there_are(threads: int) -> None:
    x = np.random.default_rng(2).normal(size=(3000, 2)).astype(np.float32)  # 4.5 million pairs, 36 MB
    dbscan(x, 100.0, 3, metric="euclidean", block=256)  # compiling is not part of the measurement
    tracemalloc.start()
    try:
        labels = dbscan(x, 100.0, 3, metric="euclidean", block=256, threads=threads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(labels.tolist()) == {0}
    assert peak < 4e6 + threads * 4e6


def test_border_pairs_are_thinned_out_beyond_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    # 60 core rows at 0, and 600 rows each of which all of them reach while the 600 hardly reach each other.
    x = np.concatenate([np.zeros((60, 600)), np.eye(600)]).astype(np.float32)
    sizes = []
    thin_out = dbscan_module._one_per_cluster

    def watched(parent: Any, keys: Any) -> Any:
        sizes.append((len(keys), len(thinned := thin_out(parent, keys.copy()))))
        return thinned

    monkeypatch.setattr(dbscan_module, "_one_per_cluster", watched)
    labels = dbscan(x, 1.0, 62, metric="euclidean", block=50, edge_budget=4096)
    assert set(labels.tolist()) == {0}
    assert sum(before - after for before, after in sizes[:-1]) > 30_000  # of 36,000 pairs
    assert max(before for before, _ in sizes) < 6000


def test_an_offset_does_not_widen_the_undecided_margin() -> None:
    x = np.random.default_rng(0).integers(0, 8, size=(50, 3)).astype(np.float32)
    near, far = (TiledRows(x + shift, "euclidean").read(0).squared_norm for shift in (0, 4096))
    assert near.tolist() == pytest.approx(far.tolist())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("d", [2, 40, 384])
def test_pairs_too_close_to_eps_for_float32_are_decided_in_float64(metric: Metric, d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=(60, d)).astype(np.float32)
    exact = np.array([[DISTANCES[metric](a, b) for b in x.tolist()] for a in x.tolist()])
    i, j = np.triu_indices(len(x), 1)
    for k in rng.choice(len(i), size=25, replace=False):
        at = float(exact[i[k], j[k]])
        for eps in (at * (1 - 1e-12), at * (1 + 1e-12)):
            test = PairTest.EUCLIDEAN if metric == "euclidean" else PairTest.COSINE_DISTANCE
            found = {
                (int(a), int(b))
                for left, right in TiledRows(x, metric, 16).neighbours(test, eps)
                for a, b in zip(left, right, strict=True)
            }
            near = exact[i, j] <= eps
            assert found == set(zip(i[near].tolist(), j[near].tolist(), strict=True))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_euclidean_labels_survive_any_offset_and_scale(offset: float, scale: float) -> None:
    rng = np.random.default_rng(8)
    x = ((rng.integers(0, 40, size=(80, 3)) + offset) * scale).astype(np.float32)
    eps = 6.0 * scale
    expected, _ = dbscan_labels(x.tolist(), eps, 4, euclidean)
    assert len(set(expected)) > 2
    assert dbscan(x, eps, 4, metric="euclidean", block=32).tolist() == expected


def test_cosine_ignores_length() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    stretched = x * (2.0 ** rng.integers(-40, 40, size=(60, 1))).astype(np.float32)
    assert dbscan(x, 0.2, 4).tolist() == dbscan(stretched, 0.2, 4).tolist()


def test_permuting_rows_keeps_core_partition_and_noise() -> None:
    x, eps, min_samples, metric = random_case(1)
    order = np.random.default_rng(0).permutation(len(x))
    labels = dbscan(x, eps, min_samples, metric=metric)
    permuted = dbscan(x[order], eps, min_samples, metric=metric)
    assert ((labels == -1)[order] == (permuted == -1)).all()
    assert labels.max() == permuted.max()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_few_and_equal_rows(metric: Metric) -> None:
    one = np.ones((1, 3), dtype=np.float32)
    empty = dbscan(np.empty((0, 3), dtype=np.float32), 0.5, 2, metric=metric)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64
    assert dbscan(one, 0.5, 1, metric=metric).tolist() == [0]
    assert dbscan(one, 0.5, 2, metric=metric).tolist() == [-1]
    assert dbscan(np.repeat(one, 5, axis=0), 1e-6, 5, metric=metric).tolist() == [0] * 5
    assert dbscan(np.repeat(one, 5, axis=0), 1e-6, 6, metric=metric).tolist() == [-1] * 5


def test_min_samples_1_leaves_no_noise() -> None:
    assert dbscan(line(0, 5, 5.5, 20), 1.0, 1, metric="euclidean").tolist() == [0, 1, 1, 2]


def test_one_column_cosine_sees_only_the_sign() -> None:
    assert dbscan(line(3, -1, 0.1, -7), 0.5, 2).tolist() == [0, 1, 0, 1]


def test_memory_mapped_rows_give_the_same_labels(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(90, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert dbscan(mapped, 0.2, 3, block=16).tolist() == dbscan(x, 0.2, 3).tolist()


def test_rows_that_are_not_contiguous() -> None:
    x = np.random.default_rng(3).normal(size=(90, 8)).astype(np.float32)
    expected = dbscan(np.ascontiguousarray(x[::2, ::2]), 0.2, 3)
    assert dbscan(x[::2, ::2], 0.2, 3).tolist() == expected.tolist()


def test_a_long_chain_is_one_cluster() -> None:
    x = line(*range(3000))
    assert set(dbscan(x, 1.0, 3, metric="euclidean", block=512, edge_budget=0).tolist()) == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, "eps must be a finite number above 0, got 0.0"),
        ({"eps": float("nan")}, "eps must be a finite number"),
        ({"eps": float("inf")}, "eps must be a finite number"),
        ({"min_samples": 0}, "min_samples must be at least 1, got 0"),
        ({"metric": "manhattan"}, "metric must be 'cosine' or 'euclidean', got 'manhattan'"),
        ({"block": 0}, "block must be at least 1 row"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"edge_budget": -1}, "edge_budget must be at least 0"),
        ({"x": np.ones(3, dtype=np.float32)}, r"shape \(n, d\), got \(3,\)"),
        ({"x": np.ones((3, 0), dtype=np.float32)}, "columns, got 0"),
        ({"x": np.array([[1, 2], [3, np.nan]], dtype=np.float32)}, "row 1 of x holds NaN"),
        ({"x": np.array([[1, 2], [np.inf, 1]], dtype=np.float32)}, "row 1 of x holds NaN or infinity"),
        ({"x": np.array([[1, 2], [1, 1], [0, 0]], dtype=np.float32)}, "row 2 of x is all zeros"),
    ],
)
def test_refuses_what_has_no_answer(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": np.ones((3, 2), dtype=np.float32),
        "eps": 0.5,
        "min_samples": 2,
    } | change
    with pytest.raises(ValueError, match=message):
        dbscan(**arguments)


def test_bad_rows_are_named_beyond_the_first_block() -> None:
    x = np.ones((50, 2), dtype=np.float32)
    x[37] = 0
    with pytest.raises(ValueError, match="row 37 of x is all zeros"):
        dbscan(x, 0.5, 2, block=8)
    assert dbscan(x, 0.5, 2, metric="euclidean", block=8)[37] == -1


def test_refuses_float64() -> None:
    with pytest.raises(TypeError, match="x must be float32, got float64"):
        wide: Any = np.ones((3, 2))
        dbscan(wide, 0.5, 2)
