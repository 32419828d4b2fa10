"""What the data set is made of: tasks, languages, turns, lengths, sizes of pictures, and what more data would add.

Everything here is counted from columns and memory-mapped features of the run, so that millions of records fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.analysis.diversity import expected_clusters, known_kinds
from vlitqc.errors import RunError
from vlitqc_reports import wording
from vlitqc_reports.source import ReportableRun, is_numeric

RANKED = 200_000
"""Of more records than this the correlations are of a random draw."""

_LEAST_PAIRS = 10
_CHANCE = 0.05
_STRONG, _CLEAR = 0.7, 0.4
_ROWS, _TASKS = 12, 40
_BINS = 22
_POINTS = 24
_SIDES = (0, 64, 224, 336, 512, 1024, 2048)
_USUAL = (192, 640)
_BLOCK = 1 << 20
_FEW = 5
"""Fewer kinds than this say nothing of how many more there are."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by kind, the largest first or in order of a number; ``rest`` names the row of those left out."""

    name: str
    title: str
    of: str
    rows: tuple[tuple[str, float], ...]
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of the instructions or responses: a histogram by ratios, and how many have none."""

    name: str
    title: str
    histogram: Mapping[str, Any]
    median: float | None
    empty: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Width against height: edges in pixels, and ``(column, row, n)`` of each bin with a picture in it."""

    n: int
    edges: tuple[float, ...]
    bins: tuple[tuple[int, int, int], ...]
    sides: Tally
    words: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Spearman's correlation of two metrics over the records that have both; None where it cannot be told.

    ``chance``: after Benjamini and Hochberg's correction it may be none.
    """

    first: str
    second: str
    rho: float | None
    n: int
    low: float = math.nan
    high: float = math.nan
    chance: bool = False

    @property
    def words(self) -> str:
        """The number as a cell of the heat map shows it: in brackets where it may be chance."""
        if self.rho is None:
            return "–"
        number = wording.number(self.rho, 2)
        return f"({number})" if self.chance else number

    @property
    def interval(self) -> str:
        """The 95% interval."""
        decimals = wording.span_decimals(self.low, self.high) or 2
        return wording.span(self.low, self.high, min(3, max(2, decimals)))

    @property
    def told(self) -> str:
        """The pair in full."""
        of = f"{self.first} and {self.second}"
        if self.rho is None:
            return f"{of}: not told by {wording.count(self.n)} records"
        return (
            f"{of}: {wording.number(self.rho, 2)}, 95% interval {self.interval}, "
            f"{wording.count(self.n)} records"
        )


@dataclass(frozen=True, slots=True)
class Correlations:
    """Every metric with every one before it; row i has i cells."""

    titles: tuple[str, ...]
    rows: tuple[tuple[Pair, ...], ...]
    words: str
    drawn: str

    @property
    def records(self) -> str:
        """How many records stand behind a pair."""
        counts = [pair.n for row in self.rows for pair in row]
        low, high = min(counts), max(counts)
        few, many = wording.count(low), wording.count(high)
        return f"{few} records a pair" if low == high else f"{few} to {many} records a pair"

    @property
    def cells(self) -> list[list[tuple[str, float | None, str]]]:
        """What ``charts.correlations`` takes."""
        return [[(pair.words, pair.rho, pair.told) for pair in row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Growth:
    """A rarefaction curve: how many kinds (``up``) to expect among so many random samples (``across``)."""

    name: str
    title: str
    across: str
    up: str
    points: tuple[tuple[float, float], ...]
    words: str
    limit: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Composition:
    """Everything that the part "Composition" shows. ``reason`` says why the metric of that name has no value."""

    reason: str | None
    facts: tuple[tuple[str, str], ...]
    tallies: tuple[Tally, ...]
    lengths: tuple[Lengths, ...]
    spread: tuple[tuple[str, Mapping[str, float]], ...]
    sizes: Sizes | None
    correlations: Correlations | None
    growth: tuple[Growth, ...]


def build(run: ReportableRun) -> Composition:
    """The composition of a run, from its scorecard, its columns and its features; parts without data are empty."""
    metrics = {m["name"]: m for p in run.scorecard["principles"] for m in p["metrics"]}
    metric = metrics.get("composition")
    details = _details(metric)
    resolution = _mapping(details.get("resolution"))
    lengths = _feature(run, "lengths") if details else None
    sizes = _feature(run, "sizes") if details else None
    reason = None
    if metric is None:
        reason = "not measured in this run"
    elif not details:
        reason = wording.clip(str(metric.get("reason") or "no reason given"), 300)
    return Composition(
        reason=reason,
        facts=_facts(details, resolution),
        tallies=_tallies(run, details, _details(metrics.get("task_diversity"))),
        lengths=tuple(
            histogram
            for column, (name, title) in enumerate(
                (("instruction_words", "Words in an instruction"), ("response_words", "Words in a response"))
            )
            if (histogram := _lengths(name, title, lengths, column, wording.quantiles(details.get(name))))
        ),
        spread=tuple(
            (title, found)
            for title, value in (
                ("Words in an instruction", details.get("instruction_words")),
                ("Words in a response", details.get("response_words")),
                ("Shorter side of a picture (px)", resolution),
            )
            if (found := wording.quantiles(value))
        ),
        sizes=_sizes(sizes),
        correlations=_correlations(run, metrics),
        growth=_growth(run, metrics),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _details(metric: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return _mapping(metric.get("details")) if metric else {}


def _names(run: ReportableRun) -> list[str]:
    return [column.name for column in run.take(()).schema]


def _feature(run: ReportableRun, name: str) -> NDArray[np.float32] | None:
    """Pairs of numbers that the composition metric has kept, memory-mapped; None where a run has none."""
    path = run.path / "features" / f"{name}.npy"
    if not path.is_file():
        return None
    try:
        values: NDArray[np.float32] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{path} cannot be read ({error}); score the data again") from error
    return values if values.ndim == 2 and values.shape[1] == 2 and len(values) else None


def _facts(details: Mapping[str, Any], resolution: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    named = (
        ("Samples without a picture, video or sound", details.get("text_only_share")),
        ("Pictures with a side below 224 px", resolution.get("share_below_224")),
        ("Pictures with a side below 336 px", resolution.get("share_below_336")),
    )
    return tuple((title, wording.percent(float(value))) for title, value in named if wording.is_number(value))


def _tallies(
    run: ReportableRun, details: Mapping[str, Any], task_details: Mapping[str, Any]
) -> tuple[Tally, ...]:
    listed = (
        _tally("tasks", "Tasks", "instructions", task_details.get("tasks"), limit=_TASKS),
        _tally("languages", "Languages", "turns", details.get("languages")),
        _tally("turns", "Turns in a sample", "samples", details.get("turns"), numeric=True),
        _tally(
            "pictures_per_sample",
            "Pictures in a sample",
            "samples",
            details.get("images_per_sample"),
            numeric=True,
        ),
        _tally("media_kinds", "Kinds of media", "files", details.get("media_kinds")),
        _sources(run),
    )
    return tuple(tally for tally in listed if tally)


def _tally(
    name: str, title: str, of: str, counts: Any, *, numeric: bool = False, limit: int = _ROWS
) -> Tally | None:
    """``{label: n}`` as rows: by label where labels are numbers, else the largest first; the rest in one row."""
    items = [(str(k), float(v)) for k, v in _mapping(counts).items() if wording.is_number(v) and v > 0]
    if not items:
        return None
    items.sort(key=lambda item: (-item[1], item[0]))
    items, left_out = items[:limit], items[limit:]
    if numeric and all(k.isdecimal() and len(k) < 10 for k, _ in items):
        items.sort(key=lambda item: int(item[0]))
    rows = [(wording.clip(k, 80), n) for k, n in items]
    rest = f"{len(left_out):,} others" if left_out else ""
    if rest:
        rows.append((rest, sum(n for _, n in left_out)))
    return Tally(name, title, of, tuple(rows), rest)


def _shorter_sides(sizes: NDArray[np.float32]) -> Tally:
    counts = np.zeros(len(_SIDES), np.int64)
    for block in _blocks(sizes):
        counts += np.histogram(block.min(axis=1), [*_SIDES, np.inf])[0]
    labels = [f"{low} to {high - 1} px" if low else f"under {high} px" for low, high in pairwise(_SIDES)]
    labels.append(f"{_SIDES[-1]:,} px and more")
    found = [(label, float(n)) for label, n in zip(labels, counts, strict=True) if n]
    return Tally("shorter_side", "Shorter side of a picture", "pictures", tuple(found))


def _sources(run: ReportableRun) -> Tally | None:
    """Where the records come from, if from several places."""
    if "source" not in _names(run):
        return None
    counted = pc.value_counts(run.table(["source"])["source"].drop_null())
    if len(counted) < 2:
        return None
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    return _tally("sources", "Sources", "samples", dict(zip(values, counts, strict=True)))


def _blocks(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK)]


def _lengths(
    name: str,
    title: str,
    lengths: NDArray[np.float32] | None,
    column: int,
    quantiles: Mapping[str, float],
) -> Lengths | None:
    """Word counts in bins of which two make a doubling; texts without a word are counted beside."""
    if lengths is None:
        return None
    longest = max(float(block[:, column].max()) for block in _blocks(lengths))
    if longest < 1:
        return None
    edges = [1.0, 2.0]
    while edges[-1] <= longest:
        edges.append(edges[-1] * 1.5 if len(edges) % 2 == 0 else edges[-2] * 2)
    counts = np.zeros(len(edges) - 1, np.int64)
    empty = 0
    for block in _blocks(lengths):
        counts += np.histogram(block[:, column], edges)[0]
        empty += int((block[:, column] < 1).sum())
    histogram = {"edges": edges, "counts": counts.tolist()}
    return Lengths(name, title, histogram, quantiles.get("p50"), empty)


def _sizes(sizes: NDArray[np.float32] | None) -> Sizes | None:
    if sizes is None:
        return None
    low = min(float(block.min()) for block in _blocks(sizes))
    high = max(float(block.max()) for block in _blocks(sizes))
    n = len(sizes)
    if low < 1:
        return None
    if low == high:
        return Sizes(
            n,
            (),
            (),
            _shorter_sides(sizes),
            f"All {wording.count(n)} pictures are {low:.0f} × {low:.0f} pixels.",
        )
    # What vision towers take is always on the axes.
    edges = np.geomspace(min(low, _USUAL[0]) / 1.05, max(high, _USUAL[1]) * 1.05, _BINS + 1)
    counts = np.zeros((_BINS, _BINS), np.int64)
    upright = 0
    for block in _blocks(sizes):
        counts += np.histogram2d(block[:, 0], block[:, 1], [edges, edges])[0].astype(np.int64)
        upright += int((block[:, 1] > block[:, 0]).sum())
    filled = [(int(i), int(j), int(counts[i, j])) for i, j in zip(*np.nonzero(counts), strict=True)]
    words = (
        f"{wording.count(n)} pictures, sides from {wording.count(low)} to {wording.count(high)} px; "
        f"{wording.share(upright, n)} are higher than wide."
    )
    return Sizes(n, tuple(edges.tolist()), tuple(filled), _shorter_sides(sizes), words)


def _correlations(run: ReportableRun, metrics: Mapping[str, Mapping[str, Any]]) -> Correlations | None:
    """Spearman's correlation of each pair of metrics, over the records that have both."""
    numeric = {column.name for column in run.take(()).schema if is_numeric(column.type)}
    found: list[tuple[str, NDArray[np.float64]]] = []
    chosen: pa.Array | None = None
    n = 0
    for name, metric in metrics.items():
        if name not in numeric:
            continue
        column = run.table([name])[name]
        n = len(column)
        if n > RANKED:
            if chosen is None:
                seeded = np.random.default_rng(int(run.scorecard["seed"]))
                chosen = pa.array(np.sort(seeded.choice(n, RANKED, replace=False)))
            column = column.take(chosen)
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        told = values[np.isfinite(values)]
        if len(told) >= _LEAST_PAIRS and told.min() < told.max():
            found.append((wording.clip(str(metric["title"]), 60), values))
    if len(found) < 2:
        return None
    rows = _pairs(found)
    known = [pair for row in rows for pair in row if pair.rho is not None]
    drawn = f"Of a seeded random draw of {wording.count(RANKED)} records." if n > RANKED else ""
    return Correlations(tuple(title for title, _ in found), rows, _in_words(known), drawn)


def _pairs(columns: Sequence[tuple[str, NDArray[np.float64]]]) -> tuple[tuple[Pair, ...], ...]:
    there = [np.isfinite(values) for _, values in columns]
    whole = [_ranks(values[mask]) for (_, values), mask in zip(columns, there, strict=True)]

    def ranks(i: int, both: NDArray[np.bool_]) -> NDArray[np.float64]:
        # Most columns miss the same records, and ranking is what takes the time.
        same = int(both.sum()) == len(whole[i])
        found: NDArray[np.float64] = whole[i] if same else _ranks(columns[i][1][both])
        return found

    rows = []
    for i, (second, _) in enumerate(columns):
        row = []
        for j, (first, _) in enumerate(columns[:i]):
            both = there[i] & there[j]
            n = int(both.sum())
            x, y = (ranks(k, both) for k in (i, j)) if n >= _LEAST_PAIRS else (np.zeros(1), np.zeros(1))
            if x.min() == x.max() or y.min() == y.max():
                row.append(Pair(first, second, None, n))
                continue
            rho = float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))
            # Bonett and Wright (Psychometrika 65, 2000): the interval of Fisher's z for ranks.
            half = 1.96 * math.sqrt((1 + rho**2 / 2) / (n - 3))
            z = _fisher_z(rho)
            row.append(Pair(first, second, rho, n, math.tanh(z - half), math.tanh(z + half)))
        rows.append(row)
    told = [pair for row in rows for pair in row if pair.rho is not None]
    if told:
        p = np.array([_by_chance(pair.rho or 0.0, pair.n) for pair in told])
        adjusted = iter((_adjusted(p) > _CHANCE).tolist())
        rows = [[pair if pair.rho is None else _marked(pair, next(adjusted)) for pair in row] for row in rows]
    return tuple(map(tuple, rows))


def _fisher_z(rho: float) -> float:
    return math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))


def _by_chance(rho: float, n: int) -> float:
    """The probability of a correlation as far from 0 where there is none: Fisher's z, as of the interval."""
    return math.erfc(abs(_fisher_z(rho)) * math.sqrt((n - 3) / 2))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each value from 1; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks


def _adjusted(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities after Benjamini and Hochberg's correction (*J. R. Statist. Soc. B* 57, 1995)."""
    order = np.argsort(p)
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return np.minimum(adjusted, 1.0)


def _marked(pair: Pair, chance: bool) -> Pair:
    return Pair(pair.first, pair.second, pair.rho, pair.n, pair.low, pair.high, chance)


def _in_words(pairs: Sequence[Pair]) -> str:
    """What the strongest correlation means."""
    sure = [pair for pair in pairs if not pair.chance]
    if not sure:
        return "No correlation is distinguishable from chance: each metric tells something of its own."
    strongest = max(sure, key=lambda pair: abs(pair.rho or 0.0))
    size = abs(strongest.rho or 0.0)
    if size >= _STRONG:
        meaning = (
            "they largely count the same thing twice, so a threshold on one does most of the other’s work."
        )
    elif size >= _CLEAR:
        meaning = "they partly count the same thing twice."
    else:
        meaning = "even these two mostly count different things."
    return f"Strongest are {strongest.told}: {meaning}"


def _growth(run: ReportableRun, metrics: Mapping[str, Mapping[str, Any]]) -> tuple[Growth, ...]:
    listed = (
        _task_growth(_details(metrics.get("task_diversity"))),
        _cluster_growth("response", _details(metrics.get("response_diversity"))),
        _cluster_growth("picture", _details(metrics.get("visual_semantic_diversity"))),
        _sample_growth(run, metrics.get("duplicates")),
    )
    return tuple(growth for growth in listed if growth)


def _grid(n: int) -> list[int]:
    """Sizes from 0 to n, close to each other at first, where a curve bends."""
    even = {round(n * k / _POINTS) for k in range(_POINTS + 1)}
    return sorted(even | {round(n ** (k / _POINTS)) for k in range(_POINTS)})


def _task_growth(details: Mapping[str, Any]) -> Growth | None:
    kinds = known_kinds(details)
    if kinds is None or not kinds.expected(kinds.n):
        return None
    points = [(float(m), kinds.expected(m)) for m in _grid(kinds.n)]
    least = f"has {kinds.at_least:,} instructions" if kinds.at_least > 1 else "occurs"
    words = f"A task counts that {least}; “other” is none. {_flatness(points, 'instructions', 'tasks')}"
    limit = None
    chao, coverage = details.get("chao1"), details.get("coverage")
    if wording.is_number(chao) and chao is not None and chao > points[-1][1]:
        limit = (f"at least {wording.number(chao)} (Chao1)", float(chao))
        words += f" By Chao1 there are at least {wording.number(chao)} tasks, seen and unseen."
    if wording.is_number(coverage) and coverage is not None:
        words += (
            f" About {wording.percent(coverage)} of instructions like these have a task that is already here."
        )
    return Growth("task_growth", "Tasks", "instructions drawn", "expected tasks", tuple(points), words, limit)


def _cluster_growth(kind: str, details: Mapping[str, Any]) -> Growth | None:
    curve = _mapping(details.get("curve"))
    m, clusters = curve.get("m"), curve.get("clusters")
    if not (isinstance(m, list) and isinstance(clusters, list)) or len(m) != len(clusters):
        return None
    if not m or not all(map(wording.is_number, [*m, *clusters])):
        return None
    points = [(0.0, 0.0), *((float(a), float(b)) for a, b in zip(m, clusters, strict=True))]
    if points[-1][1] <= 0 or not all(a < b for (a, _), (b, _) in pairwise(points)):
        return None
    words = _flatness(points, f"{kind}s", "clusters")
    least = details.get("min_samples")
    if wording.is_number(least) and least is not None:
        words += f" A cluster has {wording.number(least)} members or more."
    return Growth(
        f"{kind}_cluster_growth",
        f"Clusters of {kind}s",
        f"{kind}s drawn",
        "expected clusters",
        tuple(points),
        words,
    )


def _sample_growth(run: ReportableRun, duplicates: Mapping[str, Any] | None) -> Growth | None:
    """Different samples among random ones, where some repeat others exactly or nearly."""
    if duplicates is None or "duplicate_group" not in _names(run):
        return None
    n = int(duplicates["n_scored"])
    counted = pc.value_counts(run.table(["duplicate_group"])["duplicate_group"].drop_null())
    groups = counted.field("counts").to_numpy()
    single = n - int(groups.sum())
    if not len(groups) or single < 0:
        return None
    points = [(float(m), m * single / n + expected_clusters(groups, n, m, 1)) for m in _grid(n)]
    different = points[-1][1]
    words = (
        f"Of {wording.count(n)} samples {wording.count(round(different))} are different; the others repeat one of "
        "them exactly or nearly. Where repeats are few the curve is a straight line."
    )
    return Growth(
        "sample_growth",
        "Samples without repeats",
        "samples drawn",
        "expected different",
        tuple(points),
        words,
    )


def _flatness(points: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """Whether more data would bring more kinds, by what the last tenth of it has brought."""
    n, whole = points[-1]
    before = float(np.interp(0.9 * n, [m for m, _ in points], [kinds for _, kinds in points]))
    gain = whole - before
    brought = (
        f"the last tenth of the {across} brought {wording.number(gain, 1)} of {wording.number(whole)} {up}"
    )
    if gain < 0.01 * whole:
        return f"The curve is flat: {brought}. More samples of this kind would bring few new {up}."
    if whole < _FEW:
        return f"{wording.number(whole)} {up} are too few to tell whether more {across} would bring more."
    if gain < 0.04 * whole:
        return f"The curve is nearly flat: {brought}. More samples would bring some new {up}."
    return f"The curve still rises: {brought}. More samples would bring more {up}."
