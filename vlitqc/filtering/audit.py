"""The audit of a filter: what became of every record and why, written as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlitqc.engine.disk import write_json
from vlitqc.engine.inputs import home
from vlitqc.engine.run import Run
from vlitqc.errors import RunError
from vlitqc.filtering.table import ScoreTable
from vlitqc.formats.folder import AUDITED, DECISIONS, FATES, FILTER
from vlitqc.formats.writing import whole

if TYPE_CHECKING:
    from vlitqc.filtering.decisions import Decided
    from vlitqc.filtering.selection import Selected

RUN_SHA256 = b"vlitqc.run_sha256"
WRITTEN = b"vlitqc.written"
"""Keys in the schema of the decisions, beside ``AUDITED``: sha256 of the run's ``run.json``, names of all outputs."""

NOT_SELECTED = "not selected"
UNREADABLE = "unreadable"

BATCH = 100_000
POINTERS = "filters.json"
MAX_POINTERS = 20

_TEXT = pa.large_string()
_ENTRY = pa.struct(
    [
        ("rule", _TEXT),
        ("column", _TEXT),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("text", _TEXT),
    ]
)
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", _TEXT),
        ("file", _TEXT),
        ("line", pa.int64()),
        ("fate", _TEXT),
        ("kept", pa.bool_()),
        ("must_keep", pa.bool_()),
        ("rules_failed", pa.list_(_ENTRY)),
    ]
)
_PLACE = ("row", "id", "file", "line")
_REPEATED = [
    "file",
    "fate",
    *(f"rules_failed.list.element.{name}" for name in ("rule", "column", "threshold", "text")),
]
"""Columns with few different values; of the others a dictionary costs time and space."""


@dataclass(frozen=True)
class Verdicts:
    """What was decided on every record, in the order of the input.

    ``fates`` are indices into ``FATES``. Of the records that are dropped and fail no rule the selection says why.
    """

    decided: Decided
    fates: NDArray[np.int8]
    must_keep: NDArray[np.bool_]
    selected: Selected | None

    @property
    def not_selected(self) -> NDArray[np.bool_]:
        """The records that no rule drops and the selection does."""
        mask: NDArray[np.bool_] = (self.fates == FATES.index("dropped")) & (self.decided.failed == 0)
        return mask


def batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows of a query in their order, a hundred thousand at a time; the rest is never held in memory."""
    found = frame.collect_batches(chunk_size=BATCH, maintain_order=True, lazy=True, engine="streaming")
    yield from found


def decisions(table: ScoreTable, verdicts: Verdicts) -> Iterator[pa.RecordBatch]:
    """One row a record: its place, its fate, and an entry for every comparison of each rule that it fails.

    An entry has ``value`` and ``threshold`` where a number was compared, ``text`` where something else was. A record
    that was not selected has one entry, with the reason as its text; so has an unreadable one.
    """
    rules = verdicts.decided.rules
    told = [(k, compared) for k, rule in enumerate(rules) for compared in rule.compared]
    kinds = table.scores.select(
        compared.value.alias(str(i)) for i, (_, compared) in enumerate(told)
    ).collect_schema()
    numeric = [kind.is_numeric() for kind in kinds.values()]
    query = [pl.col(name) for name in _PLACE]
    for i, (_, compared) in enumerate(told):
        query.append(compared.value.cast(pl.Float64 if numeric[i] else pl.String).alias(f"value {i}"))
        if compared.threshold is not None:
            query.append(compared.threshold.cast(pl.Float64).alias(f"threshold {i}"))
    # A rule that compares nothing has an entry all the same.
    bare = [k for k, rule in enumerate(rules) if not rule.compared]
    owners = np.array([*(k for k, _ in told), *bare], np.uint64)
    names = pa.array([*(rules[int(k)].words for k in owners), NOT_SELECTED, UNREADABLE], _TEXT)
    columns = pa.array([*(compared.column for _, compared in told), *[None] * (len(bare) + 2)], _TEXT)
    not_selected = verdicts.not_selected
    at = 0
    for batch in batches(table.scores.select(query)):
        n = len(batch)
        here = slice(at, at + n)
        fates, failed = verdicts.fates[here], verdicts.decided.failed[here]
        left = not_selected[here]
        unreadable = fates == FATES.index(UNREADABLE)
        mask = np.column_stack([(failed[:, None] >> owners) & np.uint64(1) != 0, left, unreadable])
        records, entries = np.nonzero(mask)
        numbers: list[pa.Array] = []
        thresholds: list[pa.Array] = []
        texts: list[pa.Array] = []
        for i, (_, compared) in enumerate(told):
            value = batch[f"value {i}"].to_arrow()
            numbers.append(value if numeric[i] else pa.nulls(n, pa.float64()))
            texts.append(pa.nulls(n, _TEXT) if numeric[i] else value.cast(_TEXT))
            bound = compared.threshold is not None
            thresholds.append(batch[f"threshold {i}"].to_arrow() if bound else pa.nulls(n, pa.float64()))
        why = np.full(n, None, object)
        if verdicts.selected is not None and left.any():
            why[left] = verdicts.selected.why(np.flatnonzero(left) + at)
        numbers += [pa.nulls(n, pa.float64())] * (len(bare) + 2)
        thresholds += [pa.nulls(n, pa.float64())] * (len(bare) + 2)
        texts += [pa.nulls(n, _TEXT)] * len(bare)
        texts += [pa.array(why, _TEXT), pa.repeat(UNREADABLE, n).cast(_TEXT)]
        chosen = pa.array(entries * n + records)
        evidence = pa.StructArray.from_arrays(
            [
                names.take(pa.array(entries)),
                columns.take(pa.array(entries)),
                *(pa.concat_arrays(pool).take(chosen) for pool in (numbers, thresholds, texts)),
            ],
            fields=list(_ENTRY),
        )
        offsets = np.concatenate([[0], mask.sum(axis=1).cumsum()]).astype(np.int32)
        yield pa.record_batch(
            [
                *(batch[name].to_arrow().cast(SCHEMA.field(name).type) for name in _PLACE),
                pa.array(FATES, _TEXT).take(pa.array(fates)),
                pa.array(fates == FATES.index("kept")),
                pa.array(verdicts.must_keep[here]),
                pa.ListArray.from_arrays(pa.array(offsets), evidence),
            ],
            schema=SCHEMA,
        )
        at += n


def write_decisions(path: Path, table: ScoreTable, verdicts: Verdicts, metadata: Mapping[bytes, str]) -> None:
    """Write or replace the audit, in row groups of a hundred thousand records; it appears whole or not at all."""
    with (
        whole(path, ()) as draft,
        pq.ParquetWriter(
            draft, SCHEMA.with_metadata(dict(metadata)), compression="zstd", use_dictionary=_REPEATED
        ) as writer,
    ):
        for batch in decisions(table, verdicts):
            writer.write_batch(batch)


# ---------------------------------------------------------------- which audit is whose


def run_sha256(run: Run) -> str:
    """Of ``run.json``, which differs between two runs of the same input."""
    return sha256_of(run.path / "run.json")


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def metadata_of(audit: Path) -> dict[bytes, bytes]:
    """What a file of decisions says of itself; empty where it is not one of ours, or cannot be read."""
    try:
        told: dict[bytes, bytes] = pq.read_schema(audit).metadata or {}
    except (OSError, pa.ArrowException):
        return {}
    return told if AUDITED in told else {}


def inputs_of(audit: Path) -> list[Path] | None:
    """The paths of the input that a file of decisions is about; None where it is not one of ours."""
    try:
        return [Path(path) for path in json.loads(metadata_of(audit)[AUDITED])]
    except (KeyError, ValueError, TypeError):
        return None


def written_of(audit: Path) -> set[str]:
    """The names of the outputs that came, or were to come, with a file of decisions."""
    try:
        return {str(name) for name in json.loads(metadata_of(audit)[WRITTEN])}
    except (KeyError, ValueError, TypeError):
        return set()


def filter_of(audit: Path) -> dict[str, Any] | None:
    """The ``.filter.json`` beside a file of decisions; None where it is not there, or is another's."""
    beside = audit.with_name(audit.name.removesuffix(DECISIONS) + FILTER)
    try:
        told: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        ours = told["written"]["decisions"]["sha256"] == sha256_of(audit)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return told if ours else None


def remember(run: Run, audit: Path) -> None:
    """Put an audit first in the run's list of its latest filters; a run that cannot be written to goes without."""
    told = [str(audit.absolute()), *map(str, remembered(run))]
    with suppress(RunError):
        write_json(run.path / POINTERS, {"filters": list(islice(dict.fromkeys(told), MAX_POINTERS))})
        if run.mirror:
            run.mirror.push(POINTERS)


def remembered(run: Run) -> list[Path]:
    """The audits of the run's latest filters, newest first, whether they are still there or not."""
    try:
        told: Any = json.loads((run.path / POINTERS).read_text(encoding="utf-8"))
        return [Path(path) for path in told["filters"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def latest(run: Run) -> Path | None:
    """The newest audit of this run that is still there; also one beside the input that the run does not list."""
    folder, stem = home([Path(path) for path in run.info["input"]["paths"]])
    sha256 = run_sha256(run).encode()
    for audit in (*remembered(run), folder / f"{stem}{DECISIONS}"):
        if metadata_of(audit).get(RUN_SHA256) == sha256:
            return audit
    return None
