"""Shards: the unit of work that is finished whole or not at all.

A shard's folder is written under a temporary name and renamed when complete, so a folder called
``shards/00007`` is always whole. Its ``done.json`` holds a fingerprint of the plan and of its records and
pictures; a later run takes the shard over if it would compute the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlitqc.engine import disk
from vlitqc.formats.writing import remove
from vlitqc.types import Features, Issue, Record, Sample

SYNCED_AT_ONCE = 8
SHARD_BYTES = 64 << 20
"""A shard is closed when the media within its records are more: memory is bounded by the batch, not by the data."""

ISSUE_SCHEMA = pa.schema(
    [(f.name, pa.int64() if f.name in ("line", "row") else pa.string()) for f in fields(Issue)]
)


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive records, readable or not."""

    index: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The marker of a finished shard.

    ``retry``: it holds faults that may pass, so the same command scores it again. ``usage`` counts what its
    judges were asked, by slot. ``unavailable`` names the metrics whose model could not be loaded, with the
    reason. ``times`` are seconds by section and name, and ``cache`` is ``FeatureCache.take``; both
    stay out of the file: equal shards are equal bytes.
    """

    fingerprint: str
    n_records: int
    n_samples: int
    retry: bool = False
    usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)


def shard_size(index: int) -> int:
    """Records in shard ``index``: 32 at first, doubling every fourth shard up to 2,048.

    A small data set resumes finely, a large one does not drown in folders, and the cut points do not depend
    on the length of the input, so an extended file keeps its shards.
    """
    return int(min(32 * 2 ** (index // 4), 2048))


def cut(records: Iterable[Record]) -> Iterator[Shard]:
    """Records in shards, streaming; one also ends where its embedded media exceed ``SHARD_BYTES``."""
    index = weight = 0
    held: list[Record] = []
    for record in records:
        held.append(record)
        weight += embedded(record)
        if len(held) == shard_size(index) or weight > SHARD_BYTES:
            yield Shard(index, tuple(held))
            index, weight, held = index + 1, 0, []
    if held:
        yield Shard(index, tuple(held))


def embedded(record: Record) -> int:
    """Bytes of the media within a record."""
    media = record.media if isinstance(record, Sample) else ()
    return sum(len(medium.data) for medium in media if medium.data is not None)


def shard_fingerprint(plan: str, shard: Shard, media: Iterable[str]) -> str:
    """A hash of the plan's fingerprint, every record's bytes and place, and every picture file's state."""
    digest = hashlib.sha256(plan.encode())
    for record in shard.records:
        o = record.origin
        digest.update(f"\n{o.file}\0{o.row}\0{o.line}\0{o.start}\0{o.end}\0{o.sha256}".encode())
    for state in media:
        digest.update(f"\n{state}".encode())
    return digest.hexdigest()


def folder(shards: Path, index: int) -> Path:
    """Where shard ``index`` is kept."""
    return shards / f"{index:05d}"


def read_done(path: Path) -> Done | None:
    """The marker of a shard's folder, or None where the shard is not finished."""
    try:
        return parse_done((path / "done.json").read_bytes())
    except FileNotFoundError:
        return None


def parse_done(content: bytes) -> Done | None:
    """The marker that a file holds, or None where it holds none."""
    try:
        return Done(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None


def write_shard(
    path: Path, done: Done, table: pa.Table, issues: Iterable[Issue], features: Mapping[str, Features]
) -> None:
    """Write a whole shard and rename it into place; the marker is the last file.

    Raises RunError where the disk refuses; nothing of the shard is then left.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with disk.writing(path):
        try:
            remove(fresh)
            (fresh / "features").mkdir(parents=True)
            pq.write_table(table, fresh / "scores.parquet", compression="zstd")
            pq.write_table(issue_table(issues), fresh / "issues.parquet", compression="zstd")
            for name, feature in features.items():
                base = fresh / "features" / name
                disk.save(base.with_name(f"{name}.index.npy"), feature.index)
                if isinstance(feature.values, np.ndarray):
                    disk.save(base.with_name(f"{name}.npy"), feature.values)
                else:
                    strings = pa.table({"text": pa.array(feature.values, pa.string())})
                    pq.write_table(strings, f"{base}.parquet", compression="zstd")
            written = (*fresh.glob("*.parquet"), *(fresh / "features").iterdir())
            # A disk takes several at once in the time of one.
            with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
                list(pool.map(disk.sync, written))
            with (fresh / "done.json").open("w") as stream:
                told = asdict(done)
                del told["times"], told["cache"]
                json.dump(told, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if path.exists():
                # Without its marker a half-deleted folder cannot pass for a finished shard.
                (path / "done.json").unlink(missing_ok=True)
                shutil.rmtree(path)
            fresh.rename(path)
            disk.sync(path.parent)
        finally:
            remove(fresh)


def issue_table(issues: Iterable[Issue]) -> pa.Table:
    """Issues as a table of ISSUE_SCHEMA."""
    found = list(issues)
    columns = {name: [getattr(issue, name) for issue in found] for name in ISSUE_SCHEMA.names}
    columns["detail"] = [in_utf8(detail) for detail in columns["detail"]]
    return pa.table(columns, schema=ISSUE_SCHEMA)


def in_utf8(text: str | None) -> str | None:
    """The text with half a surrogate pair, which no table can hold, spelled ``\\udcff``."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
