"""Every way to find the pairs (blocks, threads, edge budgets, float16 tiles of torch) gives scikit-learn's labels."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from vlitqc_metrics._algorithms import tiles as tiles_module
from vlitqc_metrics._algorithms.dbscan import dbscan
from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups
from vlitqc_metrics._algorithms.tiles import Metric, PairSource, PairTest, TiledRows, on_device

torch = pytest.importorskip("torch")
half_tiles = pytest.importorskip("vlitqc_metrics._algorithms.half_tiles")
float16_tiles = half_tiles.HalfTiles


def sklearn_labels(x: np.ndarray, eps: float, min_samples: int, metric: str) -> list[int]:
    fitted = DBSCAN(eps=eps, min_samples=min_samples, metric=metric, algorithm="brute").fit(x.astype(float))
    labels: list[int] = fitted.labels_.tolist()
    return labels


def pairs_of(source: PairSource, test: PairTest, threshold: float) -> list[tuple[int, int]]:
    found = [np.stack(pair, axis=1) for pair in source.neighbours(test, threshold)]
    return sorted(map(tuple, np.concatenate([np.empty((0, 2), dtype=np.int32), *found]).tolist()))


@pytest.fixture
def half_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send ``device="cuda"`` to the float16 tiles on torch's CPU."""
    made = half_tiles.HalfTiles
    monkeypatch.setattr(half_tiles, "fits", lambda rows: True)
    monkeypatch.setattr(half_tiles, "HalfTiles", lambda rows, device: made(rows, "cpu", rows.block))


def blobs(n: int, d: int, seed: int) -> np.ndarray:
    """Unit rows in groups of different density around a common direction, with rows twice and opposite rows."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 12), d)) + 1.0
    x = centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, d)) * rng.uniform(0, 1.0, (n, 1))
    x[rng.integers(n, size=n // 8)] = x[rng.integers(n, size=n // 8)]
    x[rng.integers(n, size=n // 16)] *= -1
    unit: np.ndarray = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def between_distances(x: np.ndarray, metric: Metric, share: float) -> float:
    """A threshold in the middle of the widest of the gaps near a quantile of the distances: no tie for rounding."""
    wide = x.astype(float)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    table = 1 - unit @ unit.T if metric == "cosine" else np.linalg.norm(wide[:, None] - wide[None], axis=2)
    values = np.sort(np.append(table[np.triu_indices(len(x), 1)], [1e-3, 1.9]))
    at = min(int(share * len(values)), len(values) - 2)
    near = values[max(0, at - 5) : at + 6]
    gap = int(np.diff(near).argmax())
    return float(max((near[gap] + near[gap + 1]) / 2, 1e-4))


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 90),
    d=st.integers(1, 40),
    seed=st.integers(0, 1 << 20),
    metric=st.sampled_from(["cosine", "euclidean"]),
    share=st.floats(0, 0.6),
    min_samples=st.integers(1, 8),
    block=st.integers(1, 100),
    budget=st.sampled_from([0, 1, 16, 64, 1000, 1 << 27]),
    threads=st.integers(1, 3),
)
def test_labels_are_scikit_learns_whatever_block_budget_and_threads(
    n: int,
    d: int,
    seed: int,
    metric: Metric,
    share: float,
    min_samples: int,
    block: int,
    budget: int,
    threads: int,
) -> None:
    x = blobs(n, d, seed)
    eps = between_distances(x, metric, share)
    expected = sklearn_labels(x, eps, min_samples, metric)
    found = dbscan(x, eps, min_samples, metric=metric, block=block, edge_budget=budget, threads=threads)
    assert found.tolist() == expected
    if metric == "cosine":
        rows = TiledRows(x, "cosine", block)
        half = half_tiles.HalfTiles(rows, "cpu", block)
        for test, threshold in ((PairTest.COSINE_DISTANCE, eps), (PairTest.COSINE_SIMILARITY, 1 - eps)):
            assert pairs_of(half, test, threshold) == pairs_of(rows, test, threshold)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=60),
    squared=st.integers(1, 9),
    min_samples=st.integers(1, 5),
    block=st.integers(1, 70),
    threads=st.integers(1, 2),
)
def test_whole_numbers_with_distances_of_exactly_eps(
    values: list[list[int]], squared: int, min_samples: int, block: int, threads: int
) -> None:
    x = np.array(values, dtype=np.float32)
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=2, dtype=np.float64)
    eps = float(np.sqrt(squared))
    near = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit(
        (squares > eps * eps).astype(float)
    )
    found = dbscan(x, eps, min_samples, metric="euclidean", block=block, threads=threads)
    assert found.tolist() == near.labels_.tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pairs_come_in_the_same_order_whatever_the_threads(threads: int) -> None:
    x = blobs(300, 20, 1)

    def listed(number: int) -> list[list[int]]:
        tiles = TiledRows(x, "cosine", 32, number).neighbours(PairTest.COSINE_DISTANCE, 0.3)
        return [np.concatenate(pair).tolist() for pair in tiles]

    assert listed(threads) == listed(1)


def test_hits_at_every_place_of_a_segment_are_found() -> None:
    x = np.zeros((400, 400), dtype=np.float32)
    x[np.arange(400), np.arange(400) % 200] = (
        1.0  # row i equals row i + 200 and is at right angles to the others
    )
    wanted = [(i, i + 200) for i in range(200)]
    for block in (1000, 150):
        rows = TiledRows(x, "cosine", block)
        assert pairs_of(rows, PairTest.COSINE_DISTANCE, 0.5) == wanted
        assert pairs_of(half_tiles.HalfTiles(rows, "cpu", block), PairTest.COSINE_DISTANCE, 0.5) == wanted


def test_pairs_within_a_joined_set_are_left_out() -> None:
    x = np.ones((6, 2), dtype=np.float32)
    joined = np.array([0, 0, 0, 3, 3, 5])
    rows = TiledRows(x, "cosine", 2)
    for source in (rows, half_tiles.HalfTiles(rows, "cpu", 4)):
        found = [
            (int(a), int(b))
            for left, right in source.neighbours(PairTest.COSINE_DISTANCE, 0.1, joined)
            for a, b in zip(left, right, strict=True)
        ]
        assert not {(0, 1), (3, 4)} & set(found)
        assert {(0, 3), (0, 5), (2, 4), (4, 5)} <= set(found)


@pytest.mark.parametrize("shift", [0.0, 3e-7, -3e-7, 1e-5, -1e-5, 8e-4, -8e-4])
@pytest.mark.parametrize("d", [3, 64, 384])
def test_float16_tiles_decide_pairs_near_the_threshold_as_float64_does(d: int, shift: float) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=(80, d)).astype(np.float32)
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    exact = 1 - unit @ unit.T
    i, j = np.triu_indices(len(x), 1)
    eps = float(np.quantile(exact[i, j], 0.3)) + shift + 1e-12  # itself a distance where nothing is added
    half = half_tiles.HalfTiles(TiledRows(x, "cosine"), "cpu", 32)
    near = exact[i, j] <= eps
    wanted = list(zip(i[near].tolist(), j[near].tolist(), strict=True))
    assert pairs_of(half, PairTest.COSINE_DISTANCE, eps) == wanted


def test_float16_products_lie_within_the_margin() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 7, 384, 2000):
        # Lengths and entries of every size: many entries are too small for full float16 precision.
        x = (rng.normal(size=(200, d)) * 10.0 ** rng.uniform(-9, 0, size=(200, d))).astype(np.float32)
        rows = TiledRows(x, "cosine")
        half = half_tiles.HalfTiles(rows, "cpu")
        unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
        products = (half.half @ half.half.T).double().numpy()
        assert np.abs(products - unit @ unit.T).max() < half.margin < 2.3e-3


@pytest.mark.usefixtures("half_on_cpu")
@pytest.mark.parametrize("budget", [1 << 27, 64, 0])
@pytest.mark.parametrize("block", [7, 64, 4096])
def test_dbscan_and_near_duplicates_through_float16_tiles(block: int, budget: int) -> None:
    x = blobs(400, 48, 7)
    eps = between_distances(x, "cosine", 0.05)
    expected = sklearn_labels(x, eps, 5, "cosine")
    assert len(set(expected)) > 3
    assert dbscan(x, eps, 5, block=block, edge_budget=budget, device="cuda").tolist() == expected
    groups = near_duplicate_groups(x, 1 - eps, block)
    assert near_duplicate_groups(x, 1 - eps, block, device="cuda").tolist() == groups.tolist()
    assert 1 < groups.max() < 399


def test_many_hits_are_listed_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_tiles, "_MOST_HITS", 1000)
    monkeypatch.setattr(half_tiles, "_MOST_ENTRIES", 4096)
    x = blobs(300, 32, 3)
    rows = TiledRows(x, "cosine", 128)
    half = half_tiles.HalfTiles(rows, "cpu", 128)
    parts = [len(left) for left, _ in half.neighbours(PairTest.COSINE_DISTANCE, 1.95)]
    assert max(parts) <= 1000
    assert sum(parts) == len(pairs_of(rows, PairTest.COSINE_DISTANCE, 1.95))


def test_the_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = TiledRows(np.ones((3, 2), dtype=np.float32), "cosine")
    euclidean = TiledRows(np.ones((3, 2), dtype=np.float32), "euclidean")
    assert on_device(rows, "cpu") is rows
    monkeypatch.setattr(tiles_module, "_GPU_SIGNS", (__file__,))
    assert on_device(rows, "auto") is rows  # too few for a GPU
    monkeypatch.setattr(tiles_module, "_GPU_ROWS", 1)
    monkeypatch.setattr(half_tiles, "fits", lambda rows: False)
    assert on_device(rows, "auto") is rows
    with pytest.raises(ValueError, match="device 'cuda' was asked for but torch sees no GPU with room"):
        on_device(rows, "cuda")
    monkeypatch.setattr(half_tiles, "fits", lambda rows: True)
    monkeypatch.setattr(half_tiles, "HalfTiles", lambda rows, device: (rows, device))
    chosen: Any = on_device(rows, "auto")
    assert chosen == (rows, "cuda")
    assert on_device(euclidean, "auto") is euclidean
    monkeypatch.setattr(tiles_module, "_GPU_SIGNS", ("/no/such/device",))
    assert on_device(rows, "auto") is rows
    unknown: Any = "tpu"
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda', got 'tpu'"):
        on_device(rows, unknown)


def test_float16_tiles_refuse_what_they_cannot_do() -> None:
    x = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="float16 tiles are for the cosine metric, got 'euclidean'"):
        half_tiles.HalfTiles(TiledRows(x, "euclidean"), "cpu")
    with pytest.raises(ValueError, match="block must be at least 1 row, got 0"):
        half_tiles.HalfTiles(TiledRows(x, "cosine"), "cpu", 0)


def test_a_machine_without_a_gpu_does_not_import_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "_GPU_SIGNS", ())
    monkeypatch.setattr(tiles_module, "_GPU_ROWS", 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "vlitqc_metrics._algorithms.half_tiles")
    assert dbscan(np.ones((5, 2), dtype=np.float32), 0.1, 3).tolist() == [0] * 5


def test_a_gpu_that_cannot_be_used_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="device 'cuda' is for the cosine metric, got 'euclidean'"):
        on_device(TiledRows(x, "euclidean"), "cuda")
    monkeypatch.setattr(tiles_module, "_GPU_SIGNS", (__file__,))
    monkeypatch.setattr(tiles_module, "_GPU_ROWS", 1)
    monkeypatch.setitem(sys.modules, "vlitqc_metrics._algorithms.half_tiles", None)
    rows = TiledRows(x, "cosine")
    with pytest.raises(ValueError, match=r"device 'cuda' needs torch .*; install it, or use 'cpu'"):
        on_device(rows, "cuda")
    assert on_device(rows, "auto") is rows


@pytest.mark.parametrize("tiles", [0, 1, 4])
def test_a_gpu_that_fills_up_midway_leaves_the_work_to_the_cpu(
    tiles: int, half_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = float16_tiles._pairs
    left = tiles

    def filling(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return multiply(*args)

    monkeypatch.setattr(tiles_module, "_GPU_SIGNS", (__file__,))
    monkeypatch.setattr(tiles_module, "_GPU_ROWS", 1)
    monkeypatch.setattr(float16_tiles, "_pairs", filling)
    x = blobs(120, 8, 3)
    eps = between_distances(x, "cosine", 0.1)
    assert dbscan(x, eps, 3, block=32, edge_budget=0).tolist() == dbscan(x, eps, 3, device="cpu").tolist()
    assert left < 0
    left = tiles
    assert near_duplicate_groups(x, 0.9, 32).tolist() == near_duplicate_groups(x, 0.9, device="cpu").tolist()
    left = tiles
    with pytest.raises(torch.OutOfMemoryError):
        dbscan(x, eps, 3, block=32, device="cuda")
