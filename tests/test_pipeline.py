"""Decoding ahead and writing behind: in order, bounded, and with every fault where it belongs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import vlitqc
from vlitqc.engine import shards
from vlitqc.engine.ahead import JOBS_AHEAD, THREADS, Ahead
from vlitqc.engine.scorer import MAX_BATCH_BYTES, batches, score_table
from vlitqc.errors import ModelUnavailable, RunError
from vlitqc.media import MediaLoader
from vlitqc.types import (
    Batch,
    Issue,
    Media,
    MetricSpec,
    Origin,
    Principle,
    Record,
    Sample,
    Score,
    Turn,
    Unreadable,
)

Make = Callable[..., Path]
PATIENCE = 20.0
"""Seconds after which what was to happen in another thread has not."""


def wait_for(happened: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < end:
        time.sleep(0.005)
    return happened()


def nothing(_: Any) -> int:
    return 0


class TestAhead:
    def test_results_come_in_order_however_long_each_takes(self) -> None:
        def run(job: int) -> int:
            time.sleep(0.02 if job % 5 == 0 else 0)
            return job * job

        found = Ahead(run, nothing, nothing).results(range(40))
        assert list(found) == [(job, job * job) for job in range(40)]

    def test_none_are_none(self) -> None:
        assert list(Ahead(nothing, nothing, nothing).results(())) == []

    def test_it_is_ahead_but_not_without_end(self) -> None:
        begun: list[int] = []
        found = Ahead(begun.append, nothing, nothing).results(range(100))
        next(found)
        assert wait_for(lambda: len(begun) == JOBS_AHEAD + 1)
        assert not wait_for_more(begun)
        found.close()

    def test_what_waits_is_bounded(self) -> None:
        lock, held, most = threading.Lock(), 0, 0

        def run(job: int) -> int:
            nonlocal held, most
            with lock:
                held += 10
                most = max(most, held)
            return 10

        for _ in (found := Ahead(run, lambda size: size, nothing, most=25).results(range(30))):
            time.sleep(0.002)
            with lock:
                held -= 10
        found.close()
        # Those under way at first, of which nobody knows yet what they weigh; later what waits, and what is in use.
        assert most <= max(10 * (THREADS + 1), 25 + 10)

    def test_those_under_way_count_as_the_largest_so_far(self) -> None:
        lock, under_way, most = threading.Lock(), 0, 0

        def run(job: int) -> int:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way) if job >= 4 else 0
            time.sleep(0.01)
            with lock:
                under_way -= 1
            return 20

        for _ in Ahead(run, lambda size: size, nothing, most=25).results(range(16)):
            time.sleep(0.005)
        assert most == 1

    def test_the_next_is_made_however_heavy(self) -> None:
        found = Ahead(lambda job: job, lambda _: 1000, nothing, most=1).results(range(6))
        assert [job for job, _ in found] == list(range(6))

    def test_jobs_that_are_heavy_themselves_are_not_fetched_ahead(self) -> None:
        fetched: list[int] = []

        def jobs() -> Iterator[int]:
            for i in range(10):
                fetched.append(i)
                yield i

        found = Ahead(lambda job: job, nothing, lambda _: 1000, most=1).results(jobs())
        next(found)
        assert fetched == [0, 1]
        assert [job for job, _ in found] == list(range(1, 10))

    def test_a_fault_comes_in_its_turn(self) -> None:
        def run(job: int) -> int:
            if job == 3:
                raise ValueError("the third")
            return job

        found = Ahead(run, nothing, nothing).results(range(10))
        assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="the third"):
            next(found)

    def test_what_the_jobs_raise_comes_after_the_results_before(self) -> None:
        def jobs() -> Iterator[int]:
            yield from range(3)
            raise RunError("the input is gone")

        found = Ahead(nothing, nothing, nothing).results(jobs())
        assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RunError, match="the input is gone"):
            next(found)

    def test_an_early_end_leaves_no_thread(self) -> None:
        before = threading.active_count()
        found = Ahead(lambda job: job, lambda _: 1000, nothing, most=1).results(range(50))
        next(found)
        found.close()
        assert threading.active_count() == before

    def test_an_end_without_a_close_ends_the_process(self) -> None:
        left = "next(kept := Ahead(lambda job: job, lambda _: 1000, lambda _: 0, most=1).results(range(50)))"
        code = f"import time\nfrom vlitqc.engine.ahead import Ahead\n{left}\ntime.sleep(0.2)"
        assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False).returncode == 0


class TestBatches:
    @staticmethod
    def sizes(pictures: list[int], size: int, side: int = 1) -> list[int]:
        place = Origin("data.jsonl", 0, 1, 0, 9, "0" * 64)
        samples = [Sample("s", (), (Media("image", "a.png"),) * n, {}, place) for n in pictures]
        return [len(part) for part in batches(samples, size, side)]

    def test_records_and_pictures_end_a_batch(self) -> None:
        assert self.sizes([], 32) == []
        assert self.sizes([1] * 70, 32) == [32, 32, 6]
        assert self.sizes([3] * 40, 32) == [21, 19]  # at most 64 pictures
        assert self.sizes([1] * 5, 2) == [2, 2, 1]
        assert self.sizes([3] * 4, 2) == [1, 1, 1, 1]  # at most 4
        assert self.sizes([500, 0, 1], 1) == [1, 1, 1]

    def test_a_batch_of_large_pictures_is_bounded_by_what_they_take_decoded(self) -> None:
        side = 2048
        most = MAX_BATCH_BYTES // (3 * side**2)
        assert 64 < most < 512
        assert self.sizes([1] * 256, 256, side) == [most, 256 - most]
        assert self.sizes([2] * 32, 32, side) == [32]


def wait_for_more(begun: list[int]) -> bool:
    n = len(begun)
    time.sleep(0.1)
    return len(begun) > n


# ---------------------------------------------------------------- runs

SPEC = MetricSpec(
    name="made", title="Made", principle=Principle.BEYOND, level="sample", summary="made up for a test", unit="",
    bounds=(-math.inf, math.inf), higher_is_better=True, reduction="mean", version="1", source="a test",
)  # fmt: skip


def metric(answer: Callable[[Batch], list[Score]], **more: Any) -> Any:
    class Made:
        spec = MetricSpec(**{name: getattr(SPEC, name) for name in SPEC.__slots__} | more)

        def score(self, batch: Batch) -> list[Score]:
            return answer(batch)

    return Made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the records whose batches were decoded, as they are."""
    decoded: list[str] = []
    plain = MediaLoader.load_batch

    def load(self: MediaLoader, samples: Any, **options: Any) -> Any:
        found = plain(self, samples, **options)
        decoded.extend(sample.id for sample in samples)
        return found

    monkeypatch.setattr(MediaLoader, "load_batch", load)
    return decoded


def test_pictures_are_decoded_while_the_metric_is_busy_across_shards(
    make_data: Make, profile_file: Any, register: Any, counted: list[str]
) -> None:
    data = make_data(100)
    ahead: dict[str, bool] = {}

    def slow(batch: Batch) -> list[Score]:
        last = int(batch.samples[-1].id[1:])
        # Of a shard's last batch the next is in another shard.
        wanted = min(99, last + 12)
        ahead[batch.samples[-1].id] = wait_for(lambda: f"r{wanted}" in counted)
        return [Score(float(sample.id[1:])) for sample in batch.samples]

    register("made", metric(slow))
    run = vlitqc.score(data, profile_file("[metrics.made]"), batch_size=4, report=False)
    assert len(list(run.path.glob("shards/0*"))) == 4
    assert ahead and all(ahead.values())
    assert run.scores["made"].tolist() == list(range(100))
    assert run.scores["id"].tolist() == [f"r{i}" for i in range(100)]


def test_how_far_ahead_changes_nothing(
    make_data: Make, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(80)
    held = []
    for jobs in (0, 8):
        monkeypatch.setattr("vlitqc.engine.ahead.JOBS_AHEAD", jobs)
        run = vlitqc.score(data, tiny, out=tmp_path / str(jobs), batch_size=3, report=False, cache=False)
        files = sorted(path for path in (run.path / "shards").rglob("*") if path.is_file())
        held.append({path.relative_to(run.path): path.read_bytes() for path in files})
    assert held[0] == held[1]


def test_a_shard_is_on_the_disk_when_it_is_told(make_data: Make, profile_file: Any, register: Any) -> None:
    data = make_data(100)
    register("made", metric(lambda batch: [Score(1.0)] * len(batch)))
    told: list[tuple[int, int]] = []

    class Watching:
        def records(self, done: int, share: float | None) -> None:
            whole = [p for p in (data.parent / "data.vlitqc" / "shards").glob("0*") if shards.read_done(p)]
            told.append((done, sum(shards.shard_size(int(p.name)) for p in whole)))

        def stage(self, name: str) -> None:
            pass

    vlitqc.score(data, profile_file("[metrics.made]"), report=False, progress=Watching())
    assert [done for done, _ in told] == [32, 64, 96, 100]
    assert all(done <= written for done, written in told)


def test_a_disk_that_refuses_ends_the_run_with_its_sentence(
    make_data: Make, profile_file: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(100)
    register("made", metric(lambda batch: [Score(1.0)] * len(batch)))

    def full(path: Path, *_: Any) -> None:
        raise RunError(f"no space left for {path}")

    before = threading.active_count()
    with monkeypatch.context() as patch, pytest.raises(RunError, match="no space left"):
        patch.setattr("vlitqc.engine.scorer.write_shard", full)
        vlitqc.score(data, profile_file("[metrics.made]"), report=False)
    assert wait_for(
        lambda: threading.active_count() <= before + 2
    )  # a loader's own, while it is not collected
    assert (
        vlitqc.score(data, profile_file("[metrics.made]"), report=False).scorecard["counts"]["scored"] == 100
    )


def test_what_a_model_that_went_away_left_out_is_scored_by_the_same_command(
    make_data: Make, profile_file: Any, register: Any
) -> None:
    data, profile = make_data(100), profile_file("[metrics.made]\n[metrics.image_readability]")
    gone = False

    def answer(batch: Batch) -> list[Score]:
        nonlocal gone
        gone = gone or batch.samples[0].id == "r32"
        if gone:
            raise ModelUnavailable("the file is gone")
        return [Score(1.0)] * len(batch)

    register("made", metric(answer))
    run = vlitqc.score(data, profile, report=False)
    assert run.scores["made"].notna().tolist() == [True] * 32 + [False] * 68
    register("made", metric(lambda batch: [Score(2.0)] * len(batch)))
    # The first shard was whole.
    assert vlitqc.score(data, profile, report=False).scores["made"].tolist() == [1.0] * 32 + [2.0] * 68


def test_shards_before_a_fault_of_the_input_are_kept(
    make_data: Make, profile_file: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(100)
    register("made", metric(lambda batch: [Score(1.0)] * len(batch)))
    plain = shards.cut

    def broken(records: Any) -> Any:
        for shard in plain(records):
            if shard.index == 2:
                raise RunError("the input is gone")
            yield shard

    monkeypatch.setattr("vlitqc.engine.run.cut", broken)
    with pytest.raises(RunError, match="the input is gone"):
        vlitqc.score(data, profile_file("[metrics.made]"), report=False)
    found = sorted((data.parent / "data.vlitqc" / "shards").glob("0*"))
    assert [path.name for path in found] == ["00000", "00001"]
    assert all(shards.read_done(path) for path in found)


KILLED = """
import os, signal, sys
import vlitqc.engine.scorer as scorer
from vlitqc.media import MediaLoader

plain, seen = MediaLoader.load_batch, []

def load(self, samples, **options):
    seen.extend(samples)
    if len(seen) > 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, samples, **options)

MediaLoader.load_batch = load
import vlitqc
vlitqc.score(sys.argv[1], sys.argv[2], report=False, batch_size=4)
"""


def test_a_run_that_is_killed_while_it_decodes_goes_on(make_data: Make, tiny: str, tmp_path: Path) -> None:
    data = make_data(100)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(data), tiny], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole = vlitqc.score(data, tiny, out=tmp_path / "whole", report=False, batch_size=4)
    again = vlitqc.score(data, tiny, report=False, batch_size=4)
    assert again.scores.equals(whole.scores)
    assert not list((again.path / "shards").glob(".*"))


# ---------------------------------------------------------------- markers and tables


def test_a_marker_without_times_is_read(tmp_path: Path) -> None:
    old = {"fingerprint": "f", "n_records": 2, "n_samples": 1, "retry": False, "usage": {}, "unavailable": {}}
    (tmp_path / "done.json").write_text(json.dumps(old))
    done = shards.read_done(tmp_path)
    assert done is not None and done.times == {} and done.n_records == 2


def test_the_table_puts_each_value_at_its_record(tmp_path: Path) -> None:
    def origin(row: int) -> Origin:
        return Origin("set/data.jsonl", row, row + 1, 10 * row, 10 * row + 9, "0" * 64)

    def sample(row: int) -> Sample:
        return Sample(f"s{row}", (Turn("a", "b"),), (), {}, origin(row))

    bad = Unreadable(origin(1), (Issue.at(origin(1), "malformed_record", "error", "no object"),))
    records: list[Record] = [sample(0), bad, sample(2), sample(3)]
    spec = metric(lambda _: [], parts=("part",), notes=("note",)).spec
    scores = [
        Score(0.5, parts={"part": 2.0}, notes={"note": "told \ud800"}),
        Score(reason="too short"),
        Score(reason="error: x", fault=True),
    ]
    table = score_table(records, [spec], {"made": scores}, {0})
    assert table["state"].to_pylist() == ["partial", "unreadable", "scored", "partial"]
    assert table["made"].to_pylist() == [0.5, None, None, None]
    assert table["made_part"].to_pylist() == [2.0, None, None, None]
    assert table["made_note"].to_pylist() == ["told \\ud800", None, None, None]
    assert table["made_reason"].to_pylist() == [
        None, "record unreadable: no object", "too short", "error: x",
    ]  # fmt: skip
    assert table["n_turns"].to_pylist() == [1, 0, 1, 1]
    assert table["source"].to_pylist() == ["data"] * 4
    pq.write_table(table, tmp_path / "t.parquet")
    assert np.isfinite(table["row"].to_numpy()).all()
