"""Answers of judges, kept on disk so that a second run, or a resumed one, asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlitqc.errors import ModelUnavailable
from vlitqc.models.cache import cache_folder
from vlitqc.types import Question

FILE_NAME = "answers.sqlite"
LAYOUT = 1
_BUSY_SECONDS = 60.0


def answer_key(
    question: Question,
    *,
    kind: Literal["ask", "weigh"],
    backend: str,
    model: str,
    revision: str,
    pictures: Sequence[str] = (),
    temperature: float,
    max_tokens: int,
    seed: int = 0,
    vote: int = 0,
    more: Mapping[str, Any] | None = None,
) -> str:
    """The sha256, in hex, of everything that an answer depends on, and of nothing else.

    ``pictures`` are the sha256 of the pictures as the model gets them (resized, encoded), in order; ``seed`` is
    the run's, ``vote`` counts from 0; ``more`` is JSON-able and holds whatever else the backend sends. Where the
    model is served is no part of it: the same model at another address gives the same answers.
    """
    parts = [
        LAYOUT,
        kind,
        [backend, model, revision],
        [question.prompt, question.system, question.content],
        list(pictures),
        [list(question.choices), question.schema],
        [float(temperature), max_tokens, seed, vote],
        dict(more or {}),
    ]
    # ASCII JSON: lone surrogates, which a record can hold, have no UTF-8 form.
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class AnswerCache:
    """Texts by key in one SQLite file, safe for several processes and threads, and for a kill at any time.

    The file is opened on first use and made with mode 0600, its folder with 0700, because answers quote the
    data. It is written ahead (WAL), each answer in a transaction of its own, and lies on a local disk: SQLite's
    locks do not hold over most network file systems. The first answer under a key stays.

    ``get`` and ``put`` raise ModelUnavailable where the file cannot be opened, read or written, or is damaged:
    answers cost time or money, so nothing is thrown away without the user's word.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: tuple[int, sqlite3.Connection] | None = None

    @classmethod
    def in_folder(cls, option: str | Path | None = None) -> AnswerCache:
        """The cache in ``cache_folder(option)``."""
        return cls(cache_folder(option) / FILE_NAME)

    def __reduce__(self) -> tuple[type[AnswerCache], tuple[Path]]:
        return AnswerCache, (self.path,)

    def get(self, key: str) -> str | None:
        """The text under ``key``, or None."""
        rows = self._run("SELECT text FROM answers WHERE key = ?", (key,))
        return bytes(rows[0][0]).decode("utf-8", "surrogatepass") if rows else None

    def put(self, key: str, text: str) -> None:
        """Keep ``text`` under ``key``, unless there is one already."""
        self._run(
            "INSERT OR IGNORE INTO answers (key, text) VALUES (?, ?)",
            (key, text.encode("utf-8", "surrogatepass")),
        )

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open is not None and self._open[0] == os.getpid():
                self._open[1].close()
            self._open = None

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                # A connection must not cross a fork: a child opens its own.
                if self._open is None or self._open[0] != os.getpid():
                    self._open = (os.getpid(), self._connect())
                return self._open[1].execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                raise ModelUnavailable(
                    f"the cache of answers {self.path} cannot be used ({error}); "
                    "make it writable, or name another folder in VLITQC_CACHE"
                ) from error
            except sqlite3.DatabaseError as error:
                raise ModelUnavailable(
                    f"the cache of answers {self.path} is damaged ({error}); move it away and run again: "
                    "what it held will be asked anew"
                ) from error
            except OSError as error:
                raise ModelUnavailable(
                    f"the cache of answers {self.path} cannot be made ({error.strerror}); "
                    "name another folder in VLITQC_CACHE"
                ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its side files the mode of the file itself.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout == 0:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID"
                )
                connection.execute(f"PRAGMA user_version={LAYOUT}")
            connection.execute("COMMIT")
            if layout not in (0, LAYOUT):
                raise ModelUnavailable(
                    f"the cache of answers {self.path} has layout {layout}, this version writes {LAYOUT}; "
                    "name another folder in VLITQC_CACHE"
                )
        except BaseException:
            connection.close()
            raise
        return connection
