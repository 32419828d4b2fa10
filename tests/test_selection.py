"""Selections: shares worked by hand, greedy and facility location against brute force, and what every one must hold."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from vlitqc import score
from vlitqc.engine.run import Run
from vlitqc.engine.shards import Done, folder, write_shard
from vlitqc.errors import RunError, UnknownName, UsageError
from vlitqc.filtering import diverse, vectors
from vlitqc.filtering.diverse import facilities, go_down
from vlitqc.filtering.merit import merit
from vlitqc.filtering.quotas import quotas, shares
from vlitqc.filtering.selection import Diversity, Selected, Selection, random_control, select
from vlitqc.filtering.table import ScoreTable
from vlitqc.filtering.vectors import Vectors, clusters, read_vectors
from vlitqc.types import Features

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def ints(*values: int) -> Ints:
    return np.array(values, np.int64)


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("n", "weight", "low", "high", "expected"),
    [
        (10, [53, 24, 23], [0, 0, 0], [53, 24, 23], [5, 3, 2]),  # 5.3, 2.4, 2.3: the largest remainder is 0.4
        (10, [10, 10, 10], [0, 0, 0], [10, 10, 10], [4, 3, 3]),  # a tie goes to the first
        (30, [1, 1, 1], [0, 0, 0], [5, 20, 20], [5, 13, 12]),  # one has too few: the others share 25
        (12, [1, 1, 1], [6, 0, 0], [9, 9, 9], [6, 3, 3]),  # one has to have more: the others share 6
        (9, [8, 1, 1], [1, 1, 1], [4, 9, 9], [4, 3, 2]),  # capped at 4, and 5 for two of one weight
        (3, [5, 5], [2, 2], [5, 5], [2, 2]),  # more must be given than was asked for
        (50, [5, 5], [0, 0], [5, 4], [5, 4]),  # more was asked for than there is
        (7, [3, 3], [3, 4], [3, 4], [3, 4]),  # nothing is free
    ],
)
def test_shares_worked_by_hand(
    n: int, weight: list[int], low: list[int], high: list[int], expected: list[int]
) -> None:
    assert shares(n, ints(*weight), ints(*low), ints(*high)).tolist() == expected


STRATUM = st.tuples(st.integers(1, 60), st.integers(0, 5), st.integers(0, 40))


@settings(deadline=None)
@given(st.lists(STRATUM, min_size=1, max_size=12), st.integers(0, 300))
def test_shares_add_up_and_round_the_clipped_proportion(strata: list[tuple[int, int, int]], n: int) -> None:
    weight, low, more = (ints(*column) for column in zip(*strata, strict=True))
    high = low + more
    share = shares(n, weight, low, high)
    total = min(max(n, int(low.sum())), int(high.sum()))
    assert share.sum() == total
    assert (low <= share).all()
    assert (share <= high).all()

    def exact(rate: Fraction) -> list[Fraction]:
        return [
            min(max(rate * int(w), Fraction(int(a))), Fraction(int(b)))
            for w, a, b in zip(weight, low, high, strict=True)
        ]

    # The rate by bisection: another way to the same proportion.
    least, most = Fraction(0), Fraction(200)
    for _ in range(60):
        middle = (least + most) / 2
        least, most = (middle, most) if sum(exact(middle)) < total else (least, middle)
    assert all(abs(int(s) - x) < 1 + Fraction(1, 10**6) for s, x in zip(share, exact(most), strict=True))


def shared(
    n: int, size: list[int], group: list[int], *, balanced: bool = False, most: list[int] | None = None
) -> list[int]:
    sizes, groups = ints(*size), ints(*group)
    limits = ints(*(most or [10**6] * (max(group) + 1)))
    return quotas(n, sizes, groups, np.zeros_like(sizes), sizes, limits, balanced=balanced).tolist()


def test_quotas_worked_by_hand() -> None:
    # Two tasks of 80 and 20, three clusters and one.
    size, group = [40, 30, 10, 20], [0, 0, 0, 1]
    assert shared(10, size, group) == [4, 3, 1, 2]
    assert shared(20, size, group, balanced=True) == [5, 4, 1, 10]
    assert shared(60, size, group, balanced=True) == [20, 15, 5, 20]  # the second task has no more than 20
    assert shared(10, size, group, most=[100, 1]) == [5, 3, 1, 1]  # 9 of 80: 4.5, 3.375 and 1.125
    assert shared(50, size, group, most=[8, 3]) == [4, 3, 1, 3]
    assert shared(100, size, group) == size


def test_every_task_gives_one_and_not_every_cluster() -> None:
    assert shared(4, [97, 1, 1, 1], [0, 0, 1, 2]) == [2, 0, 1, 1]
    # Clusters of one record each would give the weakest of all.
    assert shared(20, [50, *[1] * 10, 40], [*[0] * 11, 1]) == [10, *[1, 1], *[0] * 8, 8]
    assert shared(2, [5, 90, 7], [0, 0, 1]) == [0, 1, 1]
    assert shared(0, [5, 90, 7], [0, 0, 1]) == [0, 0, 0]
    # Fewer than tasks: in proportion, as Hamilton's method has it.
    assert shared(3, [94, 2, 2, 2], [0, 1, 2, 3]) == [3, 0, 0, 0]
    assert shared(3, [94, 2, 2, 2], [0, 1, 2, 3], most=[0, 9, 9, 9]) == [0, 1, 1, 1]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=10),
    st.integers(0, 300),
    st.booleans(),
)
def test_tasks_keep_their_shares(strata: list[tuple[int, int]], n: int, balanced: bool) -> None:
    size, group = (ints(*column) for column in zip(*strata, strict=True))
    share = ints(*shared(n, size.tolist(), group.tolist(), balanced=balanced))
    n = min(n, int(size.sum()))
    assert share.sum() == n
    assert (share <= size).all()
    pool = np.bincount(group, weights=size)
    gives = np.bincount(group, weights=share)[pool > 0]
    pool = pool[pool > 0]
    if len(pool) <= n:
        assert (gives > 0).all()
    if not balanced:
        exact = n * pool / pool.sum()
        assert (gives < exact + 1 + 1e-9).all()
        if len(pool) > n or (exact >= 1).all():
            assert (abs(gives - exact) < 1).all()


# ---------------------------------------------------------------- the filters of near-duplicates


def unit(rows: Any) -> Floats:
    found = np.asarray(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def in_bunches(n: int, d: int, seed: int, spread: float = 0.3) -> Floats:
    """Unit vectors around a few centres: some pairs are near, most are not."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(2, n // 6), d))
    return unit(centres[rng.integers(0, len(centres), n)] + spread * rng.normal(size=(n, d)))


def brute_greedy(
    x: Floats, order: Sequence[int], before: Sequence[int], stratum: Ints, room: list[int], tau: float
) -> tuple[list[int], dict[int, int]]:
    """One at a time, every cosine in full."""
    taken, twins = list(before), {}
    room = list(room)
    for i in order:
        if room[stratum[i]] == 0:
            continue
        near = [(float(np.dot(x[i], x[j])), j) for j in taken]
        if near and max(near)[0] >= tau:
            twins[i] = max(near)[1]
        else:
            taken.append(i)
            room[stratum[i]] -= 1
    return taken[len(before) :], twins


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n", "limit"), [(40, 5), (200, 30), (1_500, 400)])
def test_greedy_is_that_of_brute_force(n: int, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = in_bunches(n, 16, seed)
    order = rng.permutation(n)
    before, order = order[:3], order[3:]
    stratum = rng.integers(0, 3, n)
    room = [limit, limit // 2, 0]
    left = ints(*room)
    walked = go_down(lambda at: x[at], order, before, stratum, left, 0.9)
    taken, twins = brute_greedy(x, order.tolist(), before.tolist(), stratum, room, 0.9)
    assert walked.taken.tolist() == taken
    assert dict(zip(walked.skipped.tolist(), walked.twin.tolist(), strict=True)) == twins
    np.testing.assert_allclose(walked.cosine, [x[i] @ x[j] for i, j in twins.items()], atol=1e-6)
    assert twins
    assert left.sum() == sum(room) - len(taken)


def value(x: Floats, taken: Sequence[int]) -> float:
    return float((x @ x[list(taken)].T).max(axis=1).clip(0).sum(dtype=np.float64)) if len(taken) else 0.0


def test_equal_vectors_are_too_near_at_any_tau() -> None:
    """In floating point the cosine of a unit vector with itself is often a little less than 1."""
    x = np.repeat(in_bunches(40, 37, 4), 2, axis=0)
    assert (np.einsum("ij,ij->i", x, x) < 1).any()
    walked = go_down(lambda at: x[at], np.arange(80), ints(), np.zeros(80, np.int64), ints(80), 1.0)
    assert walked.taken.tolist() == list(range(0, 80, 2))


@pytest.mark.parametrize("seed", range(6))
def test_facility_location_is_plain_greedy_and_near_the_best(seed: int) -> None:
    n, k = 14, 4
    x = in_bunches(n, 5, seed)
    members = np.arange(n)
    found = facilities(lambda at: x[at], members, members, members[:0], k, rng=np.random.default_rng(0))
    plain: list[int] = []
    for _ in range(k):
        plain.append(max((j for j in range(n) if j not in plain), key=lambda j: value(x, [*plain, j])))
    assert value(x, found.tolist()) == pytest.approx(value(x, plain), abs=1e-5)
    best = max(value(x, chosen) for chosen in itertools.combinations(range(n), k))
    assert (1 - 1 / np.e) * best <= value(x, found.tolist()) <= best + 1e-5


def test_facility_location_counts_what_is_taken_already_and_takes_ties_in_order() -> None:
    x = unit([[1, 0], [1, 0.01], [0, 1], [0, 1]])
    take = lambda at: x[at]  # noqa: E731
    rng = np.random.default_rng(0)
    assert facilities(take, ints(0, 1, 2, 3), ints(1, 2, 3), ints(0), 1, rng=rng).tolist() == [2]
    assert facilities(take, ints(0, 1, 2, 3), ints(3, 2), ints(0, 1), 1, rng=rng).tolist() == [3]
    nothing = np.zeros((4, 2), np.float32)
    assert facilities(
        lambda at: nothing[at], ints(0, 1, 2, 3), ints(2, 0, 1), ints(), 2, rng=rng
    ).tolist() == [2, 0]


def test_facility_location_of_a_large_stratum_judges_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diverse, "CELLS", 50 * 300 + 1)
    x = in_bunches(300, 8, 1)
    members = np.arange(300)
    runs = [
        facilities(lambda at: x[at], members, members, ints(), 20, rng=np.random.default_rng(7))
        for _ in range(2)
    ]
    assert runs[0].tolist() == runs[1].tolist()
    assert len(set(runs[0].tolist())) == 20
    chance = np.mean(
        [value(x, np.random.default_rng(i).choice(300, 20, replace=False).tolist()) for i in range(20)]
    )
    assert value(x, runs[0].tolist()) > chance


# ---------------------------------------------------------------- runs made by hand

METRICS = {
    "clear": ("readability", "sample", True),
    "right": ("correctness", "sample", True),
    "rough": ("correctness", "sample", False),
    "sides": ("correctness", "sample", None),
    "whole": ("correctness", "dataset", True),
    "busy": ("visual_complexity", "sample", True),
}

MakeRun = Callable[..., tuple[Run, ScoreTable]]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A finished run of these columns, whose shards of ``per`` records hold these features.

    ``features`` are vectors of each record, by name; None where it has none. ``unreadable`` are rows.
    """
    numbers = itertools.count()

    def make(
        columns: Mapping[str, Sequence[Any]],
        features: Mapping[str, Sequence[Any]] | None = None,
        *,
        unreadable: Sequence[int] = (),
        per: int = 7,
    ) -> tuple[Run, ScoreTable]:
        path = tmp_path / f"run{next(numbers)}"
        n = len(next(iter(columns.values())))
        frame = pl.DataFrame(
            {
                "row": np.arange(n),
                "id": [f"r{i}" for i in range(n)],
                "state": ["unreadable" if i in unreadable else "scored" for i in range(n)],
                **columns,
            },
            strict=False,
        )
        (path / "scores").mkdir(parents=True)
        frame.write_parquet(path / "scores" / "part-00000.parquet")
        for index, start in enumerate(range(0, n, per)):
            rows = [i for i in range(start, min(start + per, n)) if i not in unreadable]
            stored = {}
            for name, of in (features or {}).items():
                pairs = [(k, v) for k, row in enumerate(rows) for v in (of[row] or [])]
                values = (
                    np.array([v for _, v in pairs], np.float32) if pairs else np.empty((0, 0), np.float32)
                )
                stored[name] = Features(values, np.array([k for k, _ in pairs], np.int64))
            (path / "shards").mkdir(exist_ok=True)
            done = Done("f", min(per, n - start), len(rows))
            write_shard(folder(path / "shards", index), done, pa.table({"row": rows}), [], stored)
        card = [
            {"name": name, "principle": p, "level": level, "higher_is_better": better}
            for name, (p, level, better) in METRICS.items()
        ]
        (path / "scorecard.json").write_text(json.dumps({"principles": [{"metrics": card}]}))
        (path / "run.json").write_text(json.dumps({"plan": {"seed": 0}}))
        issues = pl.DataFrame(schema={"row": pl.Int64, "kind": pl.String, "severity": pl.String})
        return Run(path), ScoreTable(pl.scan_parquet(path / "scores" / "part-*.parquet"), issues)

    return make


def chosen(
    made: tuple[Run, ScoreTable],
    selection: Selection,
    *,
    pool: Any = None,
    must: Sequence[int] = (),
    seed: int = 0,
) -> Selected:
    n = len(made[1].collect("row"))
    must_keep = np.isin(np.arange(n), must)
    return select(
        *made, np.ones(n, np.bool_) if pool is None else pool, selection, must_keep=must_keep, seed=seed
    )


def rows(selected: Selected) -> list[int]:
    found: list[int] = np.flatnonzero(selected.kept).tolist()
    return found


# ---------------------------------------------------------------- the order


def test_merit_worked_by_hand(make_run: MakeRun) -> None:
    made = make_run(
        {
            "clear": [1.0, 2.0, 2.0, 4.0],  # mid-ranks 1/8, 1/2, 1/2, 7/8
            "right": [3.0, None, float("nan"), 5.0],  # 1/4, 3/4
            "rough": [9.0, 1.0, None, None],  # lower is better: 1/4, 3/4
            "sides": [5.0, 6.0, 7.0, 8.0],
            "whole": [5.0, 6.0, 7.0, 8.0],
            "busy": [10, 30, None, 20],  # 1/6, 5/6, –, 1/2
        }
    )
    found, notes = merit(*made)
    # The third has no score of correctness: the middle, which here is its rank in readability too.
    quality = [(1 / 8 + 1 / 4) / 2, (1 / 2 + 3 / 4) / 2, (1 / 2 + 1 / 2) / 2, (7 / 8 + 3 / 4) / 2]
    np.testing.assert_allclose(found, np.array(quality) * [1 / 6, 5 / 6, 1 / 2, 1 / 2])
    assert notes == []


def test_merit_of_a_run_without_scores_is_the_middle_and_says_so(make_run: MakeRun) -> None:
    found, notes = merit(*make_run({"other": [1.0, 2.0]}))
    assert found.tolist() == [0.25, 0.25]
    assert [note.split(",")[0] for note in notes] == [
        "this run has no scores of quality",
        "this run has no scores of complexity",
    ]
    found, notes = merit(*make_run({"clear": [1.0, 2.0], "busy": [None, None]}))
    assert found.tolist() == [0.125, 0.375]
    assert len(notes) == 1


def test_a_record_is_not_the_best_for_want_of_scores(make_run: MakeRun) -> None:
    """The last has the best readability and no other score; the fourth is the second best in all."""
    made = make_run({"clear": [1.0, 2, 3, 4, 5], "right": [1.0, 2, 3, 4, None], "busy": [1.0, 2, 3, 4, None]})
    found, _ = merit(*made)
    assert found.argmax() == 3
    assert found[4] == pytest.approx((0.9 + 0.5) / 2 * 0.5)


def test_ties_are_broken_by_the_seed_and_by_nothing_else(make_run: MakeRun) -> None:
    made = make_run({"clear": [1.0] * 40 + [2.0] * 4})
    draws = {seed: rows(chosen(made, Selection(keep="10"), seed=seed)) for seed in range(6)}
    assert draws == {seed: rows(chosen(made, Selection(keep="10"), seed=seed)) for seed in range(6)}
    assert len({tuple(d) for d in draws.values()}) > 1
    assert all({40, 41, 42, 43} <= set(d) for d in draws.values())
    # The tie of two records is the same whatever else is in the pool.
    part = np.arange(44) >= 20
    first = [i for i in rows(chosen(made, Selection(keep="43"))) if i >= 20]
    assert set(rows(chosen(made, Selection(keep="23"), pool=part))) <= {*range(20, 44)}
    assert len(first) in (23, 24)


# ---------------------------------------------------------------- vectors


def test_vectors_are_those_of_the_records_that_were_asked_for(make_run: MakeRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n, unreadable = 40, [0, 6, 7, 13, 39]
    texts = [rng.normal(size=(rng.integers(0, 4), 5)).tolist() for _ in range(n)]
    pictures = [rng.normal(size=(rng.integers(0, 3), 3)).tolist() for _ in range(n)]
    for i in range(14, 21):
        texts[i] = []  # a whole shard without
    texts[-2] = pictures[-2] = []
    other = [[[1.0, 2.0, 3.0, 4.0]] if i == 3 else [] for i in range(n)]
    features = {"response-b": texts, "response-a": other, "picture-m": pictures, "lengths": other}
    made = make_run({"clear": [1.0] * n}, features, unreadable=unreadable)
    flags = np.isin(np.arange(n), unreadable)
    members = np.array([i for i in range(n) if i not in unreadable and i % 3], np.int64)
    found = read_vectors(made[0], flags, members)
    assert isinstance(found, Vectors)
    expected = []
    for i in members:
        halves = []
        for rows_of, width in ((texts[i], 5), (pictures[i], 3)):
            mean = np.mean(rows_of, axis=0) if rows_of else np.zeros(width)
            halves.append(mean / (np.linalg.norm(mean) or 1))
        joint = np.concatenate(halves)
        expected.append(joint / (np.linalg.norm(joint) or 1))
    np.testing.assert_allclose(found.take(np.arange(len(members))), expected, atol=1e-6)
    np.testing.assert_allclose(found.take(ints(5, 2)), np.array(expected)[[5, 2]], atol=1e-6)
    assert not (made[0].path / "features").exists()


def test_of_several_features_the_longest_then_the_widest_serves(make_run: MakeRun) -> None:
    wide, narrow = [[[1.0, 0.0, 0.0]]] * 8, [[[1.0, 0.0]]] * 8
    made = make_run({"clear": [1.0] * 8}, {"picture-a": narrow, "picture-b": wide})
    found = read_vectors(made[0], np.zeros(8, np.bool_), np.arange(8))
    assert isinstance(found, Vectors)
    assert [part.shape for part in found.parts] == [(8, 3)]
    made = make_run({"clear": [1.0] * 8}, {"picture-a": narrow, "picture-b": [*wide[:7], []]})
    found = read_vectors(made[0], np.zeros(8, np.bool_), np.arange(8))
    assert isinstance(found, Vectors)
    assert [part.shape for part in found.parts] == [(8, 2)]


def test_a_vector_that_is_no_number_counts_as_none(make_run: MakeRun) -> None:
    texts = [[[1.0, 0.0]], [[float("nan"), 1.0]], [[float("inf"), 1.0]], [[0.0, 0.0]], [[3e38, 3e38]]]
    made = make_run({"clear": [1.0] * 5}, {"response-a": texts})
    with np.errstate(all="ignore"):
        found = read_vectors(made[0], np.zeros(5, np.bool_), np.arange(5))
    assert isinstance(found, Vectors)
    assert found.take(np.arange(5)).tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]


def test_shards_that_are_not_the_runs_are_not_used(make_run: MakeRun) -> None:
    made = make_run({"clear": [1.0] * 20}, {"response-a": [[[1.0, 0.0]]] * 20})
    flags = np.zeros(20, np.bool_)
    assert isinstance(read_vectors(made[0], flags, np.arange(20)), Vectors)
    assert isinstance(
        read_vectors(made[0], flags[:14], np.arange(14)), Vectors
    )  # a longer run was there before
    assert read_vectors(made[0], flags[:15], np.arange(15)) == "the run's features are gone or another run's"
    flags[3] = True
    assert read_vectors(made[0], flags, np.arange(2)) == "the run's features are gone or another run's"


def test_features_of_two_widths_are_named(make_run: MakeRun) -> None:
    made = make_run({"clear": [1.0] * 14}, {"response-a": [[[1.0, 0.0]]] * 14})
    np.save(made[0].path / "shards" / "00001" / "features" / "response-a.npy", np.zeros((7, 3), np.float32))
    with pytest.raises(RunError, match="response-a differ in width"):
        read_vectors(made[0], np.zeros(14, np.bool_), np.arange(14))


def test_clusters_are_the_planted_ones_and_the_same_for_every_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    x = unit(np.eye(4, 12)[truth] + 0.05 * rng.normal(size=(400, 12)))
    x[17] = 0
    monkeypatch.setattr(vectors, "MOST_CLUSTERS", 4)
    monkeypatch.setattr(vectors, "BLOCK", 64)
    made = Vectors((x,))
    found = []
    for threads in (1, 2, 1):
        with threadpool_limits(threads), threadpool_limits(1, user_api="blas"):
            found.append(clusters(made, 9, seed=3))
    assert all((found[0] == other).all() for other in found)
    assert np.flatnonzero(found[0] == -1).tolist() == [17]
    for c in range(4):
        assert len(set(truth[found[0] == c])) <= 1
    assert set(clusters(made, 3, seed=3)) == {-1, 0, 1, 2}
    monkeypatch.setattr(vectors, "LEARNT_FROM", 25)
    monkeypatch.setattr(vectors, "LEARNT_FROM_LEAST", 0)
    assert len(set(clusters(made, 9, seed=3))) > 2
    assert clusters(Vectors((np.zeros((60, 3), np.float32),)), 9, seed=0).tolist() == [-1] * 60
    assert len(set(clusters(Vectors((np.ones((60, 3), np.float32),)), 9, seed=0))) == 1


def test_few_clusters_of_many_records_are_learnt_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = unit(rng.normal(size=(60, 64))[rng.integers(0, 60, 8_000)] + rng.normal(size=(8_000, 64)))
    centred = unit(x - x.mean(axis=0))

    def explained(seed: int) -> float:
        """The share of the variance that four clusters take away."""
        found = clusters(Vectors((x,)), 4, seed=seed)
        return 1 - sum(float(centred[found == c].var(axis=0).sum()) * np.mean(found == c) for c in range(4))

    many = np.mean([explained(seed) for seed in range(4)])
    monkeypatch.setattr(vectors, "LEARNT_FROM_LEAST", 0)
    few = np.mean([explained(seed) for seed in range(4)])
    assert many > 1.1 * few, many / few


# ---------------------------------------------------------------- whole selections


def test_how_many() -> None:
    def count(keep: str, pool: int) -> int:
        return Selection(keep=keep).count(pool)

    assert [count("7", 100), count("7%", 50), count("20%", 160), count("0.1%", 50), count("100%", 50)] == [
        7,
        4,
        32,
        1,
        50,
    ]
    assert count("12.5%", 4) == 1
    assert count("20%", 0) == 0
    assert count("29%", 100) == 29  # and not 28, as 0.29 * 100 is in binary


@pytest.mark.parametrize(
    "keep", ["0", "-1", "0%", "101%", "100.1%", "1.5", "20 %", "1e3", "many", "", "%", "٢", "9" * 30]
)
def test_a_number_that_makes_no_sense_is_refused(keep: str) -> None:
    with pytest.raises(UsageError, match="expected a number of 1 or more, or a share such as 20%"):
        Selection(keep=keep)


def test_other_options_that_make_no_sense_are_refused(make_run: MakeRun) -> None:
    for more, message in (
        ({"tau": 0}, "tau=0"),
        ({"tau": 1.1}, "tau=1.1"),
        ({"tau": float("nan")}, "tau=nan"),
        ({"quotas": {"a": -1}}, "quota of a is -1"),
        ({"diversity": "gredy"}, "did you mean greedy"),
        ({"quotas": {"a": 1}, "balance": "source"}, "quotas are per task"),
    ):
        with pytest.raises(UsageError, match=message):
            Selection(keep="5", **more)
    made = make_run({"task": ["a", "b", None], "clear": [1.0, 2.0, 3.0], "parts": [[1], [2], [3]]})
    for selection, kind, message in (
        (Selection(), UsageError, "give keep, balance or quotas"),
        (Selection(tau=0.5, diversity="none"), UsageError, "give keep, balance or quotas"),
        (Selection(balance="tasks"), UnknownName, "did you mean task"),
        (Selection(balance="clear"), UsageError, "balance=clear: its values make no groups"),
        (Selection(balance="parts"), UsageError, "balance=parts: its values make no groups"),
        (Selection(quotas={"c": 3}), UnknownName, "no task of this run is called 'c'; known: a, b"),
    ):
        with pytest.raises(kind, match=message):
            chosen(made, selection)
    with pytest.raises(UsageError, match="keep 1 of 3 records is 1, but 2 must be kept"):
        chosen(made, Selection(keep="1"), must=[0, 2])


def test_a_column_of_too_many_groups_is_refused(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlitqc.filtering.selection.MOST_GROUPS", 3)
    made = make_run({"clear": [1.0] * 4, "source": [None] * 4})
    assert chosen(made, Selection(balance="source", keep="2")).strata[0]["task"] is None
    with pytest.raises(UnknownName, match="no task of this run is called 'a'"):
        chosen(made, Selection(quotas={"a": 1}))
    with pytest.raises(UsageError, match="id has 4 different values, more than 3"):
        chosen(made, Selection(balance="id", keep="2"))


def test_a_small_pool_by_hand(make_run: MakeRun) -> None:
    """Tasks a (6), b (3) and none (1); the score says the order; no vectors."""
    made = make_run({"task": ["a"] * 6 + ["b"] * 3 + [None], "clear": [6.0, 5, 4, 3, 2, 1, 3, 2, 1, 9]})
    half = chosen(made, Selection(keep="50%"))
    assert rows(half) == [0, 1, 2, 6, 9]  # 3, 1.5 → 1 and 0.5 → 1, of which one is sure
    assert half.strata == [
        {"task": "a", "cluster": None, "pool": 6, "quota": 3, "kept": 3},
        {"task": "b", "cluster": None, "pool": 3, "quota": 1, "kept": 1},
        {"task": None, "cluster": None, "pool": 1, "quota": 1, "kept": 1},
    ]
    assert half.why(ints(0, 3, 8)) == [
        None,
        "rank 4 of 6 in task a, of which 3 were kept",
        "rank 3 of 3 in task b, of which 1 was kept",
    ]
    assert half.notes[0].startswith("this run has no scores of complexity")
    assert half.notes[1:] == [
        "this run has no vectors of responses or pictures: strata are tasks only, and records are not compared with "
        "each other"
    ]
    assert rows(chosen(made, Selection(keep="7", balance="task"))) == [0, 1, 2, 6, 7, 8, 9]
    median = chosen(made, Selection(balance="task"))
    assert rows(median) == [0, 1, 2, 6, 7, 8, 9]
    assert median.why(ints(4)) == ["task a has its 3; rank 5 of 6 in task a, of which 3 were kept"]
    capped = chosen(made, Selection(keep="8", quotas={"a": 2}))
    assert rows(capped) == [0, 1, 6, 7, 8, 9]
    assert capped.notes[-1] == "the quotas leave room for 6 of the 8 records"
    assert rows(chosen(made, Selection(quotas={"a": 1, "b": 0}))) == [0, 9]
    few = chosen(made, Selection(keep="2"))
    assert rows(few) == [0, 6]
    assert few.notes[-1] == "2 records are fewer than one for each task, of which there are 3"
    for keep in ("10", "100%", "9999"):
        every = chosen(made, Selection(keep=keep))
        assert every.kept.all()
        assert every.notes[-1] == "there are no more than 10 records to select from, and all are kept"


def test_a_run_without_tasks_is_one_group(make_run: MakeRun) -> None:
    made = make_run({"clear": [1.0, 4.0, 3.0, 2.0]})
    two = chosen(made, Selection(keep="2"))
    assert rows(two) == [1, 2]
    assert two.why(ints(0, 1)) == ["rank 4 of 4 in all records, of which 2 were kept", None]


def test_records_that_must_be_kept(make_run: MakeRun) -> None:
    made = make_run({"task": ["a"] * 6 + ["b"] * 2, "clear": [6.0, 5, 4, 3, 2, 1, 2, 1]}, unreadable=[2])
    pool = np.isin(np.arange(8), [0, 1, 2, 3, 6, 7])
    found = chosen(made, Selection(keep="3"), pool=pool, must=[2, 4, 5])
    assert rows(found) == [4, 5, 6]  # of 3 two are taken, both outside the pool; b has the largest need
    over = chosen(made, Selection(quotas={"a": 1}), must=[4, 5])
    assert rows(over) == [4, 5, 6, 7]
    assert over.notes[-1] == "task a has 2 records that must be kept, more than its 1"
    assert over.why(ints(0, 2)) == ["rank 1 of 5 in task a, of which 2 were kept", None]
    nothing = chosen(made, Selection(keep="5"), pool=np.zeros(8, np.bool_))
    assert not nothing.kept.any()
    assert nothing.strata == []
    assert nothing.why(ints(0, 1)) == [None, None]
    assert nothing.notes == ["there is nothing to select from: the rules keep no record"]
    # A share is no number that somebody counted: what must be kept is kept, also where the rules keep nothing.
    assert rows(chosen(made, Selection(keep="1%"), pool=np.zeros(8, np.bool_), must=[4, 5])) == [4, 5]
    share = chosen(made, Selection(keep="1%"), must=[4, 5])
    assert rows(share) == [4, 5]
    assert "keep 1% of 7 records is 1, but 2 must be kept" in share.notes


def test_balance_by_another_column(make_run: MakeRun) -> None:
    made = make_run(
        {"source": ["web"] * 6 + ["book"] * 2, "task": ["a", "b"] * 4, "clear": [6.0, 5, 4, 3, 2, 1, 2, 1]}
    )
    found = chosen(made, Selection(keep="4", balance="source"))
    assert rows(found) == [0, 1, 6, 7]
    assert found.why(ints(5)) == ["rank 6 of 6 in source web, of which 2 were kept"]


def near(cosine: float) -> list[float]:
    return [cosine, float(np.sqrt(1 - cosine**2)), 0.0, 0.0]


def test_a_record_too_near_to_a_better_one_gives_its_place_to_others(make_run: MakeRun) -> None:
    """Of task a, 1 repeats 0 and 2 does almost; what a cannot give b gives."""
    texts = [[near(1)], [near(1)], [near(0.95)], [[0, 0, 1, 0]], [[0, 0, 0, 1]], [[0, 0, 0, -1]], []]
    columns = {"task": ["a", "a", "a", "b", "b", "b", "b"], "clear": [7.0, 6, 5, 4, 3, 2, 1]}
    made = make_run(columns, {"response-x": texts})
    found = chosen(made, Selection(keep="5"))
    assert rows(found) == [0, 3, 4, 5, 6]
    assert found.strata == [
        {"task": "b", "cluster": None, "pool": 4, "quota": 3, "kept": 4},
        {"task": "a", "cluster": None, "pool": 3, "quota": 2, "kept": 1},
    ]
    assert found.why(np.arange(3)) == [
        None,
        "cosine 1.00 with r0 (row 0), which ranks higher",
        "cosine 0.95 with r0 (row 0), which ranks higher",
    ]
    assert found.notes[1:] == []
    short = chosen(made, Selection(keep="6"))
    assert rows(short) == rows(found)
    assert (
        short.notes[-1] == "1 fewer than 6: what is left is too near (cosine 0.9 or more) to what was taken"
    )
    assert rows(chosen(made, Selection(keep="5", tau=0.96))) == [0, 2, 3, 4, 5]
    assert rows(chosen(made, Selection(keep="5", diversity="none"))) == [0, 1, 3, 4, 5]
    must = chosen(made, Selection(keep="5"), must=[2])
    assert rows(must) == [2, 3, 4, 5, 6]
    assert must.why(ints(0)) == ["cosine 0.95 with r2 (row 2), which must be kept"]
    assert 1 not in rows(chosen(made, Selection(keep="5", diversity="facility_location")))


def test_a_quota_is_not_filled_by_another_task_beyond_its_own(make_run: MakeRun) -> None:
    texts = [[near(1)]] * 3 + [[[0, 0, 1, 0]], [[0, 0, 0, 1]], [[0, 0, 0, -1]]]
    made = make_run({"task": ["a"] * 3 + ["b"] * 3, "clear": [6.0, 5, 4, 3, 2, 1]}, {"response-x": texts})
    found = chosen(made, Selection(keep="5", quotas={"b": 2}))
    assert rows(found) == [0, 3, 4]
    assert found.why(ints(5)) == ["task b has its 2; rank 3 of 3 in task b, of which 2 were kept"]
    assert "2 fewer than 5" in found.notes[-1]


@pytest.fixture
def bunched(make_run: MakeRun) -> tuple[Run, ScoreTable]:
    """150 records of three tasks around 25 meanings, with pictures for two thirds and two unreadable."""
    rng = np.random.default_rng(5)
    x = in_bunches(150, 12, 5, spread=0.15)
    pictures = [[p.tolist()] if i % 3 else [] for i, p in enumerate(in_bunches(150, 6, 6, spread=0.1))]
    tasks = rng.choice(["a", "b", "c"], 150, p=[0.7, 0.2, 0.1]).tolist()
    tasks[3] = None
    columns = {"task": tasks, "clear": rng.normal(size=150).round(1), "busy": rng.normal(size=150).round(1)}
    return make_run(
        columns, {"response-x": [[v.tolist()] for v in x], "picture-y": pictures}, unreadable=[10, 90]
    )


KEEPS = st.one_of(st.integers(8, 200).map(str), st.integers(6, 100).map(lambda p: f"{p}%"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=KEEPS,
    diversity=st.sampled_from(["greedy", "facility_location", "none"]),
    balance=st.sampled_from([None, "task"]),
    quotas=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 40)),
    dropped=st.sets(st.integers(0, 149), max_size=60),
    must=st.sets(st.integers(0, 149), max_size=5),
    seed=st.integers(0, 2**40),
)
def test_what_every_selection_holds(bunched: tuple[Run, ScoreTable], **asked: Any) -> None:
    pool = ~np.isin(np.arange(150), list(asked["dropped"]))
    selection = Selection(*(asked[name] for name in ("keep", "balance", "quotas", "diversity")))
    must = np.isin(np.arange(150), list(asked["must"])) & ~np.isin(np.arange(150), [10, 90])
    found = chosen(bunched, selection, pool=pool, must=sorted(asked["must"]), seed=asked["seed"])
    readable = pool & ~np.isin(np.arange(150), [10, 90])
    assert found.kept.sum() <= selection.count(int(readable.sum()))
    assert not (found.kept & ~(readable | must)).any()
    assert (found.kept | ~must).all()
    again = chosen(bunched, selection, pool=pool, must=sorted(asked["must"]), seed=asked["seed"])
    assert (again.kept == found.kept).all()
    assert again.strata == found.strata
    why = found.why(np.arange(150))
    assert [reason is not None for reason in why] == ((readable | must) & ~found.kept).tolist()
    assert again.why(np.arange(150)[::-1]) == why[::-1]
    assert sum(s["pool"] for s in found.strata) == (readable | must).sum()
    assert sum(s["kept"] for s in found.strata) == found.kept.sum()
    tasks = bunched[1].collect("task")["task"].to_numpy()
    for task, most in selection.quotas.items():
        assert np.count_nonzero(found.kept & (tasks == task)) <= max(
            most, np.count_nonzero(must & (tasks == task))
        )
    if found.kept.sum() < min(selection.count(int(readable.sum())), (readable | must).sum()):
        assert any("leave room for" in note or "fewer than" in note for note in found.notes)


def test_no_two_kept_records_of_a_cluster_are_too_near(bunched: tuple[Run, ScoreTable]) -> None:
    unreadable = np.isin(np.arange(150), [10, 90])
    members = np.flatnonzero(~unreadable)
    found = read_vectors(bunched[0], unreadable, members)
    assert isinstance(found, Vectors)
    x, cluster = found.take(np.arange(148)), clusters(found, 74 // (4 * 4), seed=0)
    half = chosen(bunched, Selection(keep="50%", tau=0.8))
    kept = half.kept[members]
    cosines = np.triu(x @ x.T, 1)
    together = np.outer(kept, kept) & (cluster[:, None] == cluster)
    assert cosines[together].max() < 0.8
    loose = chosen(bunched, Selection(keep="50%", diversity="none")).kept[members]
    assert cosines[np.outer(loose, loose) & (cluster[:, None] == cluster)].max() > 0.8
    assert {s["cluster"] for s in half.strata} == set(cluster.tolist())
    said = [reason for reason in half.why(members) if reason and reason.startswith("cosine")]
    assert said
    assert all(
        "task" in reason or "cosine 0.8" in reason or "cosine 0.9" in reason or "cosine 1.0" in reason
        for reason in said
    )


@pytest.mark.parametrize("diversity", ["greedy", "facility_location", "none"])
def test_every_reason_is_true(bunched: tuple[Run, ScoreTable], diversity: Diversity) -> None:
    """Each reason of 116 is taken apart and counted anew from scores, vectors and what was kept."""
    must = [7, 33]
    found = chosen(bunched, Selection(keep="32", diversity=diversity, tau=0.7, quotas={"b": 6}), must=must)
    unreadable = np.isin(np.arange(150), [10, 90])
    readable = np.flatnonzero(~unreadable)
    assert found.kept[must].all()
    read = read_vectors(bunched[0], unreadable, readable)
    assert isinstance(read, Vectors)
    x = np.zeros((150, 18), np.float32)
    x[readable] = read.take(np.arange(148))
    label = np.full(150, -1)
    label[readable] = clusters(read, 2, seed=0)
    assert {s["cluster"] for s in found.strata} == {0, 1}
    merits, _ = merit(*bunched)
    tasks = [task or "no task" for task in bunched[1].collect("task")["task"]]
    strata = {i: (tasks[i], label[i]) for i in readable.tolist()}
    near = 0
    for i, reason in enumerate(found.why(np.arange(150))):
        assert (reason is None) == bool(unreadable[i] or found.kept[i])
        if reason is None:
            continue
        if told := re.fullmatch(r"cosine ([0-9.]+) with r(\d+) \(row (\d+)\), which (.*)", reason):
            near += 1
            twin = int(told[3])
            assert told[2] == told[3]
            assert found.kept[twin]
            assert label[twin] == label[i]
            assert x[i] @ x[twin] >= 0.7 - 1e-6
            assert float(told[1]) == pytest.approx(x[i] @ x[twin], abs=0.0051)
            assert told[4] in ("must be kept", "ranks higher", "was taken before it")
            assert (told[4] == "must be kept") == (twin in must)
            assert told[4] != "ranks higher" or merits[twin] >= merits[i]
            continue
        told = re.fullmatch(
            r"(task b has its 6; )?rank (\d+) of (\d+) in (?:task )?(.+), cluster (\d), of which (\d+) w\w+ kept",
            reason,
        )
        assert told, reason
        assert strata[i] == (told[4], int(told[5]))
        inside = [j for j in strata if strata[j] == strata[i]]
        assert int(told[3]) == len(inside)
        assert int(told[6]) == sum(found.kept[inside])
        better = sum(merits[j] > merits[i] for j in inside)
        assert better < int(told[2]) <= sum(merits[j] >= merits[i] for j in inside)
        assert bool(told[1]) == (tasks[i] == "b")
    assert bool(near) == (diversity == "greedy")


def test_a_small_number_has_few_clusters_and_the_shares_of_the_pool(bunched: tuple[Run, ScoreTable]) -> None:
    tasks = bunched[1].collect("task")["task"].to_numpy()
    unreadable = np.isin(np.arange(150), [10, 90])
    for keep in (16, 32, 48, 100):
        found = chosen(bunched, Selection(keep=str(keep)))
        assert len(found.strata) <= keep / 4
        for task in ("a", "b", "c"):
            exact = keep * np.mean(tasks[~unreadable] == task)
            assert abs(np.count_nonzero(found.kept & (tasks == task)) - exact) < 1.5


def test_records_without_a_vector_are_compared_with_none(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be millions, and each is like no other."""
    texts = [[v.tolist()] if i < 40 else [] for i, v in enumerate(in_bunches(100, 8, 2))]
    made = make_run({"task": ["a"] * 100, "clear": np.arange(100.0)}, {"response-x": texts})
    asked = []

    def spy(vectors: Vectors, members: Ints) -> Floats:
        asked.extend(members.tolist())
        found: Floats = take(vectors, members)
        return found

    take = Vectors.take
    both: list[Diversity] = ["greedy", "facility_location"]
    for diversity in both:
        with monkeypatch.context() as patch:
            labels = np.where(np.arange(100) < 40, 0, -1)
            patch.setattr("vlitqc.filtering.selection.clusters", lambda *_, _is=labels, **__: _is)
            patch.setattr(Vectors, "take", spy)
            found = chosen(made, Selection(keep="20", diversity=diversity))
        assert rows(found)[-12:] == [*range(88, 100)]
        assert asked
        assert max(asked) < 40


def test_a_selection_is_the_same_for_every_number_of_threads(bunched: tuple[Run, ScoreTable]) -> None:
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(chosen(bunched, Selection(keep="30%"), seed=11))
    assert (found[0].kept == found[1].kept).all()


def test_what_is_asked_for_can_be_changed(bunched: tuple[Run, ScoreTable]) -> None:
    asked = replace(Selection(), keep="30%", diversity="none")
    assert chosen(bunched, asked).kept.sum() == 44  # of 148


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(0, 70), st.integers(0, 9))
def test_the_control_is_of_the_pool_and_of_the_size(pool: list[bool], n: int, seed: int) -> None:
    flags = np.array(pool, np.bool_)
    drawn = random_control(flags, n, seed=seed)
    assert drawn.sum() == min(n, flags.sum())
    assert not (drawn & ~flags).any()
    assert (drawn == random_control(flags, n, seed=seed)).all()


def test_the_control_does_not_follow_the_ties_of_the_selection(make_run: MakeRun) -> None:
    """Where all are equal a selection is chance too: of 100 in 400 the two have 25 in common."""
    made = make_run({"task": ["a"] * 400}, per=400)
    everything = np.ones(400, np.bool_)
    common = [
        (
            chosen(made, Selection(keep="100"), seed=seed).kept & random_control(everything, 100, seed=seed)
        ).sum()
        for seed in range(30)
    ]
    assert 22 < np.mean(common) < 28


def test_the_control_is_uniform() -> None:
    pool = np.arange(30) % 3 > 0
    times = sum(random_control(pool, 5, seed=seed).astype(int) for seed in range(4_000))
    expected = 4_000 * 5 / 20
    assert (
        (times[pool] - expected) ** 2 / expected
    ).sum() * 20 / 15 / 19 < 2.0  # chi-square of 19 degrees, p ≈ 0.005
    assert not times[~pool].any()


def test_a_real_run_has_vectors_where_a_selection_looks_for_them(make_data: Callable[..., Path]) -> None:
    lines: list[Any] = []
    for i in range(60):
        text = (
            f"The {('cat', 'dog', 'ship', 'tower')[i % 4]} number {i} is {('red', 'blue', 'green')[i % 3]}."
        )
        turns = [
            {"from": "human", "value": "What is it?"},
            {"from": "gpt", "value": text if i % 10 else "It is a lamp."},
        ]
        lines.append({"id": f"r{i}", "conversations": turns})
    lines.insert(20, b'{"id": "cut", "conversations": [')
    run = score(make_data(lines=lines), "lite", metrics=["response_diversity"], report=False)
    found = chosen((run, ScoreTable.of(run)), Selection(keep="50%"))
    assert found.kept.sum() <= 30
    assert not found.kept[20]
    lamps = [i if i < 20 else i + 1 for i in range(0, 60, 10)]
    assert found.kept[lamps].sum() == 1
    assert not any("no vectors" in note for note in found.notes)
    assert max(s["cluster"] for s in found.strata) > 0
