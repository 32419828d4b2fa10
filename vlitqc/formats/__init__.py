"""Inputs: which format a file has, its records one by one, and writing them back byte for byte.

A format is an entry point of the group ``vlitqc.formats``: a class that fits ``Format``. Detection looks at the
content and never at the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from vlitqc.errors import FormatError, InputError
from vlitqc.registry import FORMATS, entries, find
from vlitqc.types import Origin, Record

HEAD_BYTES = 1 << 16

_SIGNATURES = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the data itself",
        "fetch it with: git lfs pull",
    ),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with: gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with: unzstd"),
    (b"PK\x03\x04", "a zip archive", "unpack it and pass the JSON file inside"),
    (
        b"PAR1",
        "a Parquet file",
        "export it as JSON lines, e.g. pandas.read_parquet(...).to_json(..., lines=True)",
    ),
    (b"\xff\xfe", "UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8"),
)


class RecordWriter(Protocol):
    """Takes records, one at a time, as the bytes they have in their input."""

    def write(self, raw: bytes) -> None:
        """Append one record."""
        ...


class Reader(Protocol):
    """One opened input. Nothing is held between calls, so that a reader may travel between processes."""

    @property
    def name(self) -> str:
        """The format's name, such as ``jsonl``."""
        ...

    @property
    def path(self) -> Path:
        """The input file."""
        ...

    @property
    def suffix(self) -> str:
        """The ending that a file written by ``writer`` should have, with its dot."""
        ...

    def records(self) -> Iterator[Record]:
        """Every record in file order, read as a stream; what cannot be read comes as ``Unreadable``."""
        ...

    def raw(self, origin: Origin) -> bytes:
        """The record's exact bytes. Raises InputError where the file no longer holds them."""
        ...

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again. Raises InputError as ``raw`` does."""
        ...

    def writer(self, target: Path) -> AbstractContextManager[RecordWriter]:
        """Write ``target`` in the input's format; it appears, whole, only when the block ends without error.

        Raises UsageError where ``target`` is the input itself.
        """
        ...


class Format(Protocol):
    """What an entry point of ``vlitqc.formats`` names: a class that knows its files and opens them."""

    def fits(self, head: bytes) -> bool:
        """Whether a file that begins with ``head`` (at most ``HEAD_BYTES``) has this format."""
        ...

    def __call__(self, path: Path) -> Reader:
        """Open ``path``. Raises FormatError where the file is of this format but holds no list of records."""
        ...


def open_input(path: Path, format: str | None = None) -> Reader:
    """A reader for ``path``, in the named format or, without a name, the first registered one that fits.

    Raises InputError for a path that is missing, a folder, empty, or not readable; FormatError where no format
    fits; UnknownName for an unknown ``format``.
    """
    head = _head(path)
    if format is not None:
        named: Format = find(FORMATS, format).load()
        if not named.fits(head):
            raise FormatError(
                f"{path} is not {format}: it begins with {_excerpt(head)!r}; leave the format out to have it detected"
            )
        return named(path)
    known = entries(FORMATS)
    if not known:
        raise FormatError("no format is registered, so vlitqc is not installed whole; reinstall it with pip")
    for entry in known.values():
        candidate: Format = entry.load()
        if candidate.fits(head):
            return candidate(path)
    for signature, what, cure in _SIGNATURES:
        if head.startswith(signature):
            raise FormatError(f"{path} is {what}; {cure}")
    what = "binary data" if b"\0" in head else f"text that begins with {_excerpt(head)!r}"
    raise FormatError(
        f"{path} is {what}; expected one of the formats {', '.join(known)}: "
        "a JSON list of records, or one JSON record a line"
    )


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass the JSON or JSONL file with the records")
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path (relative to {Path.cwd()})")
    if not path.is_file():
        raise InputError(
            f"{path} is a device or a pipe; save the records in a file first, for they are read twice"
        )
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not head.strip():
        raise InputError(f"{path} is empty; expected a JSON list of records, or one JSON record a line")
    return head


def _excerpt(head: bytes) -> str:
    return " ".join(head[:200].decode("utf-8", "replace").split())[:60]
