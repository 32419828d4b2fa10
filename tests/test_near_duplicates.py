from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.dbscan import cosine, near_duplicate_labels

from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups


def unit(x: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(x, axis=1, keepdims=True)
    rows: np.ndarray = (x / lengths).astype(np.float32)
    return rows


def at_degrees(*angles: float) -> np.ndarray:
    return unit(np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1))


def test_a_chain_is_one_group_though_its_ends_differ() -> None:
    x = at_degrees(0, 90, 20, 40, 200)
    assert near_duplicate_groups(x, float(np.cos(np.radians(21)))).tolist() == [0, 1, 0, 0, 2]
    assert near_duplicate_groups(x, float(np.cos(np.radians(19)))).tolist() == [0, 1, 2, 3, 4]


def test_cosine_of_exactly_the_threshold_is_a_duplicate() -> None:
    x = np.array([[1, 1, 0], [1, 0, 1]], dtype=np.float32)  # cosine 1/2
    assert near_duplicate_groups(x, 0.5).tolist() == [0, 0]
    assert near_duplicate_groups(x, float(np.nextafter(0.5, 1))).tolist() == [0, 1]


def test_at_threshold_1_equal_rows_and_only_they_are_grouped() -> None:
    x = unit(np.random.default_rng(0).normal(size=(40, 384)))
    nearly = x.copy()
    nearly[:, 0] += np.float32(1e-4)  # a cosine of 1 − 5e-9, which float32 cannot tell from 1
    assert near_duplicate_groups(np.concatenate([x, x]), 1.0).tolist() == list(range(40)) * 2
    assert near_duplicate_groups(np.concatenate([x, nearly]), 1.0).tolist() == list(range(80))
    assert near_duplicate_groups(np.concatenate([x, nearly]), 1 - 1e-8).tolist() == list(range(40)) * 2


def test_at_threshold_minus_1_all_rows_are_one_group() -> None:
    x = np.concatenate([at_degrees(0, 90, 180, 270), -3 * at_degrees(31), at_degrees(31)])
    assert near_duplicate_groups(x.astype(np.float32), -1.0).tolist() == [0] * 6


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 50)), int(rng.integers(1, 8))
    x = unit(rng.normal(size=(n, d)))
    x[rng.integers(n, size=n // 4)] = x[rng.integers(n, size=n // 4)]
    threshold = float(rng.uniform(0.5, 0.999))
    expected = near_duplicate_labels(x.tolist(), threshold)
    for block in (2048, 1 + seed % 17):
        assert near_duplicate_groups(x, threshold, block).tolist() == expected


@pytest.mark.parametrize("d", [2, 40, 384])
def test_pairs_too_close_to_the_threshold_for_float32_are_decided_in_float64(d: int) -> None:
    rng = np.random.default_rng(d)
    for _ in range(40):
        pair = unit(rng.normal(size=(2, d)))
        at = cosine(*pair.tolist())
        assert near_duplicate_groups(pair, at - 1e-12).tolist() == [0, 0]
        assert near_duplicate_groups(pair, at + 1e-12).tolist() == [0, 1]


def test_rows_of_any_length_are_normalised() -> None:
    x = at_degrees(0, 5, 90)
    stretched = x * np.array([[1e-20], [3], [1e20]], dtype=np.float32)
    assert near_duplicate_groups(stretched, 0.99).tolist() == [0, 0, 1]


def test_memory_mapped_rows(tmp_path: Path) -> None:
    x = unit(np.random.default_rng(3).normal(size=(70, 3)))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert near_duplicate_groups(mapped, 0.98, 16).tolist() == near_duplicate_groups(x, 0.98).tolist()


def test_no_row_and_one_row() -> None:
    assert near_duplicate_groups(np.empty((0, 4), dtype=np.float32), 0.9).shape == (0,)
    assert near_duplicate_groups(np.ones((1, 4), dtype=np.float32), 0.9).tolist() == [0]


@pytest.mark.parametrize(
    ("x", "threshold", "message"),
    [
        ([[1, 0], [0, 0]], 0.9, "row 1 of x is all zeros"),
        ([[np.nan, 0], [0, 1]], 0.9, "row 0 of x holds NaN"),
        ([[1, 0], [0, 1]], 1.01, r"must lie in -1\.\.1, got 1.01"),
        ([[1, 0], [0, 1]], float("nan"), "must lie in"),
        ([1, 0], 0.9, r"shape \(n, d\)"),
    ],
)
def test_refuses_what_has_no_cosine(x: Any, threshold: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_duplicate_groups(np.array(x, dtype=np.float32), threshold)
