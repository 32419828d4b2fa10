"""Bins and percentiles of any finite numbers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlitqc.analysis.histogram import histogram, percentiles
from vlitqc.engine.dataset import spread

LARGEST = sys.float_info.max
finite = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@given(finite, st.sampled_from([1, 7, 40]))
def test_every_value_is_in_a_bin_between_distinct_edges(values: list[float], bins: int) -> None:
    counts, edges = histogram(np.array(values), bins)
    assert counts.sum() == len(values)
    assert len(edges) == bins + 1
    assert np.isfinite(edges).all()
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)
    assert (edges[1:] >= edges[:-1]).all()
    assert edges[0] < edges[-1]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_usual_numbers_are_counted_as_numpy_counts_them(values: list[float]) -> None:
    if max(values) - min(values) < 1e-3:
        return
    counts, edges = histogram(np.array(values), 40)
    expected, at = np.histogram(values, bins=40)
    assert counts.tolist() == expected.tolist()
    assert edges.tolist() == at.tolist()


@pytest.mark.parametrize("values", [[-1e308, 1e308], [LARGEST], [-LARGEST, LARGEST, 0.0], [1e20, 1e20]])
def test_the_spread_of_the_largest_numbers_is_finite(values: list[float]) -> None:
    found = spread(np.array(values))
    assert sum(found["histogram"]["counts"]) == len(values)
    assert np.isfinite([*found["quantiles"].values(), *found["histogram"]["edges"]]).all()


def test_percentiles_lie_between_the_values() -> None:
    assert percentiles(np.array([-LARGEST, LARGEST]), (0, 50, 100)).tolist() == [-LARGEST, 0.0, LARGEST]
    assert percentiles(np.arange(101.0), (5, 95)).tolist() == [5.0, 95.0]
