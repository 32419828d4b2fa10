"""Memory and time of the data-set pass against the number of samples: each metric alone, in a process of its own.

The features are made up, as a run would store them: nobody has five million pictures at hand, and no model takes part
in this pass. A row tells the growth exponent of what a metric needs above the memory of a tiny data set, and the
samples that it resolves in a second. ``python benchmarks/speed/memory.py --full`` goes to five million samples; it
needs 16 GB of disk where temporary files go (TMPDIR), and about an hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from row import Options, Row, exponent, main
from vlitqc.engine import dataset, disk
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.plan import Planned
from vlitqc.engine.shards import Done, folder, shard_size, write_shard
from vlitqc.profiles import MetricEntry
from vlitqc.types import DatasetMetric, Features, ModelRef, Tag

QUICK, USUAL, FULL = (1_000, 2_000, 4_000), (20_000, 60_000, 180_000), (50_000, 500_000, 5_000_000)
TINY = 2_000
"""Samples of the data set whose memory is that of the libraries."""
LIMIT_MB, RATE = 4_000, 5_000
WIDTH = 384
WIDE = 2_000_000
"""Samples from which a metric with vectors of two kinds gets them narrower: the disk, not the memory, is the limit."""
CLUSTERED = 10_000
"""Items that are clustered or compared at most: that cost is quadratic and measured by other benchmarks."""
POOL = 100_000
"""Different vectors and texts; more of them would take longer to make than to resolve."""


@dataclass(frozen=True)
class Named:
    """A model that is only asked for its name."""

    ref: ModelRef

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        """As a tagger does whose proposals are its answers."""
        tags = {proposal: Tag(proposal) for proposal in set(proposals)}
        return [tags[proposal] for proposal in proposals]


def model(name: str) -> Any:
    return Named(ModelRef("Model", name, "", "0" * 64))


# ---------------------------------------------------------------- features as a run would store them


def hashes(numbers: np.ndarray) -> list[str]:
    """A text of 64 hexadecimal digits for each number, equal for equal numbers."""
    wide = np.empty((len(numbers), 4), np.uint64)
    for i in range(4):
        wide[:, i] = (numbers.astype(np.uint64) + np.uint64(i + 1)) * np.uint64(0x9E3779B97F4A7C15)
    digits = wide.tobytes().hex()
    return [digits[i : i + 64] for i in range(0, len(digits), 64)]


@cache
def rows_of(width: int) -> np.ndarray:
    """Unit rows around 300 centres, so that there are clusters and something beside them."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((300, width), np.float32)[rng.integers(0, 300, POOL)]
    spread = rng.choice(np.array([0.1, 0.9], np.float32), (POOL, 1))
    rows += spread * rng.standard_normal((POOL, width), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def vectors(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    return rows_of(width)[rng.integers(0, POOL, n)]


WORDS = [
    f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "ei", "o", "un") for c in ("ra", "lo", "mi", "ten")
]


@cache
def texts() -> list[str]:
    """Texts of 30 to 300 characters."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(6, 50, POOL)
    words = iter((rng.zipf(1.3, int(lengths.sum())) % len(WORDS)).tolist())
    return [" ".join(WORDS[next(words)] for _ in range(length)) for length in lengths.tolist()]


def pictures(start: int, n: int) -> np.ndarray:
    """The number of each sample's picture: one picture serves three samples, as in LLaVA's."""
    return np.arange(start, start + n) // 3


def every(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64)


def languages(rng: np.random.Generator, n: int, side: str) -> dict[str, Features]:
    codes = rng.choice(["", "", "", "", "de", "zh"], n).tolist()
    return {f"foreign-{side}-{model('languages').ref.key}-en": Features(codes, every(n))}


def of_duplicates(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    at = np.arange(start, start + n)
    # One record in thirty is that before it, one in fifteen nearly so.
    said = np.where(at % 30 == 1, at - 1, at)
    return {
        "conversation_sha256": Features(hashes(said), every(n)),
        "folded_conversation_sha256": Features(hashes(np.where(at % 15 == 1, at - 1, at)), every(n)),
        "instruction_sha256": Features(hashes(rng.integers(0, 100_000, n)), every(n)),
        "other_media": Features([""] * n, every(n)),
        "shortest_response_words": Features(
            rng.integers(1, 60, n).astype(np.float32).reshape(-1, 1), every(n)
        ),
        f"response-{model('text').ref.key}": Features(vectors(rng, n, width), every(n)),
        **of_pictures(rng, start, n, 8),
    }


def of_pictures(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    key = model("image").ref.key
    return {
        f"picture-{key}": Features(vectors(rng, n, width), every(n)),
        f"picture-sha256-{key}": Features(hashes(pictures(start, n)), every(n)),
    }


def of_responses(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    found = {f"response-{model('text').ref.key}": Features(vectors(rng, n, width), every(n))}
    return found | languages(rng, n, "response")


def of_matching(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    name = f"match-{model('image').ref.key}-{model('languages').ref.key}-en"
    found = {name: Features(vectors(rng, n, width), every(n)), **of_pictures(rng, start, n, width)}
    return found | languages(rng, n, "response")


def of_instructions(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    tasks = [f"task {i}" for i in (rng.zipf(1.5, n) % 40).tolist()]
    asked = [texts()[i] for i in rng.integers(0, POOL, n).tolist()]
    return {
        f"tasks-{model('tagger').ref.key}": Features(tasks, every(n)),
        "instructions": Features(asked, every(n)),
        **languages(rng, n, "instruction"),
    }


def of_objects(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    keys = hashes(pictures(start, n))
    kinds = (rng.zipf(1.4, (n, 3)) % 80).tolist()
    values = [
        json.dumps([key, {f"thing {kind}": 1 for kind in found}])
        for key, found in zip(keys, kinds, strict=True)
    ]
    return {"objects-annotated": Features(values, every(n))}


def of_composition(rng: np.random.Generator, start: int, n: int, width: int) -> dict[str, Features]:
    shape = np.stack([np.ones(n), rng.integers(0, 3, n), np.zeros(n), np.zeros(n)], axis=1)
    return {
        "shape": Features(shape.astype(np.float32), every(n)),
        "lengths": Features(rng.integers(1, 90, (n, 2)).astype(np.float32), every(n)),
        "sizes": Features(rng.integers(50, 2_000, (n, 2)).astype(np.float32), every(n)),
        "languages": Features(rng.choice(["en", "de", "zh", "fr"], n).tolist(), every(n)),
    }


@dataclass(frozen=True)
class Case:
    """A metric, the features that it resolves, and what else the table says of it."""

    build: Callable[[], DatasetMetric]
    features: Callable[[np.random.Generator, int, int, int], Mapping[str, Features]]
    kinds: int = 0
    """How many kinds of wide vectors it has."""
    rate: float | None = None
    note: str = ""


def cases() -> dict[str, Case]:
    from vlitqc_metrics.composition import Composition
    from vlitqc_metrics.duplicates import Duplicates
    from vlitqc_metrics.instruction_diversity import InstructionDiversity
    from vlitqc_metrics.matching_percentile import MatchingPercentile
    from vlitqc_metrics.object_categories import ObjectCategories
    from vlitqc_metrics.response_diversity import ResponseDiversity
    from vlitqc_metrics.task_balance import TaskBalance
    from vlitqc_metrics.task_diversity import TaskDiversity
    from vlitqc_metrics.visual_semantic_diversity import VisualSemanticDiversity

    text, image, tagger, told = (model(name) for name in ("text", "image", "tagger", "languages"))
    drawn = f"{CLUSTERED:,} at most are clustered"
    return {
        "composition": Case(lambda: Composition(told), of_composition, rate=RATE),
        "duplicates": Case(
            lambda: Duplicates(text, image, max_pictures=CLUSTERED),
            of_duplicates,
            1,
            RATE,
            "with text vectors",
        ),
        "instruction_diversity": Case(
            lambda: InstructionDiversity(tagger, language_model=told), of_instructions, rate=RATE
        ),
        "matching_percentile": Case(lambda: MatchingPercentile(image, language_model=told), of_matching, 2),
        "object_categories": Case(ObjectCategories, of_objects),
        "response_diversity": Case(
            lambda: ResponseDiversity(text, max_items=CLUSTERED, language_model=told),
            of_responses,
            1,
            None,
            drawn,
        ),
        "task_balance": Case(lambda: TaskBalance(tagger, language_model=told), of_instructions, rate=RATE),
        "task_diversity": Case(
            lambda: TaskDiversity(tagger, language_model=told), of_instructions, rate=RATE
        ),
        "visual_semantic_diversity": Case(
            lambda: VisualSemanticDiversity(image, max_items=CLUSTERED), of_matching, 2, None, drawn
        ),
    }


SHOWN = ("composition",)
"""What ``--quick`` runs, with the tables."""
TABLES = "tables"
"""What the engine itself does with every record's row: parts of the scores, repeated ids, issues."""
COLUMNS = 12


def table(rng: np.random.Generator, start: int, n: int, columns: int = 0) -> pa.Table:
    """Rows of the table of scores, with so many metrics."""
    at = np.arange(start, start + n)
    found: dict[str, Any] = {
        "row": at,
        "id": pa.array([f"record-{i - (i % 50 == 1)}" for i in at.tolist()]),
        "file": pa.array(["/data/set/part.jsonl"] * n),
        "line": at + 1,
        "start": at * 700,
        "end": at * 700 + 650,
        "sha256": pa.array(hashes(at)),
        "state": pa.array(["scored"] * n),
    }
    for i in range(columns):
        missing = rng.random(n) < 0.1
        found[f"metric_{i}"] = pa.array(rng.standard_normal(n), mask=missing)
        reasons = ["no picture" if gone else None for gone in missing.tolist()]
        found[f"metric_{i}_reason"] = pa.array(reasons, pa.string())
    return pa.table(found)


def make(path: Path, n: int, name: str) -> None:
    """Write the shards of a run of ``n`` samples, with what the metric ``name`` needs."""
    case = cases().get(name)
    width = WIDTH // 2 if case and case.kinds > 1 and n >= WIDE else WIDTH
    start = index = 0
    # To reach the disk itself is no part of what is measured.
    with mock.patch.object(disk, "sync", lambda path: None), mock.patch("os.fsync", lambda number: None):
        while start < n:
            size = min(shard_size(index), n - start)
            rng = np.random.default_rng([start, 7])
            features = case.features(rng, start, size, width) if case else {}
            rows = table(rng, start, size, 0 if case else COLUMNS)
            write_shard(folder(path / "shards", index), Done("", size, size), rows, (), features)
            start, index = start + size, index + 1


# ---------------------------------------------------------------- one measurement, in a process of its own


def resident() -> dict[str, int]:
    """Bytes of this process: resident now, of these not backed by a file, and resident at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    told = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return {key: int(told[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "VmHWM")}


def measure(path: Path, n: int, name: str) -> dict[str, float]:
    """Resolve one metric over a run's shards: seconds, CPU seconds, bytes."""
    shards: list[Path] = []
    sizes: list[int] = []
    while (shard := folder(path / "shards", len(shards))).is_dir():
        sizes.append(min(shard_size(len(shards)), n - sum(sizes)))
        shards.append(shard)
    store = ShardFeatures(shards, sizes, path / "features", seed=0)
    (path / "features").mkdir(exist_ok=True)
    anonymous, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            anonymous.append(resident()["RssAnon"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before, spent = time.perf_counter(), time.process_time()
    if name == TABLES:
        tables(path, shards)
    else:
        metric = cases()[name].build()
        score, _ = dataset.resolve(Planned(metric.spec, MetricEntry(name), metric, None, ()), store)
        assert score.value is not None, score.reason
    seconds, cpu = time.perf_counter() - before, time.process_time() - spent
    done.set()
    watcher.join()
    return {"seconds": seconds, "cpu": cpu, "peak": resident()["VmHWM"], "anonymous": max(anonymous)}


def tables(path: Path, shards: Sequence[Path]) -> None:
    """What a run does with the rows of its shards after the last metric."""
    dataset.write_scores(shards, {}, path / "scores")
    dataset.write_issues(shards, [dataset.repeated_ids(path / "scores")], path / "issues.parquet")


def apart(path: Path, n: int, name: str) -> dict[str, float]:
    """``measure`` in a fresh process."""
    command = [sys.executable, __file__, "--measure", str(path), str(n), name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def rows(options: Options) -> Iterator[Row]:
    sizes = QUICK if options.quick else FULL if options.full else USUAL
    known = {name: case for name, case in cases().items() if not options.quick or name in SHOWN}
    # Metrics with the same features share one run.
    groups: dict[object, list[str]] = {}
    for name, case in known.items():
        groups.setdefault(case.features, []).append(name)
    groups[TABLES] = [TABLES]
    for names in groups.values():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for n in (TINY, *sizes):
            with tempfile.TemporaryDirectory() as folder_of_run:
                make(Path(folder_of_run), n, names[0])
                for name in names:
                    found[name].append(apart(Path(folder_of_run), n, name))
        for name in names:
            yield from told(name, known.get(name), sizes, *found[name], quick=options.quick)


def told(
    name: str,
    case: Case | None,
    sizes: Sequence[int],
    tiny: Mapping[str, float],
    *found: Mapping[str, float],
    quick: bool,
) -> Iterator[Row]:
    """Memory and rate of one metric."""
    n, last = sizes[-1], found[-1]
    peaks = ", ".join(f"{each['peak'] / 1e6:,.0f} MB at {k:,}" for k, each in zip(sizes, found, strict=True))
    grows = exponent(sizes, [max(each["peak"] - tiny["peak"], 1e6) for each in found])
    notes = [
        f"{peaks}; above that of {TINY:,} it grows as n^{grows:.2f}",
        f"{last['anonymous'] / 1e6:,.0f} MB of the last backed by no file",
        case.note if case else "parts of the scores, repeated ids, issues",
    ]
    yield Row(
        "memory",
        f"{name}, {n:,} samples: peak",
        last["peak"] / 1e6,
        "MB",
        "4 GB",
        LIMIT_MB,
        None if quick else 1.0,
        "; ".join(filter(None, notes)),
        last["peak"] / 1e6,
    )
    yield Row(
        "memory",
        f"{name}, {n:,} samples: data-set pass",
        n / last["seconds"],
        "samples/s",
        "5,000 a second",
        RATE,
        1.0 if case and case.rate and not quick else None,
        f"{last['cpu'] / n * 1e6:.1f} µs of CPU a sample",
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
    else:
        main(rows)
