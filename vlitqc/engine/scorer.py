"""Scores shards: decode ahead, run every metric on every batch, isolate faults to their sample, write behind."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from vlitqc.engine.ahead import Ahead
from vlitqc.engine.clock import Clock
from vlitqc.engine.inspection import long_texts
from vlitqc.engine.mirror import MARKER
from vlitqc.engine.plan import (
    Plan,
    Planned,
    feature_cache,
    fingerprint,
    image_side,
    prepare,
    viewers,
    without,
)
from vlitqc.engine.shards import (
    Done,
    Shard,
    embedded,
    folder,
    in_utf8,
    parse_done,
    read_done,
    shard_fingerprint,
    write_shard,
)
from vlitqc.engine.sources import source_of
from vlitqc.errors import ModelUnavailable, UsageError, as_reason
from vlitqc.media import MediaLoader, issue_kind, remarks, undecoded
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
    Stage,
    Unreadable,
)

R = TypeVar("R")

MAX_BATCH_BYTES = 2 << 30
"""What the pictures of a batch can take decoded at most, unless a single record has more."""

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


@dataclass(slots=True, eq=False)
class _Work:
    """A shard under way: what is known of it so far."""

    shard: Shard
    mark: str
    scores: dict[str, list[Score]]
    issues: list[Issue] = field(default_factory=list)
    features: dict[str, list[Features]] = field(default_factory=dict)
    passing: bool = False
    n_samples: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """The next batch of a shard; without samples, the end of the shard, which an earlier run may have finished.

    ``is_there``: what an earlier run finished is where the run is kept.
    """

    work: _Work
    samples: Sequence[Sample] = ()
    taken: Done | None = None
    is_there: bool = True


@dataclass(slots=True, eq=False)
class _Found:
    """What is said of one batch."""

    issues: list[Issue]
    passing: bool
    scores: dict[str, list[Score]] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)


class _Undecoded(Exception):
    """A picture that was to be decoded when a metric looks at it could not be."""


class ShardScorer:
    """Holds one process's metrics and models; ``run`` finishes shards and says what they hold.

    ``models`` are those of the process where it has some already, and ``clock`` is its clock. ``unusable`` are the
    metrics whose model was there at first and then could not be had, with the reason. The shards of a run at a URL
    are taken over from there, and told when they are there.
    """

    def __init__(
        self, plan: Plan, shards: Path, models: ModelStore | None = None, clock: Clock | None = None
    ) -> None:
        self.plan = plan
        self.mirror = plan.mirror
        # That of the machine which asks need not be this one's.
        self.shards = self.mirror.folder / shards.name if self.mirror else shards
        self.unusable: dict[str, str] = {}
        self.clock = clock or Clock()
        with self.clock.measure("stage", Stage.SET_UP):
            self.models = models or ModelStore(plan.profile, device=plan.device, judge_limit=plan.judge_limit)
            self.planned = prepare(plan, self.models)
            self.fingerprint = fingerprint(plan, self.planned)
            elsewhere = self.models.elsewhere
            self.cache = feature_cache(plan, elsewhere.device if elsewhere else None)
            self.media = MediaLoader(
                plan.image_root,
                longest_side=image_side(plan.profile, self.planned),
                allow_outside=plan.allow_outside,
                remote=Remote(self.shards.with_name("remote"), allowed=True) if plan.allow_remote else None,
                threads=plan.decode_threads,
                cache=self.cache,
                viewers=viewers(self.planned),
            )

    def run(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Done]]:
        """Score every shard, or take it over if an earlier run finished exactly the same; in order.

        A shard with faults that may pass (a server that was down) is scored again. The ``usage`` and ``times`` of a
        marker are those of this call. While one batch is scored those after it are decoded, across the borders of
        shards, and a shard is written while the next is scored: it is told when it is on the disk. What ``shards``
        raises comes when those before are finished.
        """
        jobs = (job for shard in shards for job in self._jobs(shard, self.plan.batch_size))
        found = Ahead(self._batch, _decoded_bytes, _embedded_bytes).results(jobs)
        writing: tuple[Shard, Future[Done]] | None = None
        writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        try:
            for shard, write in self._finished(found):
                if writing is not None:
                    yield self._written(*writing)
                writing = shard, writer.submit(write)
            if writing is not None:
                yield self._written(*writing)
        finally:
            found.close()
            writer.shutdown(wait=True)

    def score(self, shard: Shard, *, deadly: Collection[int] = (), journal: Path | None = None) -> Done:
        """Score one shard as ``run`` does.

        Records whose rows are ``deadly``, because they end the process, are not touched. To find them, give a
        ``journal``: each record is then decoded and scored by itself, after its row is written there.
        """
        if deadly:
            records = (_buried(r) if r.origin.row in deadly else r for r in shard.records)
            shard = replace(shard, records=tuple(records))
        if journal is None:
            [(_, done)] = self.run([shard])
        else:
            journal = self.shards / journal.name
            self.shards.mkdir(parents=True, exist_ok=True)
            [(_, write)] = self._finished(self._one_by_one(shard, journal))
            done = self._told(write())
            if self.mirror:
                self.mirror.remove(f"{self.shards.name}/{journal.name}")
                journal.unlink()
        return done

    def _one_by_one(self, shard: Shard, journal: Path) -> Iterator[tuple[_Job, Batch]]:
        for job in self._jobs(shard, 1):
            if job.samples:
                journal.write_text(str(job.samples[0].origin.row))
                self._push(journal)
            yield job, self._batch(job)

    def _jobs(self, shard: Shard, size: int) -> Iterator[_Job]:
        """The shard's batches, and its end."""
        with self.clock.measure("stage", Stage.COMPARE):
            mark = self._mark(shard)
            done, is_there = self._found(folder(self.shards, shard.index))
        if done is not None and done.fingerprint == mark and not done.retry:
            yield _Job(_Work(shard, mark, {}), taken=replace(done, usage={}), is_there=is_there)
            return
        work = _Work(shard, mark, {p.spec.name: [] for p in self.planned if p.spec.level == "sample"})
        samples = [r for r in shard.records if isinstance(r, Sample)]
        for part in batches(samples, size, self.media.longest_side):
            yield _Job(work, part)
        yield _Job(work)

    def _found(self, path: Path) -> tuple[Done | None, bool]:
        """The marker of a shard, and whether it is where the run is kept. What is at a URL wins."""
        if self.mirror is None:
            return read_done(path), True
        there = self.mirror.read(f"{path.parent.name}/{path.name}/{MARKER}")
        return (read_done(path), False) if there is None else (parse_done(there), True)

    def _keep(self, shard: Shard, done: Done, is_there: bool) -> Done:
        if not is_there:
            self._push(folder(self.shards, shard.index))
        return done

    def _push(self, path: Path) -> None:
        if self.mirror:
            self.mirror.push(f"{path.parent.name}/{path.name}")

    def _mark(self, shard: Shard) -> str:
        media = [m for r in shard.records if isinstance(r, Sample) for m in r.media]
        self.media.gather(media)
        return shard_fingerprint(self.fingerprint, shard, map(self.media.fingerprint, media))

    def _batch(self, job: _Job, *, at_once: bool = False) -> Batch:
        samples = job.samples
        images, clips = self.media.load_batch(samples, at_once=at_once), self.media.clips(samples)
        return Batch(samples, images, clips, cache=self.cache, clock=self.clock)

    def _finished(self, found: Iterable[tuple[_Job, Batch]]) -> Iterator[tuple[Shard, Callable[[], Done]]]:
        """Every shard when its last batch is scored, with what is left to do: to write it."""
        before = self.models.usage()
        coming = iter(found)
        while True:
            with self.clock.measure("stage", Stage.WAIT_FOR_DECODE):
                job, batch = next(coming, (None, None))
            if job is None or batch is None:
                return
            if job.taken is not None:
                yield job.work.shard, partial(self._keep, job.work.shard, job.taken, job.is_there)
            elif job.samples:
                self._score(job, batch)
            else:
                usage = used_since(before, self.models.usage())
                before = self.models.usage()
                broken = any(planned.broken for planned in self.planned)
                yield job.work.shard, partial(self._write, job.work, usage, broken, dict(self.unusable))
            # While the next is waited for, this one's pictures may go.
            del job, batch

    def _score(self, job: _Job, batch: Batch) -> None:
        """Every metric on one batch; where a picture that waited could not be decoded, on all of them decoded anew.

        So what is said of such a picture, and whether the fault may pass, is the same as without a cache.
        """
        found: _Found | None = None
        with suppress(_Undecoded):
            found = self._scored(batch)
        if found is None or undecoded(batch.images):
            with self.clock.measure("stage", Stage.WAIT_FOR_DECODE):
                batch = self._batch(job, at_once=True)
            found = self._scored(batch)
        work = job.work
        for name, column in found.scores.items():
            work.scores[name] += column
        for name, feature in found.features.items():
            moved = Features(feature.values, feature.index + work.n_samples, feature.retry)
            work.features.setdefault(name, []).append(moved)
        work.issues += found.issues
        work.passing = work.passing or found.passing
        work.n_samples += len(batch)

    def _scored(self, batch: Batch) -> _Found:
        """What every metric says of one batch."""
        told = _Found(_media_issues(batch), _may_pass(batch))
        for at, planned in enumerate(self.planned):
            name = planned.spec.name
            with self.clock.measure("metric", name):
                try:
                    if planned.spec.level == "sample":
                        told.scores[name] = _scores(planned, batch)
                    else:
                        found, faults, starved = _features(planned, batch)
                        told.issues += faults
                        told.passing = told.passing or starved
                        told.features = found | told.features
                except ModelUnavailable as error:
                    # It would fail for every sample alike, after reading the weights anew each time.
                    self.unusable[name] = str(error)
                    self.planned[at] = without(planned, str(error))
                    if planned.spec.level == "sample":
                        told.scores[name] = _scores(self.planned[at], batch)
        return told

    def _write(
        self,
        work: _Work,
        usage: Mapping[str, Mapping[str, int]],
        broken: bool,
        unusable: Mapping[str, str],
    ) -> Done:
        shard = work.shard
        issues = [issue for record in shard.records for issue in record.issues]
        issues += [note for r in shard.records if isinstance(r, Sample) for note in long_texts(r)]
        issues += work.issues
        retry = work.passing or any(score.retry for column in work.scores.values() for score in column)
        retry = retry or any(part.retry for parts in work.features.values() for part in parts)
        # The mark is of a plan with these metrics, and what is missing may be there when the same command comes again.
        retry = retry or bool(unusable)
        done = Done(work.mark, len(shard.records), work.n_samples, retry, usage, unusable)
        failed = {issue.row for issue in issues if issue.severity == "error"}
        if broken:
            failed = {record.origin.row for record in shard.records}
        specs = [planned.spec for planned in self.planned if planned.spec.level == "sample"]
        table = score_table(shard.records, specs, work.scores, failed)
        features = {name: _join(parts) for name, parts in work.features.items()}
        path = folder(self.shards, shard.index)
        write_shard(path, done, table, issues, features)
        self._push(path)
        return done

    def _written(self, shard: Shard, future: Future[Done]) -> tuple[Shard, Done]:
        """The shard when it is on the disk."""
        with self.clock.measure("stage", Stage.WAIT_FOR_WRITE):
            done = future.result()
        return shard, self._told(done)

    def _told(self, done: Done) -> Done:
        """The marker with where the time went, and what the cache did, since the last one."""
        times = self.clock.take() | {"decode": {"busy": self.media.spent()}}
        return replace(done, times=times, cache=self.cache.take() if self.cache else {})


def batches(samples: Sequence[Sample], size: int, side: int) -> Iterator[Sequence[Sample]]:
    """The samples in parts of ``size``, or fewer where these would have more than two pictures a record of it, or
    more than ``MAX_BATCH_BYTES`` were each picture a square of ``side`` pixels: the records and the plan alone decide.
    """
    most = min(2 * size, MAX_BATCH_BYTES // (3 * side**2))
    start = pictures = 0
    for at, sample in enumerate(samples):
        more = len(sample.images) if sample.media else 0
        if at > start and (at - start == size or pictures + more > most):
            yield samples[start:at]
            start, pictures = at, 0
        pictures += more
    if samples:
        yield samples[start:]


def score_table(
    records: Sequence[Record],
    specs: Sequence[MetricSpec],
    scores: Mapping[str, Sequence[Score]],
    failed: Collection[int],
) -> pa.Table:
    """The shard's table: ``BASE_COLUMNS`` and ``metric_columns``, one row a record.

    ``scores`` are those of the readable records, in order; rows in ``failed`` were scored in part.
    """
    origins = [record.origin for record in records]
    samples = [record for record in records if isinstance(record, Sample)]
    faulty = [sample.origin.row in failed for sample in samples]
    for column in scores.values():
        faulty = [known or score.fault for known, score in zip(faulty, column, strict=True)]
    whole = len(samples) == len(records)
    places = [i for i, record in enumerate(records) if isinstance(record, Sample)]

    def spread(values: Iterable[Any], otherwise: Sequence[Any]) -> Sequence[Any]:
        """Values of the samples, among those of the unreadable records."""
        if whole:
            return list(values)
        column = list(otherwise)
        for place, value in zip(places, values, strict=True):
            column[place] = value
        return column

    none, zeros = [None] * len(records), [0] * len(records)
    columns: dict[str, Sequence[Any]] = {
        "row": [o.row for o in origins],
        "id": [record.id for record in records],
        "file": [o.file for o in origins],
        "line": [o.line for o in origins],
        "start": [o.start for o in origins],
        "end": [o.end for o in origins],
        "sha256": [o.sha256 for o in origins],
        "state": spread(["partial" if bad else "scored" for bad in faulty], ["unreadable"] * len(records)),
        "n_turns": spread([len(sample.turns) for sample in samples], zeros),
        "n_images": spread([len(sample.images) for sample in samples], zeros),
        "n_media": spread([len(sample.media) for sample in samples], zeros),
        "source": [source_of(record) for record in records],
    }
    schema = dict(BASE_COLUMNS)
    unread = [None if isinstance(record, Sample) else _unreadable(record) for record in records]
    for spec in specs:
        schema |= metric_columns(spec)
        column = scores[spec.name]
        columns[spec.name] = spread([score.value for score in column], none)
        columns[f"{spec.name}_reason"] = spread([in_utf8(score.reason) for score in column], unread)
        for part in spec.parts:
            columns[f"{spec.name}_{part}"] = spread([score.parts.get(part) for score in column], none)
        for note in spec.notes:
            columns[f"{spec.name}_{note}"] = spread(
                [in_utf8(score.notes.get(note)) for score in column], none
            )
    return pa.table(
        [pa.array(columns[name], kind) for name, kind in schema.items()], schema=pa.schema(schema)
    )


def _unreadable(record: Record) -> str:
    return "record unreadable: " + "; ".join(issue.detail for issue in record.issues)


def _embedded_bytes(job: _Job) -> int:
    return sum(embedded(sample) for sample in job.samples)


def _decoded_bytes(batch: Batch) -> int:
    """What the batch's pictures take, those that wait to be decoded as their files."""
    held: dict[int, int] = {}
    for row in batch.images:
        for image in row:
            source = image.source
            held[id(source)] = source.nbytes if isinstance(source, np.ndarray) else image.n_bytes
    return sum(held.values())


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
    except Exception as error:
        if undecoded(batch.images):
            raise _Undecoded from error
        starved = _out_of_memory(error)
        reason = "error: out of memory for this sample alone" if starved else as_reason(error)
    # Only here, outside the handler, is what the failed call held free again.
    torch = sys.modules.get("torch")
    if starved and torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        return failed(reason, starved, batch.samples[0])
    half = len(batch) // 2
    halves = (batch.part(0, half), batch.part(half, len(batch)))
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
        if not sample.media:
            continue
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
