"""Which records have cards, and how the data of a page is packed."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlitqc_reports.explorer.choice import GROUPS_AT_ONCE, Judged, choose
from vlitqc_reports.explorer.pack import as_json, packed, texts

N = 1_000
RISING = np.arange(float(N))


def chosen(metrics: list[Judged], groups: list[list[int]] | None = None, most: int = 60) -> list[int]:
    return choose(metrics, groups or [], n=N, most=most, seed=0)


def test_the_worst_and_the_closest_calls_come_first() -> None:
    found = chosen([Judged(RISING, True, floor=300.0)])
    assert found[0] == 0  # the worst
    assert found[1] == 299  # the last one that the floor would drop
    assert {0, 1, 2, 298, 299, 300, 301, 9, 10, 49, 50, 99, 100, 249, 250} <= set(found)


def test_lower_is_better_turns_everything_round() -> None:
    found = chosen([Judged(RISING, False)])
    assert found[0] == N - 1
    assert {999, 998, 989, 990, 949, 950, 899, 900, 749, 750} <= set(found)
    assert 0 not in found[:20]


def test_where_no_end_is_better_both_are_shown() -> None:
    assert chosen([Judged(RISING, None)])[:2] == [0, N - 1]


def test_missing_values_are_no_worst_ones() -> None:
    values = RISING.copy()
    values[:500] = np.nan
    assert chosen([Judged(values, True)])[0] == 500
    nothing = Judged(np.full(N, np.nan), True)
    assert len(chosen([nothing])) == 60  # what is usual, drawn at random


def test_groups_take_part_and_keep_their_order() -> None:
    group = [700, 3, 512, 44, 801, 2]
    found = chosen([Judged(RISING, True)], [group], most=20)
    assert [place for place in found if place in group][:GROUPS_AT_ONCE] == group[:GROUPS_AT_ONCE]


def test_every_metric_gets_its_share() -> None:
    values = [np.random.default_rng(k).permutation(RISING) for k in range(10)]
    found = chosen([Judged(v, True) for v in values], most=300)
    for v in values:
        lowest = np.argsort(v)[:4]
        assert set(lowest.tolist()) <= set(found)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.floats(), st.just(1.0)), min_size=7, max_size=7), max_size=4),
    st.sampled_from([True, False, None]),
    st.lists(st.lists(st.integers(0, 6)), max_size=3),
    st.integers(0, 9),
)
def test_each_place_at_most_once_and_as_many_as_asked(
    columns: list[list[float]], better: bool | None, groups: list[list[int]], most: int
) -> None:
    metrics = [Judged(np.array(column), better) for column in columns]
    found = choose(metrics, groups, n=7, most=most, seed=1)
    assert len(found) == min(7, most)
    assert max(Counter(found).values(), default=1) == 1
    assert found == choose(metrics, groups, n=7, most=most, seed=1)


def test_no_record_no_card() -> None:
    assert choose([], [], n=0, most=9, seed=0) == []


# ---------------------------------------------------------------- packing


def test_arrays_come_back_as_they_were() -> None:
    arrays = {
        "a": np.array([1, 2, 3], np.uint8),
        "b": np.array([1, 65_535], np.uint16),
        "none": np.empty(0, np.uint8),
        "c": np.array([4_000_000_000], ">u4").astype(np.uint32),
        "cards": texts([{"id": "é\u2028</script>"}]),
    }
    types, text = packed(arrays)
    data = gzip.decompress(base64.b64decode(text, validate=True))
    for name, array in arrays.items():
        kind, offset, length = types[name]
        assert offset % 4 == 0
        assert np.frombuffer(data, f"<{kind}", length, offset).tolist() == array.tolist()
    kind, offset, length = types["cards"]
    assert json.loads(data[offset : offset + length]) == [{"id": "é\u2028</script>"}]
    assert packed(arrays) == (types, text)


@settings(deadline=None)
@given(
    st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)
def test_json_for_a_page_reads_back_and_ends_no_block(value: object) -> None:
    text = as_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"x": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        texts([float("inf")])
