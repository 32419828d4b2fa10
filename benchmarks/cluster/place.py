"""Where a benchmark scores: a folder with the profiles and the package of ``watched``, and what its runs left
there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlitqc import profiles
from watched import BUSY, LOG, MILLISECONDS

LLAVA = "llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json"
"""160 records of LLaVA-Pretrain with their pictures, below the folder of real data."""
WATCHED = "\n[metrics.watched]\n"
PACKAGE = "[vlitqc.metrics.beyond]\nwatched = watched:Watched\n"
ALONE = """
name = "watched"
title = "One metric that takes a fixed time"
summary = "A benchmark."
adds = "Nothing."
"""


@dataclass(frozen=True)
class Ran:
    """A finished run, and the seconds of the whole command."""

    out: Path
    seconds: float

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        found: dict[str, Any] = json.loads((self.out / "run.json").read_text(encoding="utf-8"))
        return found

    @property
    def shards(self) -> int:
        return len(markers(self.out))

    @property
    def records(self) -> int:
        return sum(map(records_of, markers(self.out)))

    @property
    def rate(self) -> float:
        """Records a second when every worker is at work, by the times of the shards' markers."""
        finished = [(path.stat().st_mtime, records_of(path)) for path in markers(self.out)]
        return steady_rate(finished, self.info["engine"]["workers"])


def markers(out: Path) -> list[Path]:
    return sorted(out.glob("shards/[0-9]*/done.json"))


def records_of(marker: Path) -> int:
    return int(json.loads(marker.read_text(encoding="utf-8"))["n_records"])


def steady_rate(finished: Iterable[tuple[float, int]], workers: int) -> float:
    """Records a second after each of ``workers`` had the time to finish a shard.

    ``finished`` are the moments at which shards were finished, each with its records. Start-up, which ends within the
    first shards, is left out; that the last of several workers finishes alone is not.
    """
    ordered = sorted(finished)
    if len(ordered) <= workers:
        raise ValueError(f"{len(ordered)} shards tell no rate of {workers} workers")
    return sum(n for _, n in ordered[workers:]) / (ordered[-1][0] - ordered[workers - 1][0])


class Place:
    """Runs below ``home``, without the cache of features and on one thread a process."""

    def __init__(self, home: Path) -> None:
        self.home = home
        site = home / "site"
        info = site / "watched-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: watched\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(PACKAGE, encoding="utf-8")
        shutil.copy(Path(__file__).with_name("watched.py"), site)
        self.log = home / "log"
        above = os.environ.get("PYTHONPATH")
        self.environment: Mapping[str, str] = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "2",
            "PYTHONPATH": os.pathsep.join([str(site), *([above] if above else [])]),
            LOG: str(self.log),
        }
        self.lite = home / "lite.toml"
        self.lite.write_text(
            Path(profiles.__file__).with_name("lite.toml").read_text(encoding="utf-8") + WATCHED,
            encoding="utf-8",
        )
        self.alone = home / "watched.toml"
        self.alone.write_text(ALONE + WATCHED, encoding="utf-8")

    def paced(self, milliseconds: float, *, busy: bool) -> dict[str, str]:
        """Variables with which ``watched`` takes so long a record, computing or asleep."""
        return {MILLISECONDS: f"{milliseconds:g}", BUSY: "1" if busy else ""}

    def score(
        self,
        data: Path,
        out: str,
        *options: str,
        program: Sequence[str] = ("-m", "vlitqc"),
        profile: Path | None = None,
        environment: Mapping[str, str] | None = None,
        meanwhile: Callable[[Path], None] | None = None,
    ) -> Ran:
        """Score ``data`` into the folder ``out``; ``meanwhile`` is called beside it with that folder.

        Raises RuntimeError with what the command told where it fails.
        """
        target = self.home / out
        shutil.rmtree(target, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        command = [sys.executable, *program, "score", str(data), "--profile", str(profile or self.lite)]
        command += ["--out", str(target), "--no-cache", "--quiet", *options]
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, **(environment or {})},
        ) as process:
            try:
                if meanwhile:
                    meanwhile(target)
                told, _ = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {told.strip()}")
        return Ran(target, time.perf_counter() - started)

    def scored_by(self) -> dict[int, set[int]]:
        """The processes that scored each row since the last run began."""
        found: dict[int, set[int]] = {}
        for line in self.log.read_text(encoding="utf-8").splitlines():
            row, pid = map(int, line.split())
            found.setdefault(row, set()).add(pid)
        return found


def differences(one: Ran, other: Ran) -> list[str]:
    """Files that must be equal to the byte and are not, and fields of the scorecard that differ."""
    mine, theirs = files(one.out), files(other.out)
    found = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    cards = card(one.out), card(other.out)
    keys = sorted(cards[0].keys() | cards[1].keys())
    # A field that one of them lacks differs, whatever the other says.
    return found + [f"scorecard: {key}" for key in keys if cards[0].get(key, ...) != cards[1].get(key, ...)]


def files(out: Path) -> dict[str, bytes]:
    """Every shard with its marker, the table of scores, the features and the issues."""
    kept = [p for name in ("shards", "scores", "features") for p in (out / name).rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in (*kept, out / "issues.parquet")}


def card(out: Path) -> dict[str, Any]:
    """The scorecard but for times, and for where the run lies."""
    told = json.loads((out / "scorecard.json").read_text(encoding="utf-8").replace(str(out), "RUN"))
    return {key: value for key, value in told.items() if key not in ("created", "seconds", "command")}


def rows_of_shards(out: Path) -> dict[int, list[int]]:
    """The rows of each shard."""
    return {
        int(path.parent.name): pq.read_table(path.with_name("scores.parquet"), columns=["row"])[
            "row"
        ].to_pylist()
        for path in markers(out)
    }
