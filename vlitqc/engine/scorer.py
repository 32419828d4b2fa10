"""Scores one shard: decode, run every metric on every batch, isolate faults to their sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from vlitqc.engine.plan import Plan, Planned, fingerprint, image_side, prepare, without
from vlitqc.engine.shards import Done, Shard, folder, read_done, shard_fingerprint, write_shard
from vlitqc.errors import ModelUnavailable, as_reason
from vlitqc.media import MediaLoader, issue_kind
from vlitqc.models.store import ModelStore
from vlitqc.types import (
    Batch,
    DatasetMetric,
    Features,
    Image,
    Issue,
    MetricSpec,
    Sample,
    SampleMetric,
    Score,
    Unreadable,
)

R = TypeVar("R")

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
}
"""What the table of scores says of every record before any metric: its place, its state, its size."""


def metric_columns(spec: MetricSpec) -> dict[str, pa.DataType]:
    """The columns of a sample metric: value, parts, notes, reason."""
    parts = {f"{spec.name}_{part}": pa.float64() for part in spec.parts}
    notes = {f"{spec.name}_{note}": pa.string() for note in spec.notes}
    return {spec.name: pa.float64(), **parts, **notes, f"{spec.name}_reason": pa.string()}


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
            threads=plan.decode_threads,
        )

    def score(self, shard: Shard) -> Done:
        """Score the shard, or take it over if an earlier run finished exactly the same.

        A shard with faults that may pass (a server that was down) is scored again. The ``usage`` returned is
        that of this call.
        """
        path = folder(self.shards, shard.index)
        mark = self._mark(shard)
        done = read_done(path)
        if done is not None and done.fingerprint == mark and not done.retry:
            return replace(done, usage={})
        before = self.models.usage()
        samples = [r for r in shard.records if isinstance(r, Sample)]
        scores: dict[str, list[Score]] = {p.spec.name: [] for p in self.planned if p.spec.level == "sample"}
        features: dict[str, list[Features]] = {}
        issues = [issue for record in shard.records for issue in record.issues]
        unusable = {}
        offset = 0
        for batch in self._batches(samples):
            issues += _media_issues(batch)
            fresh: dict[str, Features] = {}
            for at, planned in enumerate(self.planned):
                try:
                    if planned.spec.level == "sample":
                        scores[planned.spec.name] += _scores(planned, batch)
                    else:
                        found, faults = _features(planned, batch)
                        issues += faults
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
        retry = any(score.retry for column in scores.values() for score in column)
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
        media = (self.media.fingerprint(m) for r in shard.records if isinstance(r, Sample) for m in r.media)
        return shard_fingerprint(self.fingerprint, shard, media)

    def _batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """Batches with their pictures decoded one batch ahead of the metrics."""
        size = self.plan.batch_size
        parts = [samples[i : i + size] for i in range(0, len(samples), size)]
        with ThreadPoolExecutor(1, thread_name_prefix="decode-ahead") as ahead:
            pending = [ahead.submit(self.media.load_batch, part) for part in parts[:1]]
            for i, part in enumerate(parts):
                images = pending.pop().result()
                if i + 1 < len(parts):
                    pending.append(ahead.submit(self.media.load_batch, parts[i + 1]))
                yield Batch(part, images)

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
            row |= {"start": o.start, "end": o.end, "sha256": o.sha256}
            if isinstance(record, Unreadable):
                reason = "record unreadable: " + "; ".join(issue.detail for issue in record.issues)
                row |= {"state": "unreadable", "n_turns": 0, "n_images": 0}
                row |= {f"{name}_reason": reason for name in scores}
            else:
                broken = o.row in failed or any(column[position].fault for column in scores.values())
                row |= {"state": "partial" if broken else "scored"}
                row |= {"n_turns": len(record.turns), "n_images": len(record.images)}
                for name, column in scores.items():
                    score = column[position]
                    row[name] = score.value
                    row[f"{name}_reason"] = score.reason
                    row |= {f"{name}_{part}": value for part, value in score.parts.items()}
                    row |= {f"{name}_{note}": text for note, text in score.notes.items()}
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

    return _isolated(checked, batch, lambda error, _: [Score(reason=error, fault=True)])


def _features(planned: Planned, batch: Batch) -> tuple[dict[str, Features], list[Issue]]:
    metric = planned.metric
    if metric is None:
        return {}, []
    assert isinstance(metric, DatasetMetric)
    faults: list[Issue] = []

    def fault(error: str, sample: Sample) -> list[dict[str, Features]]:
        o = sample.origin
        detail = f"{planned.spec.name}: {error}"
        faults.append(Issue("metric_error", "error", detail, o.file, o.line, o.row, sample.id))
        return [{}]

    parts = _isolated(lambda part: [dict(metric.features(part))], batch, fault)
    if len(parts) == 1:
        return parts[0], faults
    named: dict[str, list[Features]] = {}
    for i, part in enumerate(parts):
        for name, feature in part.items():
            named.setdefault(name, []).append(Features(feature.values, feature.index + i, feature.retry))
    return {name: _join(found) for name, found in named.items()}, faults


def _isolated(
    run: Callable[[Batch], list[R]], batch: Batch, failed: Callable[[str, Sample], list[R]]
) -> list[R]:
    """``run`` on the batch; if that raises, on each sample by itself, so that only the culprit is lost."""
    try:
        return run(batch)
    except ModelUnavailable:
        raise
    except Exception:  # noqa: BLE001 - a metric may raise anything; the culprit is found below
        results: list[R] = []
        for i, sample in enumerate(batch.samples):
            try:
                results += run(batch.part(i))
            except ModelUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - it becomes the sample's reason
                results += failed(as_reason(error), sample)
        return results


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
    def issue(sample: Sample, image: Image, fault: str) -> Issue:
        o = sample.origin
        return Issue(issue_kind(fault), "error", fault, o.file, o.line, o.row, sample.id)

    return [
        issue(sample, image, image.fault)
        for sample, images in zip(batch.samples, batch.images, strict=True)
        for image in images
        if image.fault is not None
    ]
