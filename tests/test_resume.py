"""Taking a run up again: after a kill, a longer file, another picture, another option; and one writer at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import vlitqc
from vlitqc.engine.run import Run
from vlitqc.errors import RunError

Make = Callable[..., Path]
WAIT = 120.0
SHARDS = 6
RECORDS = 32 * 4 + 64 + 20
"""Four shards of 32 records, one of 64, and the beginning of another."""


def marks(run: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished shard's marker: both change when a shard is written again."""
    found = {}
    for path in sorted(run.glob("shards/[0-9]*/done.json")):
        status = path.stat()
        found[path.parent.name] = (status.st_ino, status.st_mtime_ns)
    return found


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def start(*args: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vlitqc", "score", *map(str, args), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


@contextmanager
def running(*args: object) -> Iterator[subprocess.Popen[bytes]]:
    process = start(*args)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def score(data: Path, profile: str, **options: Any) -> Run:
    """A run that is read at once: a later run may take over its folder."""
    run = vlitqc.score(data, profile, report=False, **options)
    assert len(run.scores) == run.scorecard["counts"]["records"]
    assert len(run.issues) == sum(issue["n"] for issue in run.scorecard["issues"])
    return run


def same(a: Run, b: Run) -> None:
    pd.testing.assert_frame_equal(a.scores, b.scores)
    pd.testing.assert_frame_equal(a.issues, b.issues)
    assert lasting(a) == lasting(b)


def lasting(run: Run) -> Any:
    """The scorecard without times, and with the run's own path, which its commands name, as RUN."""
    passing = ("created", "seconds", "command")
    kept = {k: v for k, v in run.scorecard.items() if k not in passing}
    return json.loads(json.dumps(kept).replace(str(run.path), "RUN"))


@pytest.fixture
def data(make_data: Make, record: Any) -> Path:
    """Records enough for several shards, with a broken line and a missing picture among them."""
    make_data(40)
    lines: list[Any] = [record(i, f"{i % 40}.png") for i in range(RECORDS)]
    lines[50] = b'{"id": "r50", '
    lines[100] = record(100, "nowhere.png")
    return make_data(lines=lines)


def test_a_killed_run_ends_as_an_uninterrupted_one(data: Path, tiny: str, tmp_path: Path) -> None:
    whole = score(data, tiny, out=tmp_path / "whole")
    out = tmp_path / "run"
    kept: dict[str, tuple[int, int]] = {}
    for n_finished in (0, 1, 3, SHARDS):
        with running(data, "--profile", tiny, "--out", out) as process:
            wait_for(lambda n=n_finished: (out / "run.json").exists() and len(marks(out)) >= n)  # type: ignore[misc]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        now = marks(out)
        assert {name: now[name] for name in kept} == kept
        kept = now
        if not (out / "scorecard.json").exists():
            with pytest.raises(RunError, match="did not finish; run its command again to go on: vlitqc"):
                Run.open(out)
    again = score(data, tiny, out=out)
    assert {name: marks(out)[name] for name in kept} == kept
    assert len(kept) == SHARDS
    assert not list(out.glob("shards/.*"))
    same(whole, again)


def test_what_a_kill_left_half_written_is_swept_away(data: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = score(data, tiny, out=out)
    (out / "shards" / ".00002.4711" / "features").mkdir(parents=True)
    half = out / "shards" / "00001"
    (half / "done.json").unlink()
    (half / "scores.parquet").write_bytes(b"PAR1 half")
    before = marks(out)
    again = score(data, tiny, out=out)
    assert not list(out.glob("shards/.*"))
    assert {name: marks(out)[name] for name in before} == before
    same(run, again)


def test_the_marker_goes_before_its_shard(
    data: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    out = tmp_path / "run"
    run = score(data, tiny, out=out)
    delete = shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if Path(path).name == "00000":
            (Path(path) / "scores.parquet").unlink()
            raise KeyboardInterrupt
        delete(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            score(data, tiny, out=out, batch_size=5)
    same(run, score(data, tiny, out=out))


def test_a_longer_file_keeps_its_full_shards(data: Path, tiny: str, tmp_path: Path, record: Any) -> None:
    out = tmp_path / "run"
    score(data, tiny, out=out)
    before = marks(out)
    with data.open("a") as stream:
        stream.writelines(json.dumps(record(i, f"{i % 40}.png")) + "\n" for i in range(RECORDS, RECORDS + 60))
    longer = score(data, tiny, out=out)
    after = marks(out)
    full = [name for name in before if int(name) < SHARDS - 1]
    assert {n: after[n] for n in full} == {n: before[n] for n in full}
    assert after[f"{SHARDS - 1:05d}"] != before[f"{SHARDS - 1:05d}"]
    assert len(longer.scores) == RECORDS + 60
    same(longer, score(data, tiny, out=tmp_path / "fresh"))


def test_a_shorter_file_leaves_no_trace_of_the_longer_one(data: Path, tiny: str, tmp_path: Path) -> None:
    score(data, tiny, out=tmp_path / "run")
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:40]))
    shorter = score(data, tiny, out=tmp_path / "run")
    assert len(shorter.scores) == 40
    same(shorter, score(data, tiny, out=tmp_path / "fresh"))


def test_a_changed_picture_is_scored_again(
    make_data: Make, record: Any, picture: Callable[[int], bytes], tiny: str, tmp_path: Path
) -> None:
    make_data(96)
    path = make_data(lines=[record(i, f"{i}.png") for i in range(96)])
    out = tmp_path / "run"
    first = score(path, tiny, out=out)
    before = marks(out)
    changed = path.parent / "40.png"
    old = changed.stat().st_mtime_ns
    changed.write_bytes(picture(997))
    os.utime(changed, ns=(old + 1, old + 1))
    (path.parent / "70.png").unlink()
    second = score(path, tiny, out=out)
    after = marks(out)
    assert [name for name in before if after[name] != before[name]] == ["00001", "00002"]
    differs = first.scores["image_readability"].ne(second.scores["image_readability"])
    assert differs[differs].index.tolist() == [40, 70]
    assert second.issues["kind"].tolist().count("missing_image") == 1


def test_a_changed_record_is_scored_again(data: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    score(data, tiny, out=out)
    before = marks(out)
    lines = data.read_bytes().splitlines(keepends=True)
    lines[40] = lines[40].replace(b"grey", b"gray")
    data.write_bytes(b"".join(lines))
    score(data, tiny, out=out)
    assert [name for name, mark in marks(out).items() if mark != before[name]] == ["00001"]


@pytest.mark.parametrize(
    "options", [{"batch_size": 5}, {"metrics": ["image_readability"]}, {"image_root": True}]
)
def test_another_option_takes_over_nothing(
    make_data: Make, tiny: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    path = make_data(40)
    out = tmp_path / "run"
    score(path, tiny, out=out)
    before = marks(out)
    if "image_root" in options:
        options = {"image_root": tmp_path}
    score(path, tiny, out=out, **options)
    assert not set(marks(out).values()) & set(before.values())


def test_the_seed_and_the_workers_take_over_everything(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(40)
    out = tmp_path / "run"
    first = score(path, tiny, out=out)
    before = marks(out)
    second = score(path, tiny, out=out, seed=7)
    assert marks(out) == before
    pd.testing.assert_frame_equal(first.scores, second.scores)
    assert (
        second.metrics()["image_readability"]["interval"] != first.metrics()["image_readability"]["interval"]
    )


def test_one_writer_at_a_time(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(3)
    out = tmp_path / "run"
    run = score(path, tiny, out=out)
    holder = (
        "import fcntl, sys; s = open(sys.argv[1], 'w'); fcntl.flock(s, fcntl.LOCK_EX); "
        "print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RunError, match="in use by another vlitqc"):
            score(path, tiny, out=out)
        assert Run.open(out).scorecard == run.scorecard
        process.kill()
    score(path, tiny, out=out)


def test_a_run_killed_before_its_first_words_is_no_foreign_folder(
    make_data: Make, tiny: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", ".run.json.4711.part"):
        (out / name).write_text("{")
    assert len(score(make_data(3), tiny, out=out).scores) == 3
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == [".lock"]


def test_a_run_of_an_older_version_is_taken_up(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = score(path, tiny)
    told = json.loads((run.path / "run.json").read_text())
    told["input"] = {key: told["input"][key] for key in ("path", "format", "sha256", "bytes")}
    (run.path / "run.json").write_text(json.dumps(told))
    with pytest.raises(RunError, match="score the data again"):
        Run.open(path)
    before = marks(run.path)
    assert len(score(path, tiny).scores) == 3
    assert marks(run.path) == before


def test_a_page_of_earlier_scores_does_not_stay(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = vlitqc.score(path, tiny)
    assert (run.path / "report.html").exists()
    score(path, tiny)
    assert not (run.path / "report.html").exists()


# ---------------------------------------------------------------- worker processes


def children(parent: int) -> list[int]:
    """Processes whose parent is ``parent``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue  # it ended while we looked
        state, above = text.rpartition(")")[2].split()[:2]
        if int(above) == parent and state != "Z":
            found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_score_alike_and_die_with_their_parent(data: Path, tiny: str, tmp_path: Path) -> None:
    alone = score(data, tiny, out=tmp_path / "alone")
    out = tmp_path / "run"
    with running(data, "--profile", tiny, "--out", out, "--workers", 2) as process:
        wait_for(lambda: len(marks(out)) >= 1)
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(workers) >= 2
        wait_for(lambda: not any(map(alive, workers)))
    kept = marks(out)
    assert 1 <= len(kept) <= SHARDS
    with running(data, "--profile", tiny, "--out", out, "--workers", 2) as process:
        assert process.communicate() == (b"", b"")
        assert process.returncode == 0
    assert {name: marks(out)[name] for name in kept} == kept
    same(alone, Run.open(out))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_worker_is_replaced(data: Path, tiny: str, tmp_path: Path) -> None:
    alone = score(data, tiny, out=tmp_path / "alone")
    out = tmp_path / "run"

    def workers(parent: int) -> list[int]:
        return [pid for pid in children(parent) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    with running(data, "--profile", tiny, "--out", out, "--workers", 2) as process:
        wait_for(lambda: len(workers(process.pid)) == 2)
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        out_text, err_text = process.communicate(timeout=WAIT)
    assert (process.returncode, out_text, err_text) == (0, b"", b"")
    same(alone, Run.open(out))
    assert not list(out.glob("shards/.*"))
