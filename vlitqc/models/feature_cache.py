"""What models said of texts and pictures, and small pictures, kept on disk so that no run makes them a second time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vlitqc.errors import InputError, UsageError
from vlitqc.models.cache import cache_folder
from vlitqc.models.sqlite_file import OtherLayout, SqliteFile
from vlitqc.models.torch_device import has_gpu

FILE_NAME = "features.sqlite"
LAYOUT = 1
DEFAULT_SIZE = 10 << 30
PATIENCE = 10.0
"""Seconds for which a process waits for others that write; after that it computes by itself."""

T = TypeVar("T")

_TABLES = (
    "CREATE TABLE features (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, day INTEGER NOT NULL, value NOT NULL)",
    # The rows of one day are in the order of their ids: the oldest come first.
    "CREATE INDEX by_day ON features (day)",
)
_SETTINGS = (
    "page_size=16384",
    "auto_vacuum=INCREMENTAL",
    "wal_autocheckpoint=2000",
    f"journal_size_limit={1 << 26}",
)
# Run as a script: of a statement without columns Python else takes only the first step, which gives back one page.
_SHRINK = "PRAGMA incremental_vacuum"
_SOME_KEYS = 512
_SOME_ROWS = 256
_SPARE_ROUNDS = 4
"""Rounds of making room, beyond those that what is kept itself needs, that one ``keep`` may take."""

_SUM = 8
_TAG = 4
_VECTOR, _JSON, _BYTES = b"f32 ", b"json", b"byte"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)


_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CLOSED = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_PROTOCOL,
)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_OPEN = "make it writable, or name another folder in VLITQC_CACHE"
_CLEAR = "to begin anew: vlitqc cache clear"


class State(NamedTuple):
    """What a cache holds: values, the bytes that they take, and those of its files, which keep room for more."""

    entries: int
    used: int
    file: int


class FeatureCache:
    """Values by space and content in one SQLite file of bounded size; see ``vlitqc.types.FeatureCache``.

    A key is the sha256 of the space, the content and ``versions``: whatever else can change a number, such as the
    versions of libraries and the device. Where the values take more than ``limit`` bytes, those go whose last day of
    use is the longest ago, the older first; a day is the finest that is told, so that a use costs a write only once a
    day. Safe for several processes and threads, and for a kill at any time.

    A value has a sum over it and its key: one that is not as it was kept is as good as none, and goes. A file that
    cannot be opened, read or written, or is damaged, is left alone from then on: ``fault`` then says why, in a
    sentence.
    """

    def __init__(self, path: Path, *, versions: Mapping[str, str], limit: int = DEFAULT_SIZE) -> None:
        self.path = path
        self.limit = limit
        self.fault: str | None = None
        self._clearable = False
        self._counts = {"found": 0, "kept": 0}
        self._versions = dict(versions)
        self._spaces: dict[str, Any] = {}
        self._file = SqliteFile(path, layout=LAYOUT, tables=_TABLES, settings=_SETTINGS, patience=PATIENCE)

    @classmethod
    def in_folder(cls, versions: Mapping[str, str], option: str | Path | None = None) -> FeatureCache | None:
        """The cache in ``cache_folder(option)``, as large as ``size_limit`` allows; None where that is 0."""
        limit = size_limit()
        return cls(cache_folder(option) / FILE_NAME, versions=versions, limit=limit) if limit else None

    def __reduce__(self) -> tuple[Callable[..., FeatureCache], tuple[Any, ...]]:
        return _made, (self.path, self._versions, self.limit)

    def find(self, space: str, contents: Sequence[str]) -> dict[str, Any]:
        """The values that are known, by content."""
        keys = {self._key(space, content): content for content in contents}
        rows = self._tried(lambda connection: _read(connection, list(keys))) or []
        self._counts["found"] += len(rows)
        return {keys[key]: value for key, value in rows}

    def keep(self, space: str, values: Mapping[str, Any]) -> None:
        """Remember the values by content, but for those that would not come back equal or are not finite."""
        if self.fault is not None:
            return
        today = _today()
        rows = []
        for content, value in values.items():
            packed = _packed(value)
            if packed is not None:
                key = self._key(space, content)
                rows.append((key, today, _summed(key, packed) + packed))
        if rows:
            self._counts["kept"] += self._tried(lambda connection: _write(connection, rows, self.limit)) or 0

    def take(self) -> dict[str, Any]:
        """How many values were ``found`` and ``kept`` since the last call, and the ``fault``."""
        counts, self._counts = self._counts, {"found": 0, "kept": 0}
        return {**counts, "fault": self.fault}

    def state(self) -> State:
        """What it holds. Raises InputError where it cannot be used."""
        return self._known(_state)

    def clear(self) -> State:
        """Forget everything and return what there was.

        The file is deleted where it is damaged, of another layout, or cannot be written for want of room. Raises
        InputError.
        """
        try:
            return self._known(_empty)
        except InputError:
            if not self._clearable:
                raise
        self.close()
        size = self._file.size()
        try:
            self._file.delete()
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be deleted ({error.strerror}); delete it yourself"
            ) from error
        return State(0, 0, size)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    def _known(self, use: Callable[[sqlite3.Connection], State]) -> State:
        try:
            size = self._file.size()
        except OSError as error:
            self._give_up(f"cannot be used ({error.strerror})", _OPEN)
            raise InputError(str(self.fault)) from error
        if not size:
            return State(0, 0, 0)
        state = self._tried(use)
        if state is None:
            raise InputError(str(self.fault))
        return state._replace(file=size)

    def _key(self, space: str, content: str) -> bytes:
        if space not in self._spaces:
            told = json.dumps([LAYOUT, self._versions, space], sort_keys=True)
            self._spaces[space] = hashlib.sha256(hashlib.sha256(told.encode()).digest())
        digest = self._spaces[space].copy()
        digest.update(content.encode("utf-8", "surrogatepass"))
        key: bytes = digest.digest()
        return key

    def _tried(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """What ``use`` returns; None where the file cannot be used, now or before, or memory is short."""
        if self.fault is not None:
            return None
        try:
            return self._file.run(use)
        except OtherLayout as error:
            self._give_up(f"has layout {error}, this version writes {LAYOUT}", _CLEAR)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in _BUSY:
                self._give_up(f"cannot be used ({error})", "wait for the runs that write to it")
            elif code in _CLOSED:
                self._give_up(f"cannot be used ({error})", _OPEN)
            elif code in _NO_ROOM:
                cure = "make room on its disk, if need be with: vlitqc cache clear"
                self._give_up(f"cannot be used ({error})", cure, clearable=True)
            else:
                self._give_up(f"is damaged ({error})", _CLEAR)
        except OSError as error:
            self._give_up(f"cannot be made ({error.strerror})", _OPEN)
        except MemoryError:
            pass
        return None

    def _give_up(self, why: str, cure: str, *, clearable: bool = False) -> None:
        self._clearable = clearable or cure == _CLEAR
        self.fault = f"the cache of features {self.path} {why} and is not used; {cure}"


def size_limit() -> int:
    """Bytes that ``$VLITQC_CACHE_SIZE`` allows, such as ``500M`` or ``2.5 GiB``; 10 GiB where it is empty or not set.

    K, M, G and T are powers of 1,024; 0 is no cache. Raises UsageError for what is no size.
    """
    told = os.environ.get("VLITQC_CACHE_SIZE", "").strip()
    if not told:
        return DEFAULT_SIZE
    found = _SIZE.fullmatch(told)
    if found is None:
        raise UsageError(
            f"VLITQC_CACHE_SIZE={told!r}: expected a size such as 500M or 10GiB, or 0 for no cache"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def device_in_words(name: str) -> str:
    """The device that ``name`` comes to, with the kind of machine: part of what decides a number."""
    if name != "cpu" and has_gpu():
        import torch

        return f"cuda {torch.cuda.get_device_name()}"
    return f"cpu {platform.machine()} {sys.byteorder}"


def _made(path: Path, versions: Mapping[str, str], limit: int) -> FeatureCache:
    return FeatureCache(path, versions=versions, limit=limit)


def _today() -> int:
    return int(time.time() // 86_400)


def _packed(value: Any) -> bytes | None:
    """The value with a tag that tells its kind; None for one that would not come back equal, or is not finite."""
    if isinstance(value, np.ndarray):
        whole = value.ndim == 1 and value.dtype == np.float32 and bool(np.isfinite(value).all())
        return _VECTOR + value.tobytes() if whole else None
    if isinstance(value, bytes):
        return _BYTES + value
    try:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return _JSON + text.encode() if json.loads(text) == value else None
    except (TypeError, ValueError, RecursionError):
        return None


def _summed(key: bytes, packed: bytes) -> bytes:
    return hashlib.sha256(key + packed).digest()[:_SUM]


def _unpacked(key: bytes, row: Any) -> Any:
    """The value of a row. Raises ValueError for a row that is not as it was kept."""
    if not isinstance(row, bytes) or _summed(key, row[_SUM:]) != row[:_SUM]:
        raise ValueError("the sum is another")
    tag = row[_SUM : _SUM + _TAG]
    if tag == _VECTOR:
        return np.frombuffer(row, np.float32, offset=_SUM + _TAG)
    told = row[_SUM + _TAG :]
    return told if tag == _BYTES else json.loads(told)


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[tuple[bytes, Any]]:
    today = _today()
    found: list[tuple[bytes, Any]] = []
    old: list[tuple[int, int]] = []
    bad: list[tuple[int]] = []
    for start in range(0, len(keys), _SOME_KEYS):
        some = keys[start : start + _SOME_KEYS]
        marks = ",".join("?" * len(some))
        for at, key, day, row in connection.execute(
            f"SELECT id, key, day, value FROM features WHERE key IN ({marks})",  # noqa: S608 - question marks
            some,
        ):
            try:
                found.append((key, _unpacked(key, row)))
            except (ValueError, RecursionError):
                bad.append((at,))
            else:
                if day != today:
                    old.append((today, at))
    if old or bad:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("UPDATE features SET day = ? WHERE id = ?", old)
        connection.executemany("DELETE FROM features WHERE id = ?", bad)
        connection.execute("COMMIT")
    return found


def _write(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, int, bytes]], limit: int) -> int:
    """How many of the rows were new. Makes room where there is too little, but not for long."""
    connection.execute("BEGIN IMMEDIATE")
    kept = connection.executemany(
        "INSERT OR IGNORE INTO features (key, day, value) VALUES (?, ?, ?)", rows
    ).rowcount
    connection.execute("COMMIT")
    # A little at a time, so that no process waits long for another that makes room.
    for _ in range(_SPARE_ROUNDS + len(rows) // _SOME_ROWS):
        if _used(connection) <= limit:
            break
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "DELETE FROM features WHERE id IN (SELECT id FROM features ORDER BY day, id LIMIT ?)",
            (_SOME_ROWS,),
        )
        connection.execute("COMMIT")
        connection.executescript(_SHRINK)
    return kept


def _used(connection: sqlite3.Connection) -> int:
    """Bytes of values with their index."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _state(connection: sqlite3.Connection) -> State:
    (entries,) = connection.execute("SELECT COUNT(*) FROM features").fetchone()
    return State(entries, _used(connection), 0)


def _empty(connection: sqlite3.Connection) -> State:
    before = _state(connection)
    connection.execute("DELETE FROM features")
    connection.executescript(_SHRINK)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before
