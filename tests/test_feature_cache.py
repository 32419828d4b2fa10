"""The cache of features as a file: what is found again, what is not, and what happens when it cannot be used."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlitqc.errors import InputError, UsageError
from vlitqc.models import feature_cache
from vlitqc.models.feature_cache import DEFAULT_SIZE, FILE_NAME, FeatureCache, device_in_words, size_limit

VERSIONS = {"numpy": "2.0"}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., FeatureCache]]:
    """Opens the cache in the test's folder; all are closed in the end."""
    made: list[FeatureCache] = []

    def open_one(name: str = FILE_NAME, **options: Any) -> FeatureCache:
        made.append(FeatureCache(tmp_path / name, **({"versions": VERSIONS} | options)))
        return made[-1]

    yield open_one
    for cache in made:
        cache.close()


def test_values_come_back_bit_by_bit(opened: Callable[..., FeatureCache]) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 384)).astype(np.float32)
    rows[0, :4] = [3.4e38, -3.4e38, -0.0, 1e-45]
    plain: dict[str, Any] = {
        "number": 0.1 + 0.2,
        "minus nothing": -0.0,
        "list": ["a", None, 3, 1e-300, {"k": "\ud800\x00"}],
        "": "the empty content",
        "bytes": b"\x00\xff\xd8 json f32 ",
        "no bytes": b"",
        "\udfff \x00": [],
    }
    values = plain | {f"row {i}": row for i, row in enumerate(rows)} | {"none": np.empty(0, np.float32)}
    opened().keep("s", values)
    found = opened().find("s", [*values, "unknown"])
    assert found.keys() == values.keys()
    for i, row in enumerate(rows):
        assert found[f"row {i}"].dtype == np.float32 and found[f"row {i}"].tobytes() == row.tobytes()
    assert found["none"].shape == (0,)
    assert math.copysign(1, found["minus nothing"]) == -1
    assert all(found[key] == value for key, value in plain.items())


def test_many_keys_are_one_call_and_the_first_value_stays(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {f"{i}": float(i) for i in range(2000)})
    cache.keep("s", {f"{i}": -1.0 for i in range(1000, 3000)})
    found = cache.find("s", [f"{i}" for i in range(3000)] * 2)
    assert found == {f"{i}": float(i) if i < 2000 else -1.0 for i in range(3000)}
    assert cache.state().entries == 3000
    assert cache.take() == {"found": 3000, "kept": 3000, "fault": None}
    assert cache.take() == {"found": 0, "kept": 0, "fault": None}


def test_another_space_version_or_device_is_another_value(opened: Callable[..., FeatureCache]) -> None:
    opened().keep("s", {"a": 1.0})
    assert opened().find("t", ["a"]) == {}
    assert opened().find("sa", [""]) == {}
    assert opened(versions={"numpy": "2.1"}).find("s", ["a"]) == {}
    assert opened(versions=VERSIONS | {"device": "cuda"}).find("s", ["a"]) == {}
    assert opened(versions=dict(VERSIONS)).find("s", ["a"]) == {"a": 1.0}


def test_what_would_not_come_back_equal_is_not_kept(opened: Callable[..., FeatureCache]) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    values: dict[str, Any] = {
        "doubles": np.zeros(3),
        "halves": np.zeros(3, np.float16),
        "rows": np.zeros((2, 2), np.float32),
        "number of numpy": np.float32(0.5),
        "inside": [np.int64(3)],
        "object": object(),
        "set": {1, 2},
        "tuple": ("a", 1),
        "keys": {1: "a"},
        "deep": deep,
        "nan": math.nan,
        "inside a list": [1.0, math.inf],
        "not finite": np.array([1, np.nan], np.float32),
        "endless": np.array([np.inf], np.float32),
    }
    cache = opened()
    cache.keep("s", values | {"good": [1, "a", None]})
    assert cache.find("s", [*values, "good"]) == {"good": [1, "a", None]}
    assert cache.fault is None and cache.take()["kept"] == 1


def test_only_the_owner_can_read_it_and_it_travels(opened: Callable[..., FeatureCache]) -> None:
    cache = opened("a/b/features.sqlite", limit=1 << 30)
    cache.keep("s", {"a": 1.0})
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.find("s", ["a"]) == {"a": 1.0} and copy.limit == 1 << 30
    copy.close()


# ---------------------------------------------------------------- size


def test_the_least_recently_used_go_and_the_file_stays_small(
    opened: Callable[..., FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 4 << 20
    cache = opened(limit=limit)
    today = 20_000
    monkeypatch.setattr(feature_cache, "_today", lambda: today)
    row = np.zeros(1280, np.float32)  # 5 KiB
    cache.keep("s", {f"old {i}": row + i for i in range(400)})
    today += 1
    used = [f"old {i}" for i in range(0, 400, 4)]
    assert len(cache.find("s", used)) == 100
    today += 1
    peak = 0
    for start in range(0, 500, 50):
        cache.keep("s", {f"new {i}": row + i for i in range(start, start + 50)})
        peak = max(peak, cache.path.stat().st_size)
        assert cache.state().used <= limit
    assert peak <= limit * 1.3
    assert len(cache.find("s", used)) == 100, "used yesterday"
    left = cache.find("s", [f"old {i}" for i in range(400)])
    unused = [f"old {i}" for i in range(400) if i % 4]
    gone = [name for name in unused if name not in left]
    assert left.keys() >= set(used) and gone == unused[: len(gone)] and gone, "not used since the day before"
    assert len(cache.find("s", [f"new {i}" for i in range(500)])) == 500
    today += 1
    smaller = opened(limit=1 << 20)
    smaller.keep("s", {"x": 0.0})
    assert cache.state().used <= 1 << 20
    smaller.close()
    cache.close()
    assert cache.state().file <= (1 << 20) * 1.3, "what is written ahead goes with the last who closes"
    assert cache.find("s", ["new 499"])["new 499"].tobytes() == (row + 499).tobytes()


def test_a_use_is_written_once_a_day(
    opened: Callable[..., FeatureCache], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    today = 20_000
    monkeypatch.setattr(feature_cache, "_today", lambda: today)
    cache = opened()
    cache.keep("s", {"a": 1.0})
    watch = sqlite3.connect(tmp_path / FILE_NAME)

    def version() -> int:
        (told,) = watch.execute("PRAGMA data_version").fetchone()
        return int(told)

    before = version()
    cache.find("s", ["a"])
    assert version() == before
    today += 1
    cache.find("s", ["a"])
    touched = version()
    assert touched != before
    cache.find("s", ["a"])
    assert version() == touched
    watch.close()


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ("", DEFAULT_SIZE),
        ("0", 0),
        ("1000", 1000),
        ("500M", 500 << 20),
        ("2.5 GiB", 5 << 29),
        (" 1tb ", 1 << 40),
    ],
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, told: str, size: int) -> None:
    monkeypatch.setenv("VLITQC_CACHE_SIZE", told)
    assert size_limit() == size


@pytest.mark.parametrize("told", ["much", "-1", "1e9", "10 XB", "1" * 400, "nan"])
def test_no_size(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("VLITQC_CACHE_SIZE", told)
    with pytest.raises(UsageError, match="expected a size such as 500M"):
        size_limit()


def test_the_cache_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path))
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "1M")
    cache = FeatureCache.in_folder(VERSIONS)
    assert cache is not None and (cache.path, cache.limit) == (tmp_path / FILE_NAME, 1 << 20)
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "0")
    assert FeatureCache.in_folder(VERSIONS) is None


def test_where_there_can_be_no_gpu_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it now raises
    assert device_in_words("auto") == device_in_words("cuda") == device_in_words("cpu")
    assert device_in_words("cpu").startswith("cpu ")


# ---------------------------------------------------------------- several at once


def _fill(path: Path, who: int) -> None:
    cache = FeatureCache(path, versions=VERSIONS, limit=1 << 30)
    for start in range(0, 640, 64):
        cache.keep("shared", {f"{i}": np.full(384, i, np.float32) for i in range(start, start + 64)})
        cache.keep("own", {f"{who} {i}": [who, i] for i in range(start, start + 64)})
        assert len(cache.find("shared", [f"{i}" for i in range(start + 64)])) == start + 64
    assert cache.fault is None, cache.fault


def test_many_processes_write_at_once(opened: Callable[..., FeatureCache], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_fill, args=(tmp_path / FILE_NAME, who)) for who in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    cache = opened()
    found = cache.find("shared", [f"{i}" for i in range(640)])
    assert all((found[f"{i}"] == i).all() for i in range(640))
    own = {f"{who} {i}": [who, i] for who in range(3) for i in range(640)}
    assert cache.find("own", list(own)) == own
    assert cache.state().entries == 4 * 640


def test_threads_share_it_and_a_fork_opens_its_own(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()

    def work(who: int) -> None:
        for i in range(50):
            cache.keep("s", {f"{who} {i}": float(i)})
            assert cache.find("s", [f"{who} {i}"]) == {f"{who} {i}": float(i)}

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.state().entries == 200 and cache.fault is None
    # Only what the fork does to the connection is looked at, by a child that does nothing else.
    child = os.fork()
    if child == 0:
        whole = cache.find("s", ["0 1"]) == {"0 1": 1.0} and cache.fault is None
        os._exit(0 if whole else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.find("s", ["0 2"]) == {"0 2": 2.0}


# ---------------------------------------------------------------- what goes wrong


def useless(cache: FeatureCache, why: str, cure: str) -> None:
    """Asserts that the cache does nothing, raises nothing, and says once and for all what is wrong."""
    assert cache.find("s", ["a"]) == {}
    cache.keep("s", {"b": 1.0})
    assert cache.find("s", ["b"]) == {}
    assert cache.fault is not None and why in cache.fault and cure in cache.fault
    assert str(cache.path) in cache.fault and "\n" not in cache.fault


def test_a_damaged_file_is_left_alone_until_it_is_cleared(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.path.write_bytes(b"no database at all, " * 500)
    useless(cache, "is damaged", "vlitqc cache clear")
    assert cache.path.read_bytes().startswith(b"no database")
    with pytest.raises(InputError, match="is damaged"):
        opened().state()
    assert opened().clear().file == 10_000
    assert not cache.path.exists()
    fresh = opened()
    fresh.keep("s", {"a": 1.0})
    assert fresh.find("s", ["a"]) == {"a": 1.0}


def test_a_file_damaged_in_the_middle(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {f"{i}": np.zeros(384, np.float32) for i in range(500)})
    cache.close()
    data = bytearray(cache.path.read_bytes())
    for start in range(16384, len(data), 16384):
        data[start : start + 512] = os.urandom(512)
    cache.path.write_bytes(data)
    again = opened()
    found = again.find("s", [f"{i}" for i in range(500)])
    assert again.fault is not None and "is damaged" in again.fault and not found


@pytest.mark.parametrize("bad", ["5", "[" * 100_000, 7, 3.5, None, b"abc", b"abcd" * 3, "other", "flipped"])
def test_a_row_that_is_not_as_it_was_kept_is_none_and_goes(
    opened: Callable[..., FeatureCache], bad: object
) -> None:
    cache = opened()
    cache.keep("s", {"a": np.arange(3, dtype=np.float32), "b": "text", "c": 1.0})
    with sqlite3.connect(cache.path) as connection:
        connection.execute("CREATE TEMP TABLE was AS SELECT id, value FROM features")
        if bad == "other":  # the next row's
            connection.execute(
                "UPDATE features SET value = (SELECT value FROM was WHERE was.id = 1 + features.id % 3)"
            )
        elif bad == "flipped":
            for at, value in connection.execute("SELECT id, value FROM was").fetchall():
                flipped = value[:-1] + bytes([value[-1] ^ 1])
                connection.execute("UPDATE features SET value = ? WHERE id = ?", (flipped, at))
        else:
            connection.execute("UPDATE features SET value = coalesce(?, zeroblob(20)), day = 'x'", (bad,))
    assert cache.find("s", ["a", "b", "c"]) == {} and cache.fault is None
    assert cache.state().entries == 0
    cache.keep("s", {"b": "new"})
    assert cache.find("s", ["b"]) == {"b": "new"}


def test_a_file_of_another_version(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {"a": 1.0})
    cache.close()
    with sqlite3.connect(cache.path) as connection:
        connection.execute("PRAGMA user_version=9")
    useless(opened(), "has layout 9, this version writes 1", "to begin anew: vlitqc cache clear")
    assert opened().clear().file > 0 and not cache.path.exists()


def test_a_file_without_its_tables(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {"a": 1.0})
    cache.close()
    with sqlite3.connect(cache.path) as connection:
        connection.execute("DROP TABLE features")
    useless(opened(), "is damaged", "to begin anew: vlitqc cache clear")
    assert opened().clear().file > 0
    fresh = opened()
    fresh.keep("s", {"a": 1.0})
    assert fresh.find("s", ["a"]) == {"a": 1.0}


def test_a_folder_that_cannot_be_made(opened: Callable[..., FeatureCache], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    useless(opened("file/features.sqlite"), "cannot be made", "name another folder in VLITQC_CACHE")


@pytest.mark.parametrize("folder", ["file", "n" * 300, "file/below"])
def test_a_folder_that_can_be_none(opened: Callable[..., FeatureCache], tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    for use in (FeatureCache.state, FeatureCache.clear):
        with pytest.raises(
            InputError, match=r"cannot be used \(.*; make it writable, or name another folder"
        ):
            use(opened(f"{folder}/features.sqlite"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(opened: Callable[..., FeatureCache], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        useless(opened(), "cannot be", "make it writable")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_that_cannot_be_written(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {"a": 1.0})
    # As of a read-only mount, which root too cannot write to.
    cache._file.run(lambda connection: connection.execute("PRAGMA query_only=1").fetchall())
    assert cache.find("s", ["a"]) == {"a": 1.0}
    cache.keep("s", {"b": 1.0})
    assert cache.fault is not None and "cannot be used" in cache.fault and "make it writable" in cache.fault


def test_a_full_disk(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {"a": 1.0})
    cache._file.run(lambda connection: connection.execute("PRAGMA max_page_count=8").fetchall())
    cache.keep("s", {f"{i}": np.zeros(1280, np.float32) for i in range(100)})
    assert cache.fault is not None and "full" in cache.fault and "make room on its disk" in cache.fault
    again = opened()
    assert again.find("s", ["a", "0"]).keys() == {"a"}, "half a transaction is none"
    # Nothing can be deleted in a file that cannot be written: it goes itself.
    assert cache.clear().file > 0 and not cache.path.exists()
    assert not list(cache.path.parent.glob(f"{FILE_NAME}*"))


def test_a_lowered_limit_is_not_one_runs_to_keep(opened: Callable[..., FeatureCache]) -> None:
    large = opened()
    for start in range(0, 4000, 500):
        large.keep("s", {f"{i}": np.full(1024, i, np.float32) for i in range(start, start + 500)})
    small = opened(limit=1 << 20)
    small.keep("s", {"x": 0.0})
    left = small.state()
    assert 2900 <= left.entries < 4000, "a part goes at each time"
    for i in range(4):
        small.keep("s", {f"y {i}": 0.0})
    assert small.state().used <= 1 << 20


def test_a_file_that_stays_locked(
    opened: Callable[..., FeatureCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().keep("s", {"a": 1.0})
    monkeypatch.setattr(feature_cache, "PATIENCE", 0.2)
    cache = opened()
    other = sqlite3.connect(cache.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    useless(cache, "locked", "wait for the runs")
    with pytest.raises(InputError, match="wait for the runs"):
        opened().clear()
    other.execute("ROLLBACK")
    other.close()
    useless(cache, "locked", "wait for the runs")
    assert opened().find("s", ["a"]) == {"a": 1.0}


def test_clearing_gives_the_room_back(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {f"{i}": np.zeros(1280, np.float32) for i in range(300)})
    other = opened()
    assert other.find("s", ["1"])
    before = cache.clear()
    assert before.entries == 300 and before.file > 1 << 20
    assert cache.state().entries == 0 and cache.state().file < 1 << 17, "with what is written ahead"
    assert other.find("s", ["1"]) == {} and other.fault is None
    assert opened("never/made.sqlite").clear().entries == 0


def test_no_pickle_is_read(opened: Callable[..., FeatureCache]) -> None:
    cache = opened()
    cache.keep("s", {"a": {"k": [1, "x"]}, "b": np.ones(2, np.float32)})
    rows = cache._file.run(lambda connection: connection.execute("SELECT value FROM features").fetchall())
    assert sorted(value[8:12] for (value,) in rows) == [b"f32 ", b"json"]
    assert json.loads(next(value[12:] for (value,) in rows if value[8:12] == b"json")) == {"k": [1, "x"]}
