"""The data-set pass: after the last shard, every metric becomes one value with its interval and its counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlitqc.analysis.bootstrap import bootstrap_mean
from vlitqc.analysis.histogram import histogram, percentiles
from vlitqc.engine.disk import write_table, writing
from vlitqc.engine.features import readable
from vlitqc.engine.plan import Planned
from vlitqc.engine.shards import ISSUE_SCHEMA, issue_table
from vlitqc.errors import RunError, as_reason
from vlitqc.types import (
    NOT_APPLICABLE,
    DatasetMetric,
    DatasetScore,
    FeatureStore,
    Issue,
    Metric,
    MetricSpec,
    Remarking,
)

QUANTILES = (5, 25, 50, 75, 95)
BINS = 40


def sample_summary(planned: Planned, shards: Sequence[Path], *, seed: int) -> dict[str, Any]:
    """A sample metric over the data set: mean, 95% interval, quantiles, histogram, reasons counted."""
    columns = ["state", *score_columns(planned.spec.name, planned.spec.parts)]
    tables = [readable(pq.read_table(s / "scores.parquet", columns=columns)) for s in shards]
    return summary_of(
        pa.concat_tables(tables), planned.spec.name, planned.spec.parts, planned.metric, seed=seed
    )


def score_columns(name: str, parts: Iterable[str]) -> list[str]:
    """The columns that ``summary_of`` needs of a sample metric."""
    return [f"{name}_reason", name, *(f"{name}_{part}" for part in parts)]


def summary_of(
    table: pa.Table, name: str, parts: Iterable[str], metric: Metric | None, *, seed: int
) -> dict[str, Any]:
    """A sample metric over the readable records in ``table``; ``metric`` is asked for remarks where it has any."""
    values = _present(table[name])
    found = {part: _present(table[f"{name}_{part}"]) for part in parts}
    reasons = _tally(table[f"{name}_reason"])
    n = len(values)
    return {
        "value": float(values.mean()) if n else None,
        "reason": None if n else _why_none(reasons, len(table)),
        "interval": bootstrap_mean(values, seed=seed),
        "n_scored": n,
        "n_total": len(table),
        "reasons": count_reasons(reasons),
        **spread(values),
        "parts": {part: float(numbers.mean()) for part, numbers in found.items() if len(numbers)},
        "details": _remarks(metric, values) if n and isinstance(metric, Remarking) else {},
    }


def _remarks(metric: Remarking, values: NDArray[np.float64]) -> dict[str, Any]:
    try:
        found = dict(metric.remarks(values))
        json.dumps(found, allow_nan=False)
        return found
    except Exception as error:  # noqa: BLE001 - a third party's metric may raise anything
        return {"warning": f"its remarks failed: {type(error).__name__}: {error}"}


def spread(values: NDArray[np.float64]) -> dict[str, Any]:
    """Quantiles and a histogram of finite values; both None where there are none."""
    if not len(values):
        return {"quantiles": None, "histogram": None}
    points = percentiles(values, QUANTILES)
    counts, edges = histogram(values, BINS)
    return {
        "quantiles": {f"p{q}": float(v) for q, v in zip(QUANTILES, points, strict=True)},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def count_reasons(reasons: Mapping[str, int]) -> dict[str, int]:
    """How often each kind of reason occurs, most frequent first; what follows a colon is told of one case only."""
    counts: dict[str, int] = {}
    for reason, n in reasons.items():
        kind = reason.split(":", 1)[0] if reason.startswith(("image unreadable", "error")) else reason
        counts[kind] = counts.get(kind, 0) + n
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def resolve(planned: Planned, store: FeatureStore) -> tuple[DatasetScore, dict[str, pa.Array]]:
    """A data-set metric's score and its columns. A fault in one metric is its reason, not the end of the run."""
    n = store.n_samples
    if planned.metric is None:
        score = DatasetScore(reason=planned.unavailable, n_total=n)
        return score, _label_columns(planned.spec, score, n)
    assert isinstance(planned.metric, DatasetMetric)
    try:
        score = planned.metric.resolve(store)
        # What JSON cannot hold (NaN, an array) would end the run when the scorecard is written.
        json.dumps([score.value, score.interval, dict(score.details)], allow_nan=False)
        return score, _label_columns(planned.spec, score, n)
    except RunError:  # the disk is full: that is the run's fault, not the metric's
        raise
    except Exception as error:  # noqa: BLE001 - a third party's metric may raise anything
        score = DatasetScore(reason=as_reason(error), n_total=n)
        return score, _label_columns(planned.spec, score, n)


def _label_columns(spec: MetricSpec, score: DatasetScore, n_samples: int) -> dict[str, pa.Array]:
    """The columns that a data-set metric adds to the table: each of ``spec.columns`` with its reasons.

    Where a sample has no value the reason is its own in ``score.missing``, else that of the data set's score. Raises
    ValueError or an Arrow error where the metric's answer does not fit its spec.
    """
    columns: dict[str, pa.Array] = {}
    for name, values in score.columns.items():
        if name not in spec.columns:
            raise ValueError(f"column {name} is not in the spec's columns")
        if len(values) != n_samples:
            raise ValueError(f"column {name} has {len(values)} values for {n_samples} samples")
    reasons = _reasons(score, n_samples)
    for name in spec.columns:
        values = list(score.columns.get(name, [None] * n_samples))
        column = pa.array(values, pa.string() if name in spec.texts else None, from_pandas=True)
        if pa.types.is_null(column.type):
            column = column.cast(pa.float64())
        columns[name] = column
        columns[f"{name}_reason"] = pc.if_else(column.is_null(), reasons, pa.scalar(None, pa.string()))
    return columns


def _reasons(score: DatasetScore, n_samples: int) -> pa.Array:
    """Why each sample has no value, should it have none."""
    if isinstance(score.missing, str):
        return pa.array([score.reason or score.missing] * n_samples, pa.string())
    if len(score.missing) != n_samples:
        raise ValueError(f"missing has {len(score.missing)} reasons for {n_samples} samples")
    otherwise = score.reason or NOT_APPLICABLE
    return pa.array([text or otherwise for text in score.missing], pa.string())


def dataset_summary(name: str, score: DatasetScore) -> dict[str, Any]:
    """A data-set metric in the form of the scorecard."""
    own = score.columns.get(name)
    values = np.array([v for v in own if v is not None], np.float64) if own is not None else np.empty(0)
    return {
        "value": score.value,
        "reason": score.reason,
        "interval": score.interval,
        "n_scored": score.n_scored,
        "n_total": score.n_total,
        "reasons": {score.reason: score.n_total} if score.reason else {},
        **spread(values),
        "parts": {},
        "details": dict(score.details),
    }


def write_scores(shards: Sequence[Path], columns: Mapping[str, pa.Array], target: Path) -> None:
    """Write ``scores/part-NNNNN.parquet``: each shard's rows with the data-set metrics' columns beside them."""
    with writing(target):
        target.mkdir(exist_ok=True)
        for stale in target.glob("part-*.parquet"):
            stale.unlink()
    at = 0
    for i, shard in enumerate(shards):
        table = pq.read_table(shard / "scores.parquet")
        can_read = pc.not_equal(table["state"], "unreadable").combine_chunks()
        n = int(pc.sum(can_read).as_py() or 0)
        # Row k of the shard is the (number of readable rows before it)-th sample, or no sample at all.
        places = np.cumsum(can_read.to_numpy(zero_copy_only=False)) - 1
        take = pa.array(places + at, mask=~can_read.to_numpy(zero_copy_only=False))
        for name, array in columns.items():
            column = array.take(take)
            if name.endswith("_reason"):
                column = pc.if_else(can_read, column, "record unreadable")
            table = table.append_column(name, column)
        write_table(target / f"part-{i:05d}.parquet", table)
        at += n


def repeated_ids(scores: Path) -> list[Issue]:
    """An issue for each readable record whose id an earlier one has."""
    table = pq.read_table(scores, columns=["row", "id", "file", "line", "state"])
    frame = readable(table).to_pandas()
    later = frame[frame["id"].duplicated()]
    first = frame[frame["id"].isin(later["id"])].drop_duplicates("id").set_index("id")
    return [
        Issue(
            "duplicate_id",
            "note",
            f"{Path(first.at[row.id, 'file']).name}:{first.at[row.id, 'line']} has the same id",
            row.file,
            row.line,
            row.row,
            row.id,
        )
        for row in later.itertuples()
    ]


def write_issues(shards: Sequence[Path], more: Sequence[Issue], target: Path) -> pa.Table:
    """Join the shards' issues and the data-set metrics' into one table, in the order of the records."""
    tables = [pq.read_table(shard / "issues.parquet", schema=ISSUE_SCHEMA) for shard in shards]
    table = pa.concat_tables([*tables, issue_table(more)]).sort_by(
        [("row", "ascending"), ("kind", "ascending")]
    )
    write_table(target, table)
    return table


def _present(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.drop_null().to_numpy().astype(np.float64)
    return values


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each text occurs. Of millions of reasons few differ."""
    found = pc.value_counts(column.drop_null())
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _why_none(reasons: Mapping[str, int], n: int) -> str:
    if n == 0:
        return "no record could be read"
    counts = count_reasons(reasons)
    first = next(iter(counts))
    others = len(counts) - 1
    return f"{first} (and {others} other reason{'s' if others > 1 else ''})" if others else first
