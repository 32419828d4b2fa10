"""Answers of judges, kept on disk so that a second run, or a resumed one, asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlitqc.errors import ModelUnavailable
from vlitqc.models.cache import cache_folder
from vlitqc.models.sqlite_file import OtherLayout, SqliteFile
from vlitqc.types import Question

FILE_NAME = "answers.sqlite"
LAYOUT = 1


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

    A ``SqliteFile``, readable by its owner alone because answers quote the data; each answer is a transaction of
    its own. The first answer under a key stays.

    ``get`` and ``put`` raise ModelUnavailable where the file cannot be opened, read or written, or is damaged:
    answers cost time or money, so nothing is thrown away without the user's word.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SqliteFile(
            path,
            layout=LAYOUT,
            tables=("CREATE TABLE answers (key TEXT PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID",),
        )

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
        self._file.close()

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._file.run(lambda connection: connection.execute(statement, values).fetchall())
        except OtherLayout as error:
            raise ModelUnavailable(
                f"the cache of answers {self.path} has layout {error}, this version writes {LAYOUT}; "
                "name another folder in VLITQC_CACHE"
            ) from error
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
