"""Scores one shard: decode, run every metric on every batch, isolate faults to their sample."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from vlitqc.engine.inspection import long_texts
from vlitqc.engine.plan import Plan, Planned, fingerprint, image_side, prepare, without
from vlitqc.engine.shards import Done, Shard, folder, in_utf8, read_done, shard_fingerprint, write_shard
from vlitqc.engine.sources import source_of
from vlitqc.errors import ModelUnavailable, UsageError, as_reason
from vlitqc.media import MediaLoader, issue_kind, remarks
from vlitqc.models.store import ModelStore
from vlitqc.remote import Remote
from vlitqc.types import (
    Batch,
    Clip,
    DatasetMetric,
    Features,
    Image,
    Issue,
    MetricSpec,
    Record,
    Sample,
    SampleMetric,
    Score,
    Unreadable,
)

R = TypeVar("R")

MAX_PICTURES = 64
"""Pictures that a batch holds decoded at most, unless a single record has more."""

BASE_COLUMNS: dict[str, pa.DataType] = {
    "row": pa.int64(),
    "id": pa.string(),
    "file": pa.string(),
    "line": pa.int64(),
    "start": pa.int64(),
    "end": pa.int64(),
    "sha256": pa.string(),
    "state": pa.string(),
    "n_turns": pa.int32(),
    "n_images": pa.int32(),
    "n_media": pa.int32(),
    "source": pa.string(),
}
"""What the table of scores says of every record before any metric: its place, its state, its size, its source.

``n_images`` counts pictures, ``n_media`` pictures, videos and sounds; ``source`` is ``sources.source_of``.
"""


def metric_columns(spec: MetricSpec) -> dict[str, pa.DataType]:
    """The columns of a sample metric: value, parts, notes, reason."""
    parts = {f"{spec.name}_{part}": pa.float64() for part in spec.parts}
    notes = {f"{spec.name}_{note}": pa.string() for note in spec.notes}
    return {spec.name: pa.float64(), **parts, **notes, f"{spec.name}_reason": pa.string()}


def check_columns(planned: Sequence[Planned]) -> None:
    """Raises UsageError where a metric would write a column that every table has, or that another metric writes."""
    owners = dict.fromkeys(BASE_COLUMNS, "every table of scores")
    for spec in (p.spec for p in planned):
        if spec.level == "sample":
            names = list(metric_columns(spec))
        else:
            names = [name for column in spec.columns for name in (column, f"{column}_reason")]
        for name in names:
            if name in owners:
                raise UsageError(
                    f"metric {spec.name} writes the column '{name}', which {owners[name]} has; "
                    "rename it in the metric's spec, or leave the metric out with --metrics"
                )
        owners |= dict.fromkeys(names, f"metric {spec.name}")


class ShardScorer:
    """Holds one process's metrics and models; ``score`` finishes one shard and says what it holds.

    ``models`` are those of the process where it has some already.
    """

    def __init__(self, plan: Plan, shards: Path, models: ModelStore | None = None) -> None:
        self.plan = plan
        self.shards = shards
        self.models = models or ModelStore(plan.profile, device=plan.device, judge_limit=plan.judge_limit)
        self.planned = prepare(plan, self.models)
        self.fingerprint = fingerprint(plan, self.planned)
        self.media = MediaLoader(
            plan.image_root,
            longest_side=image_side(plan.profile, self.planned),
            allow_outside=plan.allow_outside,
            remote=Remote(shards.with_name("remote"), allowed=True) if plan.allow_remote else None,
            threads=plan.decode_threads,
        )

    def score(self, shard: Shard, *, deadly: Collection[int] = (), journal: Path | None = None) -> Done:
        """Score the shard, or take it over if an earlier run finished exactly the same.

        A shard with faults that may pass (a server that was down) is scored again. The ``usage`` returned is
        that of this call. Records whose rows are ``deadly``, because they end the process, are not touched. To
        find them, give a ``journal``: each record is then scored by itself, after its row is written there.
        """
        path = folder(self.shards, shard.index)
        mark = self._mark(shard)
        done = read_done(path)
        if done is not None and done.fingerprint == mark and not done.retry:
            return replace(done, usage={})
        before = self.models.usage()
        shard = replace(
            shard, records=tuple(_buried(r) if r.origin.row in deadly else r for r in shard.records)
        )
        samples = [r for r in shard.records if isinstance(r, Sample)]
        scores: dict[str, list[Score]] = {p.spec.name: [] for p in self.planned if p.spec.level == "sample"}
        features: dict[str, list[Features]] = {}
        issues = [issue for record in shard.records for issue in record.issues]
        issues += [issue for sample in samples for issue in long_texts(sample)]
        unusable = {}
        passing = False
        offset = 0
        for batch in self._batches(samples) if journal is None else self._one_by_one(samples, journal):
            issues += _media_issues(batch)
            passing = passing or _may_pass(batch)
            fresh: dict[str, Features] = {}
            for at, planned in enumerate(self.planned):
                try:
                    if planned.spec.level == "sample":
                        scores[planned.spec.name] += _scores(planned, batch)
                    else:
                        found, faults, starved = _features(planned, batch)
                        issues += faults
                        passing = passing or starved
                        fresh = found | fresh
                except ModelUnavailable as error:
                    # It would fail for every sample alike, after reading the weights anew each time.
                    unusable[planned.spec.name] = str(error)
                    self.planned[at] = without(planned, str(error))
                    if planned.spec.level == "sample":
                        scores[planned.spec.name] += _scores(self.planned[at], batch)
            for name, feature in fresh.items():
                moved = Features(feature.values, feature.index + offset, feature.retry)
                features.setdefault(name, []).append(moved)
            offset += len(batch)
        retry = passing or any(score.retry for column in scores.values() for score in column)
        retry = retry or any(part.retry for parts in features.values() for part in parts)
        usage = used_since(before, self.models.usage())
        # What is missing may be installed before the same command comes again.
        done = Done(mark, len(shard.records), len(samples), retry or bool(unusable), usage, unusable)
        failed = {issue.row for issue in issues if issue.severity == "error"}
        if any(planned.broken for planned in self.planned):
            failed = {record.origin.row for record in shard.records}
        table = self._table(shard, scores, failed)
        write_shard(path, done, table, issues, {name: _join(parts) for name, parts in features.items()})
        return done

    def _mark(self, shard: Shard) -> str:
        media = [m for r in shard.records if isinstance(r, Sample) for m in r.media]
        self.media.gather(media)
        return shard_fingerprint(self.fingerprint, shard, map(self.media.fingerprint, media))

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """Batches with their pictures decoded, and the headers of their clips read, one batch ahead of the metrics.

        A batch ends at ``batch_size`` samples, or before ``MAX_PICTURES`` are passed: the records alone decide.
        """
        parts: list[list[Sample]] = []
        room = 0
        for sample in samples:
            room -= len(sample.images)
            if not parts or len(parts[-1]) == self.plan.batch_size or room < 0:
                parts.append([])
                room = MAX_PICTURES - len(sample.images)
            parts[-1].append(sample)
        with ThreadPoolExecutor(1, thread_name_prefix="decode-ahead") as ahead:
            pending = [ahead.submit(self._batch, part) for part in parts[:1]]
            for i in range(len(parts)):
                batch = pending.pop().result()
                if i + 1 < len(parts):
                    pending.append(ahead.submit(self._batch, parts[i + 1]))
                yield batch

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        return Batch(samples, self.media.load_batch(samples), self.media.clips(samples))

    def _one_by_one(self, samples: Sequence[Sample], journal: Path) -> Iterator[Batch]:
        for sample in samples:
            journal.write_text(str(sample.origin.row))
            yield from self._batches([sample])

    def _table(self, shard: Shard, scores: dict[str, list[Score]], failed: Collection[int]) -> pa.Table:
        schema = dict(BASE_COLUMNS)
        for planned in self.planned:
            if planned.spec.level == "sample":
                schema |= metric_columns(planned.spec)
        rows: list[dict[str, Any]] = []
        position = 0
        for record in shard.records:
            o = record.origin
            row: dict[str, Any] = {"row": o.row, "id": record.id, "file": o.file, "line": o.line}
            row |= {"start": o.start, "end": o.end, "sha256": o.sha256, "source": source_of(record)}
            if isinstance(record, Unreadable):
                reason = "record unreadable: " + "; ".join(issue.detail for issue in record.issues)
                row |= {"state": "unreadable", "n_turns": 0, "n_images": 0, "n_media": 0}
                row |= {f"{name}_reason": reason for name in scores}
            else:
                broken = o.row in failed or any(column[position].fault for column in scores.values())
                row |= {"state": "partial" if broken else "scored"}
                row |= {"n_turns": len(record.turns), "n_images": len(record.images)}
                row |= {"n_media": len(record.media)}
                for name, column in scores.items():
                    score = column[position]
                    row[name] = score.value
                    row[f"{name}_reason"] = in_utf8(score.reason)
                    row |= {f"{name}_{part}": value for part, value in score.parts.items()}
                    row |= {f"{name}_{note}": in_utf8(text) for note, text in score.notes.items()}
                position += 1
            rows.append(row)
        return pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items())))


def used_since(
    before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """What was asked of each judge between two states of ``ModelStore.usage``."""
    return {
        slot: {key: n - before.get(slot, {}).get(key, 0) for key, n in counts.items()}
        for slot, counts in now.items()
    }


def _scores(planned: Planned, batch: Batch) -> list[Score]:
    metric = planned.metric
    if metric is None:
        return [Score(reason=planned.unavailable)] * len(batch)
    assert isinstance(metric, SampleMetric)

    def checked(part: Batch) -> list[Score]:
        found = metric.score(part)
        if len(found) != len(part):
            raise ValueError(f"{planned.spec.name} returned {len(found)} scores for {len(part)} samples")
        for score in found:
            if not isinstance(score, Score):
                raise TypeError(f"{planned.spec.name} returned {type(score).__name__} instead of Score")
            if not all(map(math.isfinite, score.parts.values())):
                raise ValueError(
                    f"{planned.spec.name} returned a part that is not finite: {dict(score.parts)}"
                )
        return found

    def fault(error: str, passing: bool, _: Sample) -> list[Score]:
        return [Score(reason=error, fault=True, retry=passing)]

    return _isolated(checked, batch, fault)


def _features(planned: Planned, batch: Batch) -> tuple[dict[str, Features], list[Issue], bool]:
    """The batch's features, an issue for each sample that has none, and whether some of those may pass."""
    metric = planned.metric
    if metric is None:
        return {}, [], False
    assert isinstance(metric, DatasetMetric)
    faults: list[Issue] = []
    retry = False

    def fault(error: str, passing: bool, sample: Sample) -> list[tuple[int, dict[str, Features]]]:
        nonlocal retry
        o = sample.origin
        detail = f"{planned.spec.name}: {error}"
        faults.append(Issue("metric_error", "error", detail, o.file, o.line, o.row, sample.id))
        retry = retry or passing
        return [(1, {})]

    parts = _isolated(lambda part: [(len(part), dict(metric.features(part)))], batch, fault)
    named: dict[str, list[Features]] = {}
    offset = 0
    for size, part in parts:
        for name, feature in part.items():
            named.setdefault(name, []).append(Features(feature.values, feature.index + offset, feature.retry))
        offset += size
    return {name: _join(found) for name, found in named.items()}, faults, retry


def _isolated(
    run: Callable[[Batch], list[R]], batch: Batch, failed: Callable[[str, bool, Sample], list[R]]
) -> list[R]:
    """``run`` on the batch; if that raises, on each half of it, until the culprit stands alone and is lost alone.

    ``failed`` gets the reason, and whether it may pass: too little memory for a single sample may.
    """
    try:
        return run(batch)
    except ModelUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a metric may raise anything; the culprit is found below
        starved = _out_of_memory(error)
        reason = "error: out of memory for this sample alone" if starved else as_reason(error)
    # Only here, outside the handler, is what the failed call held free again.
    torch = sys.modules.get("torch")
    if starved and torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        return failed(reason, starved, batch.samples[0])
    half = len(batch) // 2
    halves = [
        Batch(batch.samples[at], batch.images[at], batch.clips[at]) for at in (slice(half), slice(half, None))
    ]
    return [result for part in halves for result in _isolated(run, part, failed)]


def _out_of_memory(error: Exception) -> bool:
    """Whether it is Python's, CUDA's or torch's own way to say that memory is short."""
    told = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in told or "can't allocate memory" in told))
    )


def _buried(record: Record) -> Record:
    o = record.origin
    detail = (
        "scoring it ends the process (a fault in a library, or memory); the others were scored without it"
    )
    issue = Issue("crashed_worker", "error", detail, o.file, o.line, o.row, record.id)
    return Unreadable(o, (*record.issues, issue), record.id)


def _join(parts: Sequence[Features]) -> Features:
    index = np.concatenate([p.index for p in parts])
    retry = any(p.retry for p in parts)
    arrays = [p.values for p in parts if isinstance(p.values, np.ndarray)]
    if arrays:
        # A batch without a picture cannot know the width of the vectors, so empty blocks are left out.
        filled = [a for a in arrays if len(a)] or arrays[:1]
        return Features(np.concatenate(filled).astype(np.float32, copy=False), index, retry)
    return Features([text for p in parts for text in p.values], index, retry)


def _media_issues(batch: Batch) -> list[Issue]:
    found = []
    for sample, images, clips in zip(batch.samples, batch.images, batch.clips, strict=True):
        o = sample.origin
        media: list[Image | Clip] = [*images, *clips]
        for medium in media:
            if medium.fault is not None:
                kind = issue_kind(medium.fault, medium.kind if isinstance(medium, Clip) else "image")
                found.append(Issue(kind, "error", medium.fault, o.file, o.line, o.row, sample.id))
            for kind, detail in remarks(medium):
                found.append(Issue(kind, "note", detail, o.file, o.line, o.row, sample.id))
    return found


def _may_pass(batch: Batch) -> bool:
    """Whether some medium has a fault that may pass: the same command reads it again."""
    return any(medium.retry for rows in (batch.images, batch.clips) for row in rows for medium in row)
