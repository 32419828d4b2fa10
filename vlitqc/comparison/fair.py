"""Data-set metrics at equal size: more records have more clusters and more tasks whatever they are.

Size is counted in records that the metric scored. At the common size m a data set's value is the mean over random
parts of m such records (without replacement), and that of the data set itself where it has no more. For what curves
are known it is not needed to draw: clusters of a density by the hypergeometric survival of each (a thinned cluster may
also break, which the drawn parts show and the curve does not), tasks by rarefaction.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from vlitqc.analysis.diversity import chao1, good_turing_coverage, known_kinds
from vlitqc.comparison.differences import LEVEL, Difference, nothing, with_interval
from vlitqc.comparison.sets import DataSet
from vlitqc.engine.subset import LIMIT, Parts

SIMILAR = 1.05
"""Sizes that differ by less than this factor leave the values as they are comparable."""

_LEFT = 0.8
"""The share of a data set in the parts that its own uncertainty is found from, where m leaves too little out."""
_CURVE = 24
_STEPS = (0.25, 0.5, 0.75)
"""Shares of m at which a metric without a known curve is computed, too."""

NOT_DRAWN = "no random part was drawn"
UNVARIED = "the random parts do not vary"
OF_ITS_RUN = "it is held against random parts of its run"

Progress = Callable[[int, int], None]
"""Told how many of how many random parts are done."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Expected number of ``what`` over the number of scored records; ``drawn`` where random parts say so."""

    what: str
    m: tuple[float, ...]
    values: tuple[float, ...]
    drawn: bool


@dataclass(frozen=True, eq=False)
class AtSize:
    """A metric of one data set at the common size; ``value`` or ``interval`` is None for a ``reason``.

    ``scored`` is its own size, ``variance`` that of the value if the data set were another sample of its population
    and ``spread`` that of the values of single parts with this ``share`` of the records (None where none was drawn),
    ``n`` how many of these have a value. ``expected`` is what the curve says at the common size.
    """

    scored: int
    value: float | None = None
    interval: tuple[float, float] | None = None
    variance: float | None = None
    spread: float | None = None
    share: float | None = None
    n: int = 0
    reason: str | None = None
    expected: float | None = None
    curve: Curve | None = None
    chao1: float | None = None
    coverage: float | None = None


@dataclass(frozen=True, eq=False)
class Fair:
    """A metric at the common size ``m`` in every data set (None for one that has no part in it)."""

    m: int
    comparable: bool
    sets: tuple[AtSize | None, ...]
    note: str | None = None


def scored_records(data: DataSet, name: str) -> int:
    """How many records of a data set the metric scored; of a part that is too large to say, the run's share."""
    section = data.metrics.get(name)
    if section is None or (section["value"] is None and data.part is None):
        return 0
    if section["value"] is None and data.n > LIMIT:
        section = data.run.metrics()[name]
        return round(data.n * section["n_scored"] / section["n_total"]) if section["n_total"] else 0
    return int(section["n_scored"]) if section["value"] is not None else 0


def at_equal_size(
    sets: Sequence[DataSet],
    names: Mapping[str, Sequence[bool]],
    *,
    replicates: int,
    seed: int,
    size: int | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> dict[str, Fair]:
    """Every data-set metric of ``names`` at a size that all data sets reach which take part in it.

    Args:
        sets: the data sets.
        names: data-set metric → of each data set whether it takes part.
        replicates: how many random parts are drawn of each data set; 0 for none, which leaves the curves.
        seed: of the draws.
        size: the common size, if not the smallest data set's.
        limit: a part has at most so many records.
        progress: told how many parts are done.
    """
    plans = {
        name: plan
        for name, part in names.items()
        if (plan := _plan(name, sets, part, size, limit)) is not None
    }
    draws = _draw(sets, plans, replicates, seed, progress) if replicates else {}
    return {name: _fair(name, sets, plan, draws) for name, plan in plans.items()}


def difference(fair: Fair, sets: Sequence[DataSet], other: int, raw: Sequence[float | None]) -> Difference:
    """How much higher the metric is in data set ``other`` than in the first one, both at the common size.

    Of two data sets of which one is a part of the other the interval is what a random part of as many records would
    show; else the uncertainty of both adds up (delete-d jackknife). Where random parts of one do not vary, the other's
    stands for both; where none vary, there is no interval.
    """
    one, two = fair.sets[0], fair.sets[other]
    a, b = sets[0], sets[other]
    together = a.is_of(b)
    if together and np.array_equal(a.mask, b.mask) and raw[0] == raw[other] and raw[0] is not None:
        return nothing("the same records")
    for side in (one, two):
        if side is None or side.value is None:
            reason = side.reason if side is not None else None
            return Difference(reason=reason or "no value at the common size")
    assert one is not None
    assert two is not None
    assert one.value is not None
    assert two.value is not None
    value = two.value - one.value
    large, small = (one, two) if one.scored >= two.scored else (two, one)
    if together and _nested(a, b):
        if large.scored == small.scored:
            same = "the metric scored the same records"
            return Difference(value, reason=same) if value else nothing(same)
        if not large.spread or large.share is None:
            return Difference(value, reason=UNVARIED if large.spread == 0 else NOT_DRAWN)
        finite = fair.m / small.scored * (1 - small.scored / large.scored)
        variance = large.spread * (finite / (1 - large.share) + 1 / large.n)
        variance += small.spread / small.n if small.spread is not None else 0.0
        df, method = large.n - 1, "a random part of as many records"
    else:
        for side in (one, two):
            if side.variance is None:
                return Difference(value, reason=side.reason or NOT_DRAWN)
        assert one.variance is not None
        assert two.variance is not None
        # Random parts without a kind that is rare do not vary: the other data set's variance stands for both.
        still = not one.variance or not two.variance
        variance = 2 * max(one.variance, two.variance) if still else one.variance + two.variance
        df, method = min(one.n, two.n) - 1, "random parts of both, jackknife"
    return with_interval(one.value, two.value, variance, df, method=method, still=UNVARIED)


def _nested(a: DataSet, b: DataSet) -> bool:
    both = int((a.mask & b.mask).sum())
    return both in (a.n, b.n)


# ---------------------------------------------------------------- plan


@dataclass(frozen=True, eq=False)
class _Size:
    """Of one data set: its scored records, and how many records a part has, for the value and for its uncertainty."""

    scored: int
    of_value: int | None
    of_error: int | None
    of_curve: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    m: int
    comparable: bool
    sizes: tuple[_Size | None, ...]
    note: str | None


def _plan(
    name: str, sets: Sequence[DataSet], part: Sequence[bool], size: int | None, limit: int
) -> _Plan | None:
    """What to draw for a metric; None where fewer than two data sets have a value."""
    scored = [scored_records(data, name) if takes else 0 for data, takes in zip(sets, part, strict=True)]
    present = [n for n in scored if n]
    if len(present) < 2:
        return None
    m, note = min(present), None
    if size is not None:
        m = min(m, size)
    most = min(int(limit * n / data.n) for data, n in zip(sets, scored, strict=True) if n)
    if m > most:
        m, note = most, f"at {most:,} records: parts are of at most {limit:,}"
    m = max(m, 1)
    sizes: list[_Size | None] = []
    for i, (data, n) in enumerate(zip(sets, scored, strict=True)):
        if not n:
            sizes.append(None)
            continue
        alone = [
            j for j, k in enumerate(scored) if k and j != i and 0 in (i, j) and not _within(data, sets[j])
        ]
        of_value = _records(data, n, m) if n > m else None
        near = m > _LEFT * n
        # A part that leaves no record out says nothing.
        left = min(round(_LEFT * data.n), data.n - 1)
        of_error = left if alone and near and left else None
        steps = () if _has_curve(data, name) else tuple(_records(data, n, share * m) for share in _STEPS)
        sizes.append(_Size(n, of_value, of_error, steps))
    return _Plan(m, max(present) <= SIMILAR * min(present), tuple(sizes), note)


def _within(a: DataSet, b: DataSet) -> bool:
    return a.is_of(b) and _nested(a, b)


def _records(data: DataSet, scored: int, m: float) -> int:
    """How many records hold about ``m`` scored ones."""
    return min(data.n, max(1, round(m * data.n / scored)))


def _has_curve(data: DataSet, name: str) -> bool:
    """Whether the size of the data set need not be tried out: a curve is known, or size is not what counts."""
    section = data.metrics[name]
    return _known_curve(section, 1) is not None or not section["principle"].endswith("diversity")


# ---------------------------------------------------------------- draw


_Draws = dict[tuple[int, int], dict[str, list[float | str]]]
"""Data set and records in a part → metric → its value in each part, or the reason why it has none there."""


def _draw(
    sets: Sequence[DataSet],
    plans: Mapping[str, _Plan],
    replicates: int,
    seed: int,
    progress: Progress | None,
) -> _Draws:
    wanted: dict[tuple[int, int], list[str]] = defaultdict(list)
    times: dict[tuple[int, int], int] = defaultdict(int)
    for name, plan in plans.items():
        for i, size in enumerate(plan.sizes):
            if size is None:
                continue
            asked = [(k, replicates) for k in (size.of_value, size.of_error) if k]
            asked += [(k, math.ceil(replicates / len(_STEPS))) for k in size.of_curve]
            for k, n in asked:
                if name not in wanted[i, k]:
                    wanted[i, k].append(name)
                times[i, k] = max(times[i, k], n)
    total, done = sum(times.values()), 0
    if progress is not None and total:
        progress(done, total)
    parts: dict[Path, Parts] = {}
    found: _Draws = {}
    for (i, k), names in wanted.items():
        rows = np.flatnonzero(sets[i].mask)
        run = sets[i].run
        if run.path not in parts:
            parts[run.path] = Parts(run)
        values: dict[str, list[float | str]] = {name: [] for name in names}
        for draw in range(times[i, k]):
            rng = np.random.default_rng([seed, k, draw])
            mask = np.zeros(len(sets[i].mask), np.bool_)
            mask[rng.choice(rows, k, replace=False)] = True
            for name, score in parts[run.path].scores(mask, names).items():
                values[name].append(str(score.reason) if score.value is None else score.value)
            done += 1
            if progress is not None:
                progress(done, total)
        found[i, k] = values
    return found


# ---------------------------------------------------------------- value


def _fair(name: str, sets: Sequence[DataSet], plan: _Plan, draws: _Draws) -> Fair:
    found = tuple(
        _at_size(name, i, data, size, plan.m, draws) if size else None
        for i, (data, size) in enumerate(zip(sets, plan.sizes, strict=True))
    )
    return Fair(plan.m, plan.comparable, found, plan.note)


def _at_size(name: str, i: int, data: DataSet, size: _Size, m: int, draws: _Draws) -> AtSize:
    section = data.metrics[name]
    scored = size.scored
    curve = _known_curve(section, scored) or _drawn_curve(name, i, size, section, m, draws)
    told: dict[str, Any] = {"scored": scored, "curve": curve, **_richness(section)}
    if curve is not None and not curve.drawn:
        told["expected"] = float(np.interp(m, (0.0, *curve.m), (0.0, *curve.values)))
    value, spread, share, n = section["value"], None, None, 0
    if size.of_value is not None:
        drawn = draws.get((i, size.of_value), {}).get(name)
        parts = _present(drawn or ())
        if not drawn or len(parts) * 2 <= len(drawn):
            return AtSize(**told, reason=_missing(drawn) if drawn else NOT_DRAWN)
        value, n, share = float(parts.mean()), len(parts), size.of_value / data.n
        spread = _spread(parts) if n > 1 else None
    variance, interval, reason = None, None, None
    if size.of_error is not None and (i, size.of_error) in draws:
        drawn = draws[i, size.of_error][name]
        parts = _present(drawn)
        if len(parts) > 1:
            variance = _jackknife(_spread(parts), size.of_error / data.n)
            variance += spread / n if spread is not None else 0.0
            n = min(n or len(parts), len(parts))
        else:
            reason = _missing(drawn)
    elif spread is not None and share is not None:
        variance = _jackknife(spread, share) + spread / n
    elif size.of_error is not None:
        reason = NOT_DRAWN
    else:
        reason = "one record has no random parts" if data.n == 1 else OF_ITS_RUN
    if variance:
        reach = float(t.ppf((1 + LEVEL) / 2, n - 1)) * math.sqrt(variance)
        low, high = section["bounds"]
        interval = (
            max(value - reach, -math.inf if low is None else low),
            min(value + reach, math.inf if high is None else high),
        )
    elif variance == 0:
        reason = UNVARIED
    return AtSize(
        **told,
        value=value,
        interval=interval,
        variance=variance,
        spread=spread,
        share=share,
        n=n,
        reason=reason,
    )


def _present(values: Sequence[float | str]) -> NDArray[np.float64]:
    return np.array([value for value in values if not isinstance(value, str)], np.float64)


def _missing(values: Sequence[float | str]) -> str:
    """In how many parts there is no value, and the commonest reason."""
    reasons = Counter(value for value in values if isinstance(value, str))
    ((reason, _),) = reasons.most_common(1)
    return f"no value in {reasons.total()} of {len(values)} random parts: {reason}"


def _spread(parts: NDArray[np.float64]) -> float:
    """The variance over random parts; 0 where they differ by rounding alone."""
    spread = float(parts.var(ddof=1))
    return spread if math.sqrt(spread) > 1e-12 * float(np.abs(parts).max()) else 0.0


def _jackknife(spread: float, share: float) -> float:
    """The variance of a statistic from that over parts of this share (Shao and Wu 1989, delete-d jackknife)."""
    return spread * share / (1 - share)


# ---------------------------------------------------------------- curves


def _known_curve(section: Mapping[str, Any], scored: int) -> Curve | None:
    """The curve that the metric itself tells of: clusters by their sizes, or tasks and categories by their counts."""
    details = section["details"]
    told = details.get("curve")
    if isinstance(told, Mapping) and told.get("m"):
        scale = scored / told["m"][-1]
        return Curve("clusters", tuple(m * scale for m in told["m"]), tuple(told["clusters"]), drawn=False)
    kinds = known_kinds(details)
    if kinds is None:
        return None
    sizes = sorted({max(1, round(kinds.n * k / _CURVE)) for k in range(1, _CURVE + 1)})
    values = tuple(kinds.expected(m) for m in sizes)
    return Curve(kinds.what, tuple(m * scored / kinds.n for m in sizes), values, drawn=False)


def _richness(section: Mapping[str, Any]) -> dict[str, float]:
    kinds = known_kinds(section["details"])
    return (
        {}
        if kinds is None
        else {"chao1": chao1(kinds.counts), "coverage": good_turing_coverage(kinds.counts)}
    )


def _drawn_curve(
    name: str, i: int, size: _Size, section: Mapping[str, Any], m: int, draws: _Draws
) -> Curve | None:
    """The means over the random parts of several sizes, up to the common one or the data set itself."""
    if not size.of_curve:
        return None
    points = [(share * m, (i, k)) for share, k in zip(_STEPS, size.of_curve, strict=True)]
    if size.of_value is not None:
        points.append((m, (i, size.of_value)))
    found = [(at, _present(draws[key][name])) for at, key in points if key in draws]
    told = [(float(at), float(values.mean())) for at, values in found if len(values)]
    if section["value"] is not None:
        told.append((float(size.scored), float(section["value"])))
    if len(told) < 2:
        return None
    return Curve(section["unit"], tuple(at for at, _ in told), tuple(value for _, value in told), drawn=True)
