"""Writing into a run directory: each file whole or not at all, and a refusal of the disk as a sentence."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlitqc.errors import RunError
from vlitqc.formats.writing import remove, whole
from vlitqc.types import FloatArray

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DRAFT = re.compile(r"\..+\.\d+(\.part|\.old)?|\..+\.new")
"""The names of drafts: ``.00007.4711``, ``.run.json.4711.part``, ``.report.html.new``."""


@contextmanager
def writing(place: Path, option: str = "--out") -> Iterator[None]:
    """Within it every OSError is one of writing at ``place``, which ``option`` named, and becomes a RunError with its
    cure."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(
                f"no space left for {place} ({os.strerror(error.errno)}); free some and run the same command, "
                "which takes over what is finished"
            ) from error
        # Libraries put names of drafts and advice of their own into ``strerror``.
        told = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(f"cannot write {place} ({told}); name another place with {option}") from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a file, which is made, against a second writer of ``what``; the lock goes with the process, even if it is
    killed.

    Raises RunError where another holds it, or it cannot be made.
    """
    busy = f"{what} is in use by another vlitqc; wait for it, or pass --out DIR"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise RunError(f"cannot write {what} ({error.strerror}); pass --out DIR") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(busy) from None
        if not os.fstat(stream.fileno()).st_nlink:
            # Its holder has deleted it just now; a third may hold a new one.
            raise RunError(busy)
        yield


def write_json(path: Path, value: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Write or replace a JSON file; with ``allow_nan`` one that only Python reads may come of it."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=allow_nan) + "\n"
    with writing(path), whole(path, ()) as draft:
        # A byte of a path that is no UTF-8 is half a surrogate pair; its backslash form is JSON's escape for it.
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_table(path: Path, table: pa.Table, *, group_rows: int | None = None) -> None:
    """Write or replace a parquet file, in groups of at most so many rows (by default Arrow's own, of a million)."""
    with writing(path), whole(path, ()) as draft:
        pq.write_table(table, draft, compression="zstd", row_group_size=group_rows)


def read_table(path: Path, columns: Sequence[str] | None = None, *, coded: Sequence[str] = ()) -> pa.Table:
    """A parquet file, or those of a folder one after the other: all columns, or some in the order asked for.

    Those in ``coded`` come as dictionaries. ``pyarrow.parquet.read_table`` sets up a data set for each call, which
    takes longer than to read a small file. Raises OSError, KeyError for a column that is not there, and errors of
    Arrow.
    """
    tables = []
    for part in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(part, read_dictionary=list(coded) or None) as file:
            table = file.read(columns if columns is None else list(columns))
        tables.append(table if columns is None else table.select(list(columns)))
    return pa.concat_tables(tables)


def write_vectors(path: Path, blocks: Iterable[FloatArray], shape: tuple[int, int]) -> None:
    """Write or replace a ``.npy`` file of ``shape`` with the rows of ``blocks``, one block in memory at a time.

    Not through a memory map: there a full disk kills the process instead of raising an error.
    """
    with writing(path), whole(path, ()) as draft, draft.open("xb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            if block.shape[1:] != shape[1:]:
                raise ValueError(f"vectors of {block.shape[1:]} among vectors of {shape[1:]}")
            stream.write(np.ascontiguousarray(block, "<f4").data)


def save(path: Path, array: np.ndarray[Any, Any]) -> None:
    """``numpy.save`` whose error on a full disk says so: numpy's own drops the cause."""
    array = np.ascontiguousarray(array)
    with path.open("xb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.data)


def sync(path: Path) -> None:
    """Have a file or a folder's entries reach the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_draft(name: str) -> bool:
    """Whether a file of this name, in a run directory, is one that was not finished."""
    return _DRAFT.fullmatch(name) is not None


def sweep(*folders: Path) -> None:
    """Delete what killed runs left half-written in these folders, which nobody else is writing into."""
    for folder in folders:
        for path in folder.glob(".*"):
            if is_draft(path.name):
                remove(path)
