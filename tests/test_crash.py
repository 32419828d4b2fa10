"""Killed at any moment, out of memory, out of disk, with workers that die: the same command ends as if nothing was."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from vlitqc.engine import disk
from vlitqc.engine.run import Run
from vlitqc.errors import RunError

FAULTS = Path(__file__).parent / "faults"
KILLS = 32
RECORDS = 300
WAIT = 180.0
SEED = 20260
PROFILE = """
name = "crash"
title = "Metrics that count"
summary = "A test."
adds = "Nothing."
[metrics.counted]
floor = 10.0
[metrics.spread]
[metrics.composition]
"""
ENTRY_POINTS = """
[vlitqc.metrics.beyond]
counted = counted:Counted
spread = counted:Spread
"""


class Place:
    """A data set, a profile, an environment with the counting metrics, and calls of the command line."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data.jsonl"
        self.log = home / "log"
        self.profile = home / "crash.toml"
        self.profile.write_text(PROFILE)
        info = home / "site" / "counted-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counted\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(ENTRY_POINTS)
        (home / "site" / "counted.py").write_bytes((FAULTS / "counted.py").read_bytes())
        above = os.environ.get("PYTHONPATH")
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(home / "site"), *([above] if above else [])]),
            "VLITQC_TEST_LOG": str(self.log),
        }

    def write(self, texts: dict[int, str] | None = None, n: int = RECORDS, padding: int = 0) -> None:
        """Records with a broken line, a missing picture, and the given texts in the given rows."""
        with self.data.open("w") as stream:
            for i in range(n):
                text = (texts or {}).get(i, f"What is number {i}? " + "more " * (i % 11))
                record: dict[str, Any] = {"id": f"r{i}", "note": "x" * padding}
                if i == 70:
                    record["image"] = "nowhere.png"
                    text = "<image>\n" + text
                record["conversations"] = [
                    {"from": "human", "value": text},
                    {"from": "gpt", "value": f"It is {i}."},
                ]
                stream.write("{broken\n" if i == 50 else json.dumps(record) + "\n")

    def command(self, out: Path | str, *options: object) -> list[str]:
        options = ("score", self.data, "--profile", self.profile, "--out", out, "--quiet", *options)
        return [sys.executable, "-m", "vlitqc", *map(str, options)]

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=self.environment, cwd=self.home, **more
        )

    def ended(self, command: list[str], **more: Any) -> tuple[int, str]:
        """The exit code and what was told; nothing is ever printed elsewhere, and never a traceback."""
        with self.start(command, **more) as process:
            out, err = process.communicate(timeout=WAIT)
        assert "Traceback" not in err, err
        assert out == ""
        return process.returncode, err

    def scored(self) -> list[int]:
        """The rows that were scored since the last call."""
        rows = [int(line) for line in self.log.read_text().split()] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return rows


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.write()
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The content of an uninterrupted run of what ``Place.write`` writes."""
    made = Place(tmp_path_factory.mktemp("whole"))
    made.write()
    assert made.ended(made.command(made.home / "run")) == (0, "")
    return content(made.home / "run")


def content(out: Path) -> Any:
    """Everything that a finished run says, but for times and places."""
    run = Run.open(out)
    card = {k: v for k, v in run.scorecard.items() if k not in ("created", "seconds", "command")}
    features = {p.name: p.read_bytes() for p in sorted((out / "features").iterdir())}
    text = json.dumps([run.scores.to_dict("list"), run.issues.to_dict("list"), card])
    return text.replace(str(out), "RUN").replace(str(out.parent), "HOME"), features


def finished_rows(out: Path) -> dict[int, str]:
    """Every row that lies in a finished shard, with what tells whether the shard is written again."""
    rows = {}
    for marker in out.glob("shards/[0-9]*/done.json"):
        status = marker.stat()
        for row in pq.read_table(marker.with_name("scores.parquet"), columns=["row"])["row"].to_pylist():
            rows[row] = f"{status.st_ino} {status.st_mtime_ns}"
    return rows


def strays(home: Path) -> list[Path]:
    return [p for p in home.rglob(".*") if p.name != ".lock" and "site" not in p.parts]


def phase(out: Path) -> str:
    """How far a run has come, by what lies there."""
    if not (out / "run.json").exists():
        return "start"
    if (out / "report.html").exists():
        return "end"
    if (out / "scorecard.json").exists():
        return "report"
    if (out / "features").exists():
        return "data-set pass"
    return "scoring"


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


# ---------------------------------------------------------------- kills


def test_runs_killed_at_random_moments_end_as_one_that_was_not(
    place: Place, expected: Any, crashes: Any
) -> None:
    random_ = random.Random(SEED)
    spans = {}
    for workers in (1, 2):
        whole = place.home / f"whole{workers}"
        started = time.monotonic()
        assert place.ended(place.command(whole, "--workers", workers)) == (0, "")
        spans[workers] = time.monotonic() - started
        assert content(whole) == expected
        assert sorted(place.scored()) == [i for i in range(RECORDS) if i != 50]
    kills: Counter[str] = Counter()
    rounds = identical = 0
    while kills.total() < KILLS:
        # Every third data set's run is one of two workers.
        workers = 2 if rounds % 3 == 2 else 1
        out = place.home / f"run{rounds}"
        rounds += 1
        ended = False
        ever: set[int] = set()
        while not ended:
            before = finished_rows(out)
            with place.start(place.command(out, "--workers", workers)) as process:
                try:
                    process.wait(random_.uniform(0, spans[workers]) if kills.total() < KILLS else WAIT)
                    ended = True
                except subprocess.TimeoutExpired:
                    process.kill()
                told = process.communicate()
            again = set(rows := place.scored())
            assert len(rows) == len(again), "a row was scored twice in one run"
            assert not again & before.keys(), "a row of a finished shard was scored again"
            ever |= again
            if ended:
                assert (process.returncode, told) == (0, ("", ""))
                break
            kills[phase(out)] += 1
            after = finished_rows(out)
            assert {row: after.get(row) for row in before} == before
        assert ever == set(range(RECORDS)) - {50}
        assert content(out) == expected
        assert (out / "report.html").stat().st_size > 1000
        assert strays(out) == []
        identical += 1
    crashes("kill -9 of score", kills.total(), identical, rounds, dict(kills))
    assert kills.total() >= 30
    assert identical == rounds


def test_killed_filters_leave_whole_files_or_none(place: Place, crashes: Any) -> None:
    place.write(padding=40_000)
    run = place.home / "run"
    assert place.ended(place.command(run)) == (0, "")
    commands = [
        [
            sys.executable,
            "-m",
            "vlitqc",
            "filter",
            str(run),
            "--drop-below",
            f"counted={level}",
            "--quiet",
            "--out",
        ]
        for level in ("p30", "p60")
    ]
    wanted = []
    for i, command in enumerate(commands):
        started = time.monotonic()
        assert place.ended([*command, str(place.home / f"whole{i}")]) == (0, "")
        span = time.monotonic() - started
        wanted.append({path.name: path.read_bytes() for path in (place.home / f"whole{i}").iterdir()})
    names = {"kept", "dropped", "unreadable", "decisions", "filter"}
    assert [{name.split(".")[1] for name in each} for each in wanted] == [names, names]
    random_ = random.Random(SEED)
    out = place.home / "out"
    kills = 0
    for i in range(10):
        # Each replaces what the other has left.
        with place.start([*commands[i % 2], str(out)]) as process:
            if i // 2 % 2:
                time.sleep(random_.uniform(0.5, 1) * span)
            else:  # while it copies
                wait_for(lambda p=process: p.poll() is not None or bool(list(out.glob(".*.part"))))  # type: ignore[misc]
                time.sleep(random_.uniform(0, 0.1) * span)
            process.kill()
            process.communicate()
        kills += process.returncode == -signal.SIGKILL
        found = {p.name: p.read_bytes() for p in out.glob("[!.]*")}
        assert all(content in (wanted[0][name], wanted[1][name]) for name, content in found.items())
        if "data.filter.json" in found:
            assert found in wanted
    for command, files in zip(commands, wanted, strict=True):
        assert place.ended([*command, str(out)]) == (0, "")
        assert {p.name: p.read_bytes() for p in out.iterdir()} == files
    crashes("kill -9 of filter", kills, kills, kills, {})


@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_a_signal_ends_the_run_and_the_command_goes_on(
    place: Place, expected: Any, sent: signal.Signals, workers: int
) -> None:
    out = place.home / "run"
    command = place.command(out, "--workers", workers)
    with place.start(command, start_new_session=True) as process:
        wait_for(lambda: len(list(out.glob("shards/[0-9]*/done.json"))) >= 2)
        os.killpg(process.pid, sent)
        told, error = process.communicate(timeout=WAIT)
    assert told == ""
    assert "Traceback" not in error
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; the same command takes the run up again" in error
    before = finished_rows(out)
    place.scored()
    with pytest.raises(RunError, match="did not finish"):
        Run.open(out)
    assert place.ended(command) == (0, "")
    assert not set(place.scored()) & before.keys()
    assert content(out) == expected
    assert strays(out) == []


def test_a_signal_while_workers_start_is_answered_by_the_parent_alone(place: Place) -> None:
    with place.start(place.command(place.home / "run", "--workers", 2), start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(lambda: len(children.read_text().split()) >= 3)  # both, and the one that keeps their locks
        os.killpg(process.pid, signal.SIGINT)
        told, error = process.communicate(timeout=WAIT)
    assert (told, process.returncode) == ("", 130)
    assert error.strip().splitlines() == ["interrupted; the same command takes the run up again"]


def test_a_second_writer_is_refused_and_the_first_unhurt(place: Place) -> None:
    out = place.home / "run"
    with place.start(place.command(out)) as first:
        wait_for(lambda: len(list(out.glob("shards/[0-9]*/done.json"))) >= 1)
        started = time.monotonic()
        code, error = place.ended(place.command(out))
        assert first.poll() is None, "the first had ended before the second was refused"
        assert (code, error.startswith("error: ")) == (3, True)
        assert f"{out} is in use by another vlitqc" in error
        assert time.monotonic() - started < WAIT
        assert first.communicate(timeout=WAIT) == ("", "")
    assert first.returncode == 0
    assert sorted(place.scored()) == [i for i in range(RECORDS) if i != 50]


# ---------------------------------------------------------------- workers


def test_records_that_kill_their_worker_are_lost_alone(place: Place) -> None:
    whole = place.home / "whole"
    assert place.ended(place.command(whole)) == (0, "")
    # Each in a shard of its own: what one search has cost counts in no other.
    fatal = [40, 100, 140, 205, 270]
    place.write({row: "a segfault" if row % 100 == 40 else "it exits" for row in fatal})
    out = place.home / "run"
    assert place.ended(place.command(out, "--workers", 2)) == (0, "")
    good, run = Run.open(whole).scores, Run.open(out)
    assert run.scores["state"].ne(good["state"]).to_numpy().nonzero()[0].tolist() == fatal
    others = [i for i in range(RECORDS) if i not in fatal]
    for column in ("id", "counted", "counted_reason", "spread", "state"):
        pd.testing.assert_series_equal(run.scores[column][others], good[column][others])
    assert run.scores["counted_reason"][fatal].str.contains("scoring it ends the process").all()
    assert run.issues.query("kind == 'crashed_worker'")["row"].tolist() == fatal
    assert strays(out) == []


def test_workers_that_die_again_and_again_end_the_run_in_a_sentence(place: Place) -> None:
    place.write(dict.fromkeys(range(64, 96), "a segfault"))
    code, error = place.ended(place.command(place.home / "run", "--workers", 2))
    assert code == 3
    assert "worker processes die again and again, last over rows 64 to 95 of " in error
    assert str(place.data) in error


# ---------------------------------------------------------------- memory


def test_a_batch_too_large_for_memory_is_halved(place: Place) -> None:
    whole, out = place.home / "whole", place.home / "run"
    assert place.ended(place.command(whole)) == (0, "")
    values = Run.open(whole).scores
    place.write({33: "greedy", 34: "greedy"})
    assert place.ended(place.command(out)) == (0, "")
    again = Run.open(out).scores
    assert again["counted"].notna().sum() == RECORDS - 1
    others = [i for i in range(RECORDS) if i not in (33, 34)]
    pd.testing.assert_series_equal(again["counted"][others], values["counted"][others])
    assert again["counted"][[33, 34]].tolist() == [6.0 + len("It is 33.")] * 2


# ---------------------------------------------------------------- disk


@contextmanager
def failing_at(k: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every k-th file that is opened for writing by Python in the run directory finds the disk full."""
    count = [0]
    real = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if set(mode) & set("wxa") and ".lock" not in self.name:
            count[0] += 1
            if count[0] == k:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return real(self, mode, *args, **more)

    table = pq.write_table

    def full_table(*args: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == k:
            raise OSError(errno.ENOSPC, "[Errno 28] Error writing bytes to file")
        return table(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        patch.setattr(pq, "write_table", full_table)
        yield count


def test_a_disk_that_is_full_at_any_write(
    make_data: Callable[..., Path], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vlitqc

    data = make_data(70)
    expected = content_of(vlitqc.score(data, tiny, out=tmp_path / "whole"))
    out = tmp_path / "run"
    k = 0
    while True:
        k += 1
        with failing_at(k, monkeypatch) as count:
            try:
                run = vlitqc.score(data, tiny, out=out)
                break
            except RunError as error:
                assert "no space left for" in str(error)
                assert "free some and run the same command" in str(error)
        assert not (out / "scorecard.json").exists() or json.loads((out / "scorecard.json").read_text())
        assert strays(out) == []
        for marker in out.glob("shards/[0-9]*"):
            assert (marker / "done.json").exists()
    # Shards that are finished are not written again, so that each time there is less to write.
    assert k > 8
    assert count[0] < k
    assert content_of(run) == expected


def content_of(run: Run) -> Any:
    return run.scores.to_json(), run.issues.to_json(), run.scorecard["principles"]


@pytest.mark.parametrize("limit", [3_000, 12_000])
def test_a_file_that_may_not_grow(place: Place, expected: Any, limit: int) -> None:
    """A true refusal by the system, within a write: EFBIG, as a quota or a full disk gives ENOSPC."""
    out = place.home / "run"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # Python 3.11 may leave a cut .pyc where a file may not grow, and the next command would stumble over it.
    place.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    code, error = place.ended(place.command(out), preexec_fn=small)
    assert code == 3
    assert "no space left for" in error
    assert strays(out) == []
    assert place.ended(place.command(out)) == (0, "")
    assert content(out) == expected


def test_numpy_files_tell_why_they_cannot_be_written(tmp_path: Path) -> None:
    import numpy as np

    blocks = [np.ones((3, 2), np.float32), np.zeros((1, 2), np.float32)]
    disk.write_vectors(tmp_path / "a.npy", iter(blocks), (4, 2))
    assert np.load(tmp_path / "a.npy", mmap_mode="r").tolist() == [[1, 1]] * 3 + [[0, 0]]
    for array in (np.arange(5), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))):
        path = tmp_path / f"{array.ndim}.npy"
        disk.save(path, array)
        assert np.array_equal(np.load(path), array)
    full = Path("/dev/full")
    with (
        pytest.raises(RunError, match="no space left for /dev/full"),
        disk.writing(full),
        full.open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")
    with pytest.raises(ValueError, match="among vectors of"):
        disk.write_vectors(
            tmp_path / "b.npy", [np.ones((3, 2), np.float32), np.ones((1, 3), np.float32)], (4, 2)
        )
    assert not list(tmp_path.glob("*b.npy*"))


# ---------------------------------------------------------------- the input


def grown(path: Path) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps({"id": "new", "instruction": "One more?", "output": "Yes."}) + "\n")


def shrunk(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes().replace(b"more", b"less"))
    other.replace(path)


def gone(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


@pytest.mark.parametrize("change", [grown, shrunk, replaced, gone])
def test_an_input_that_changes_while_it_is_scored(place: Place, change: Callable[[Path], None]) -> None:
    out = place.home / "run"
    with place.start(place.command(out)) as process:
        wait_for(lambda: len(list(out.glob("shards/[0-9]*/done.json"))) >= 1)
        change(place.data)
        told, error = process.communicate(timeout=WAIT)
    assert (process.returncode, told) == (3, "")
    assert f"{place.data} changed while it was scored" in error
    assert "Traceback" not in error
    assert not (out / "scorecard.json").exists()
    place.scored()
    if change is gone:
        assert place.ended(place.command(out))[0] == 3
        return
    assert place.ended(place.command(out)) == (0, "")
    if change is grown:
        assert not set(place.scored()) & set(range(32))
    fresh = place.home / "fresh"
    assert place.ended(place.command(fresh)) == (0, "")
    assert content(out) == content(fresh)
