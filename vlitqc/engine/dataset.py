"""The data-set pass: after the last shard, every metric becomes one value with its interval and its counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.analysis.bootstrap import bootstrap_mean
from vlitqc.analysis.histogram import histogram, percentiles
from vlitqc.engine.disk import read_table, write_table, writing
from vlitqc.engine.features import readable
from vlitqc.engine.plan import Planned
from vlitqc.engine.shards import ISSUE_SCHEMA
from vlitqc.errors import RunError, as_reason
from vlitqc.types import (
    NOT_APPLICABLE,
    DatasetMetric,
    DatasetScore,
    FeatureStore,
    Metric,
    MetricSpec,
    Remarking,
)

QUANTILES = (5, 25, 50, 75, 95)
BINS = 40

PART_ROWS, PART_BYTES = 65_536, 256 << 20
"""A part of the table of scores ends with the shard that reaches either: opening many small files takes longer than
reading them, and a part is held in memory while it is written."""
GROUP_ROWS = 4_096
"""Rows of a part that are read together: whoever wants one record reads no more than these."""


def sample_summary(planned: Planned, shards: Sequence[Path], *, seed: int) -> dict[str, Any]:
    """A sample metric over the data set: mean, 95% interval, quantiles, histogram, reasons counted."""
    columns = ["state", *score_columns(planned.spec.name, planned.spec.parts)]
    tables = [readable(read_table(s / "scores.parquet", columns)) for s in shards]
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
        column = _column(score.columns.get(name), name in spec.texts, n_samples)
        if name == spec.name and not _is_number(column.type):
            raise ValueError(f"column {name} holds {column.type} where numbers belong")
        if name == spec.name and not np.isfinite(_present(column)).all():
            raise ValueError(f"column {name} holds infinity")
        columns[name] = column
        unwanted = column.is_valid().to_numpy(zero_copy_only=False)
        columns[f"{name}_reason"] = pa.DictionaryArray.from_arrays(
            pa.array(reasons.indices.to_numpy(), mask=unwanted), reasons.dictionary
        )
    return columns


def _column(
    values: Sequence[Any] | NDArray[Any] | pa.Array | None, is_text: bool, n_samples: int
) -> pa.Array:
    """One column of a metric's answer; null where a sample has no value."""
    if values is None:
        return pa.nulls(n_samples, pa.string() if is_text else pa.float64())
    if isinstance(values, pa.Array):
        column = values
    else:
        whole = values if isinstance(values, np.ndarray) else list(values)
        column = pa.array(whole, pa.string() if is_text else None, from_pandas=True)
    if is_text or pa.types.is_dictionary(column.type):
        return column.cast(pa.string())
    if pa.types.is_null(column.type):
        return column.cast(pa.float64())
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _reasons(score: DatasetScore, n_samples: int) -> pa.DictionaryArray:
    """Why each sample has no value, should it have none. Of millions of reasons few differ."""
    missing = score.missing
    if isinstance(missing, str):
        codes = np.zeros(n_samples, np.int32)
        return pa.DictionaryArray.from_arrays(codes, pa.array([score.reason or missing], pa.string()))
    if len(missing) != n_samples:
        raise ValueError(f"missing has {len(missing)} reasons for {n_samples} samples")
    number: dict[str | None, int] = {}
    texts = missing.to_pylist() if isinstance(missing, pa.Array) else missing
    codes = np.fromiter((number.setdefault(text, len(number)) for text in texts), np.int32, n_samples)
    otherwise = score.reason or NOT_APPLICABLE
    return pa.DictionaryArray.from_arrays(codes, pa.array([t or otherwise for t in number], pa.string()))


def dataset_summary(name: str, score: DatasetScore) -> dict[str, Any]:
    """A data-set metric in the form of the scorecard."""
    own = score.columns.get(name)
    values = np.empty(0) if own is None else _present(_column(own, False, score.n_total))
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
    """Write ``scores/part-NNNNN.parquet``: the shards' rows with the data-set metrics' columns beside them.

    A part holds whole shards, as many as reach ``PART_ROWS`` or ``PART_BYTES``.
    """
    with writing(target):
        target.mkdir(exist_ok=True)
        for stale in target.glob("part-*.parquet"):
            stale.unlink()
    held: list[pa.Table] = []
    written = 0
    for table in _rows(shards, columns):
        held.append(table)
        if sum(map(len, held)) >= PART_ROWS or sum(part.nbytes for part in held) >= PART_BYTES:
            write_table(target / f"part-{written:05d}.parquet", pa.concat_tables(held), group_rows=GROUP_ROWS)
            held, written = [], written + 1
    if held:
        write_table(target / f"part-{written:05d}.parquet", pa.concat_tables(held), group_rows=GROUP_ROWS)


def _rows(shards: Sequence[Path], columns: Mapping[str, pa.Array]) -> Iterator[pa.Table]:
    """Each shard's table with its part of ``columns``, which have one value a readable record."""
    at = 0
    for shard in shards:
        table = read_table(shard / "scores.parquet")
        can_read = pc.not_equal(table["state"], "unreadable").combine_chunks()
        n = int(pc.sum(can_read).as_py() or 0)
        # Row k of the shard is the (number of readable rows before it)-th sample, or no sample at all.
        places = np.cumsum(can_read.to_numpy(zero_copy_only=False)) - 1
        take = pa.array(places + at, mask=~can_read.to_numpy(zero_copy_only=False))
        for name, array in columns.items():
            column = array.take(take)
            if pa.types.is_dictionary(column.type):
                column = column.cast(pa.string())
            if name.endswith("_reason"):
                column = pc.if_else(can_read, column, "record unreadable")
            table = table.append_column(name, column)
        yield table
        at += n


def repeated_ids(scores: Path) -> pa.Table:
    """An issue for each readable record whose id an earlier one has, as a table of ISSUE_SCHEMA."""
    columns = ["row", "id", "file", "line", "state"]
    table = readable(read_table(scores, columns, coded=["file"])).combine_chunks()
    ids = table["id"].dictionary_encode("encode").combine_chunks().indices.to_numpy()
    _, firsts = np.unique(ids, return_index=True)
    first = firsts[ids]  # codes are numbered without gaps
    later = np.flatnonzero(first != np.arange(len(table)))
    found, earlier = table.take(later), table.take(first[later])
    files = earlier["file"].combine_chunks()
    names = pa.array([Path(file).name for file in files.dictionary.to_pylist()], pa.string())
    place = pc.binary_join_element_wise(
        names.take(files.indices), earlier["line"].cast(pa.string()).combine_chunks(), ":"
    )
    issues = {
        "kind": pa.repeat("duplicate_id", len(found)),
        "severity": pa.repeat("note", len(found)),
        "detail": pc.binary_join_element_wise(place, "has the same id", " "),
        "file": found["file"].cast(pa.string()),
        **{name: found[name] for name in ("line", "row", "id")},
    }
    return pa.table([issues[name] for name in ISSUE_SCHEMA.names], schema=ISSUE_SCHEMA)


def write_issues(shards: Sequence[Path], more: Sequence[pa.Table], target: Path) -> pa.Table:
    """Join the shards' issues and ``more`` tables of them into one, in the order of the records."""
    tables = [read_table(shard / "issues.parquet", ISSUE_SCHEMA.names) for shard in shards]
    table = pa.concat_tables([*tables, *more]).sort_by([("row", "ascending"), ("kind", "ascending")])
    write_table(target, table)
    return table


def _present(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    # Unsafe is only that a float64 rounds integers beyond 2⁵³.
    values: NDArray[np.float64] = column.drop_null().cast(pa.float64(), safe=False).to_numpy()
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
