"""The composition: counts add up, correlations and curves are those of the definitions, odd data breaks nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import false_discovery_control, rankdata, spearmanr

from vlitqc.analysis.diversity import expected_clusters, rarefaction
from vlitqc_reports import composition
from vlitqc_reports.composition import Composition


@dataclass
class Run:
    """The part of a run that the composition reads."""

    path: Path
    columns: dict[str, Any] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 7

    @property
    def scorecard(self) -> dict[str, Any]:
        numeric = [name for name in self.columns if name not in self.details]
        metrics = [
            {"name": name, "title": name.upper(), "details": self.details.get(name, {}), "n_scored": self.n}
            for name in [*numeric, *self.details]
        ]
        return {"principles": [{"metrics": metrics}], "seed": self.seed}

    @property
    def n(self) -> int:
        return max((len(values) for values in self.columns.values()), default=0)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        names = list(self.columns) if columns is None else columns
        return pa.table({name: pa.array(self.columns[name], from_pandas=True) for name in names})

    def take(self, rows: Sequence[int]) -> pa.Table:
        return self.table().take(pa.array(rows, pa.int64()))


def built(run: Run) -> Composition:
    return composition.build(run)  # type: ignore[arg-type]


def kept(path: Path, **features: Any) -> None:
    (path / "features").mkdir(exist_ok=True)
    for name, values in features.items():
        np.save(path / "features" / f"{name}.npy", np.asarray(values, np.float32))


def test_a_run_without_the_metric_says_so(tmp_path: Path) -> None:
    found = built(Run(tmp_path))
    assert found.reason == "not measured in this run"
    assert (found.facts, found.tallies, found.growth, found.sizes, found.correlations) == (
        (),
        (),
        (),
        None,
        None,
    )


def test_correlations_are_spearmans_over_the_records_that_have_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=300)
    b = np.where(rng.random(300) < 0.3, np.nan, np.round(a + rng.normal(size=300), 1))
    c = np.where(rng.random(300) < 0.5, np.nan, rng.normal(size=300))
    constant = np.ones(300)
    few = np.where(np.arange(300) < 5, a, np.nan)
    found = built(Run(tmp_path, {"a": a, "b": b, "c": c, "constant": constant, "few": few})).correlations
    assert found is not None
    assert found.titles == ("A", "B", "C")
    pairs = {(pair.first, pair.second): pair for row in found.rows for pair in row}
    for (x, y), values in {("A", "B"): (a, b), ("A", "C"): (a, c), ("B", "C"): (b, c)}.items():
        both = np.isfinite(values[0]) & np.isfinite(values[1])
        pair = pairs[x, y]
        assert pair.n == both.sum()
        assert pair.rho == pytest.approx(spearmanr(values[0][both], values[1][both]).statistic, abs=1e-12)
        assert pair.rho is not None and pair.low < pair.rho < pair.high
    assert not pairs["A", "B"].chance
    assert pairs["A", "C"].chance
    assert pairs["A", "C"].words.startswith("(")
    assert "A and B" in found.words
    assert found.records == f"{pairs['B', 'C'].n} to {pairs['A', 'B'].n} records a pair"


def test_ranks_and_corrected_probabilities_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 30, 500):
        values = rng.integers(0, 20, n).astype(np.float64)
        assert composition._ranks(values).tolist() == rankdata(values).tolist()
        chances = rng.random(n) ** 4
        chances[: n // 3] = chances[0]
        np.testing.assert_allclose(
            composition._adjusted(chances), false_discovery_control(chances), rtol=1e-12
        )


@pytest.mark.parametrize("n", [10, 40, 1000])
def test_the_probability_of_chance_is_near_that_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for share in (0.0, 0.3, 0.6, 1.0):
        x = rng.normal(size=n)
        found = spearmanr(x, share * x + (1 - share) * rng.normal(size=n))
        assert composition._by_chance(found.statistic, n) == pytest.approx(found.pvalue, abs=0.01)


def test_the_interval_of_a_correlation_holds_the_truth(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    held = 0
    for _ in range(300):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=80).T
        _, (pair,) = composition._pairs([("x", x), ("y", y)])
        held += pair.low <= true <= pair.high
    assert 270 <= held <= 299


def test_a_pair_that_no_record_has_is_told_so(tmp_path: Path) -> None:
    half = np.arange(100) < 50
    values = np.random.default_rng(6).normal(size=100)
    columns = {"a": np.where(half, values, np.nan), "b": np.where(half, np.nan, values)}
    found = built(Run(tmp_path, columns)).correlations
    assert found is not None
    assert [(pair.words, pair.n) for pair in found.rows[1]] == [("–", 0)]
    assert found.words.startswith("No correlation")


def test_equal_metrics_correlate_fully(tmp_path: Path) -> None:
    a = np.arange(50.0)
    found = built(Run(tmp_path, {"a": a, "b": -a, "c": a * 2})).correlations
    assert found is not None
    assert [pair.words for row in found.rows for pair in row] == ["−1.00", "1.00", "−1.00"]
    assert "count the same thing twice" in found.words


def test_many_records_are_drawn_with_the_runs_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "RANKED", 100)
    rng = np.random.default_rng(2)
    columns = {"a": rng.normal(size=1000), "b": rng.normal(size=1000)}
    first, again, other = (built(Run(tmp_path, columns, seed=s)).correlations for s in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert first.rows == again.rows != other.rows
    assert first.rows[1][0].n == 100
    assert "random draw of 100 records" in first.drawn


def test_lengths_are_counted_in_bins_of_which_two_make_a_doubling(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(0, 5000, (2000, 2))
    words[:7, 1] = 0
    kept(tmp_path, lengths=words)
    details = {"instruction_words": {"p5": 1.0, "p50": 3.0}, "response_words": {}, "turns": {"1": 2000}}
    asked, answered = built(Run(tmp_path, details={"composition": details})).lengths
    for found, column in ((asked, words[:, 0]), (answered, words[:, 1])):
        edges, counts = found.histogram["edges"], found.histogram["counts"]
        assert found.empty == (column == 0).sum()
        assert sum(counts) + found.empty == 2000
        assert counts[-1] > 0
        assert all(b / a == pytest.approx(2) for a, b in zip(edges, edges[2:], strict=False) if a > 1)
        for low, high, n in zip(edges, edges[1:], counts, strict=False):
            assert n == ((column >= low) & (column < high)).sum()
    assert (asked.median, answered.median) == (3.0, None)


def test_every_picture_is_in_one_bin(tmp_path: Path) -> None:
    sizes = np.random.default_rng(4).integers(20, 4000, (3000, 2))
    kept(tmp_path, sizes=sizes)
    found = built(Run(tmp_path, details={"composition": {"turns": {"1": 1}}})).sizes
    assert found is not None
    assert sum(n for _, _, n in found.bins) == 3000
    for column, row, n in found.bins[:50]:
        wide = (sizes[:, 0] >= found.edges[column]) & (sizes[:, 0] < found.edges[column + 1])
        high = (sizes[:, 1] >= found.edges[row]) & (sizes[:, 1] < found.edges[row + 1])
        assert n == (wide & high).sum()
    shorter = sizes.min(axis=1)
    sides = dict(found.sides.rows)
    assert sides["under 64 px"] == (shorter < 64).sum()
    assert sides["224 to 335 px"] == ((shorter >= 224) & (shorter < 336)).sum()
    assert sides["2,048 px and more"] == (shorter >= 2048).sum()
    assert sum(sides.values()) == 3000


def test_pictures_of_one_size_need_no_plot(tmp_path: Path) -> None:
    kept(tmp_path, sizes=[[336, 336]] * 9)
    found = built(Run(tmp_path, details={"composition": {"turns": {"1": 1}}})).sizes
    assert found is not None
    assert (found.bins, found.words) == ((), "All 9 pictures are 336 × 336 pixels.")


def test_the_curve_of_tasks_is_rarefaction_and_leaves_out_the_untagged(tmp_path: Path) -> None:
    tasks = {"a": 50, "b": 20, "c": 1, "other": 400}
    details = {"tasks": tasks, "chao1": 3.5, "coverage": 0.986}
    (found,) = built(Run(tmp_path, details={"task_diversity": details})).growth
    assert (found.points[0], found.points[-1]) == ((0.0, 0.0), (471.0, 3.0))
    for m, kinds in found.points:
        assert kinds == pytest.approx(expected_clusters([50, 20, 1], 471, int(m), 1))
    assert found.limit == ("at least 3.50 (Chao1)", 3.5)
    assert "98.6%" in found.words
    assert found.words.startswith("A task counts that occurs; “other” is none.")


def test_the_curve_of_tasks_ends_at_the_metrics_value(tmp_path: Path) -> None:
    details = {"tasks": {"a": 50, "b": 2, "c": 1, "other": 4}, "at_least": 2}
    (found,) = built(Run(tmp_path, details={"task_diversity": details})).growth
    assert found.points[-1] == (57.0, pytest.approx(2.0))
    assert found.words.startswith("A task counts that has 2 instructions; “other” is none.")
    rare = {"tasks": {"a": 1, "b": 1}, "at_least": 2}
    assert built(Run(tmp_path, details={"task_diversity": rare})).growth == ()


def test_a_curve_is_fine_where_it_bends(tmp_path: Path) -> None:
    (found,) = built(
        Run(tmp_path, details={"task_diversity": {"tasks": {f"t{i}": 50_000 for i in range(20)}}})
    ).growth
    early = [kinds for m, kinds in found.points if 0 < m <= 100]
    assert len(early) >= 6
    assert early[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"a": 500, "b": 500}, "is flat"),
        ({f"t{i}": 1 for i in range(20)}, "still rises"),
        ({f"t{i}": 1 for i in range(4)}, "4 tasks are too few to tell"),
    ],
)
def test_the_curve_is_told_in_words(tmp_path: Path, tasks: dict[str, int], words: str) -> None:
    (found,) = built(Run(tmp_path, details={"task_diversity": {"tasks": tasks}})).growth
    assert words in found.words


def test_the_curve_of_different_samples_counts_groups_and_single_ones(tmp_path: Path) -> None:
    groups = [0, 0, 0, 1, 1, *[None] * 15]
    run = Run(tmp_path, {"duplicate_group": groups}, {"duplicates": {}})
    (found,) = built(run).growth
    sizes = [3, 2, *[1] * 15]
    for m, different in found.points:
        assert different == pytest.approx(rarefaction(sizes, int(m)))
    assert "Of 20 samples 17 are different" in found.words


def test_sources_are_shown_where_there_are_several(tmp_path: Path) -> None:
    one = built(Run(tmp_path, {"source": ["a"] * 4}))
    two = built(Run(tmp_path, {"source": ["a", "b", "a", None]}))
    assert [tally.name for tally in one.tallies] == []
    assert [(tally.name, tally.rows) for tally in two.tallies] == [("sources", (("a", 2.0), ("b", 1.0)))]


def test_many_kinds_are_summed_up_in_one_row(tmp_path: Path) -> None:
    languages = {f"l{i:02}": i for i in range(1, 31)}
    turns = {str(i): 100 - i for i in range(1, 10)}
    found = built(Run(tmp_path, details={"composition": {"languages": languages, "turns": turns}}))
    by_name = {tally.name: tally for tally in found.tallies}
    said = by_name["languages"]
    assert (said.rest, len(said.rows)) == ("18 others", 13)
    assert sum(n for _, n in said.rows) == sum(languages.values())
    assert [label for label, _ in by_name["turns"].rows] == list(turns)


@pytest.mark.parametrize(
    "odd", ["text", 3, [1], {"x": "y"}, {"a": float("nan")}, {"a": -1}, {"m": [1], "clusters": ["x"]}]
)
def test_odd_details_break_nothing(tmp_path: Path, odd: Any) -> None:
    keys = (
        "tasks",
        "turns",
        "languages",
        "resolution",
        "instruction_words",
        "curve",
        "chao1",
        "text_only_share",
    )
    names = ("composition", "task_diversity", "response_diversity", "visual_semantic_diversity", "duplicates")
    found = built(Run(tmp_path, details={name: dict.fromkeys(keys, odd) for name in names}))
    assert found.tallies == ()
    assert found.growth == ()
