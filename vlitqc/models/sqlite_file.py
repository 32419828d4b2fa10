"""A SQLite file that several processes and threads share, opened the same way by all."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class OtherLayout(Exception):
    """The file was written by another version of vlitqc; the argument is its layout."""


class SqliteFile:
    """A database at ``path``, opened on first use and by each process for itself.

    The file is made with mode 0600 and its folder with 0700. It is written ahead (WAL) and lies on a local disk:
    SQLite's locks do not hold over most network file systems. ``layout`` is the number kept in the file,
    ``tables`` the statements that make a new one, ``settings`` the PRAGMAs that each connection begins with, and
    ``patience`` how many seconds to wait for other processes.
    """

    def __init__(
        self,
        path: Path,
        *,
        layout: int,
        tables: Sequence[str],
        settings: Sequence[str] = (),
        patience: float = 60.0,
    ) -> None:
        self.path = path
        self._layout = layout
        self._tables = tuple(tables)
        self._settings = tuple(settings)
        self._patience = patience
        self._lock = threading.Lock()
        self._open: tuple[int, sqlite3.Connection] | None = None

    def run(self, use: Callable[[sqlite3.Connection], T]) -> T:
        """What ``use`` returns, alone with the connection, whose transactions it begins and ends.

        Raises sqlite3.Error, OSError and OtherLayout; a transaction that was left open is then rolled back.
        """
        with self._lock:
            # A connection must not cross a fork: a child opens its own.
            if self._open is None or self._open[0] != os.getpid():
                self._open = (os.getpid(), self._connect())
            connection = self._open[1]
            try:
                return use(connection)
            except BaseException:
                if connection.in_transaction:
                    connection.rollback()
                raise

    def size(self) -> int:
        """Bytes of the file and of what is written ahead of it; 0 where there is none. Raises OSError."""
        found = 0
        for path in self._files():
            with suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    def delete(self) -> None:
        """Delete the file with what is beside it. Raises OSError."""
        self.close()
        for path in (self._beside("-shm"), *reversed(self._files())):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None and self._open[0] == os.getpid():
                self._open[1].close()
            self._open = None

    def _files(self) -> tuple[Path, Path]:
        return self.path, self._beside("-wal")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its side files the mode of the file itself.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )
        try:
            for setting in self._settings:
                connection.execute(f"PRAGMA {setting}")
            self._write_ahead(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout == 0:
                for table in self._tables:
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version={self._layout}")
            connection.execute("COMMIT")
            if layout not in (0, self._layout):
                raise OtherLayout(layout)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        # SQLite's own waiting does not cover the change to WAL: where another process holds the file, it fails at once.
        end = time.monotonic() + self._patience
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                    raise
                time.sleep(0.01)
            else:
                return
