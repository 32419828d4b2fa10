"""Inputs: which format a file or folder has, its records one by one, and writing them back unchanged.

A format is an entry point of the group ``vlitqc.formats``: a class that fits ``Format``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vlitqc.errors import FormatError, InputError, UsageError
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content
from vlitqc.registry import FORMATS, entries, find
from vlitqc.types import Origin, Record

HEAD_BYTES = 1 << 16
NAMES = Names()

_SIGNATURES = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the data itself",
        "fetch it with: git lfs pull",
    ),
    (b"PK\x03\x04", "a zip archive", "unpack it and pass the files inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and pass the files inside"),
    (b"BZh", "compressed with bzip2", "unpack it with: bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with: unxz"),
    (b"\x1f\x8b", "packed too many times over", "unpack it with: gunzip"),
    (b"\x28\xb5\x2f\xfd", "packed too many times over", "unpack it with: unzstd"),
    (b"PAR1", "a Parquet file that cannot be opened", "it may be cut short; fetch it again"),
    (b"SQLite format 3\0", "an SQLite database", "export its table as JSON lines or CSV"),
    (b"\x89HDF", "an HDF5 file", "export its records as JSON lines or Parquet"),
    (b"%PDF-", "a PDF document", "pass the file that holds the records"),
)
_MARKUP = (b"<", "HTML or XML, perhaps the page of a failed download", "fetch the data itself")


class Reader(Protocol):
    """One opened input: a file, a folder, or several files read as one. Between calls it holds only what it
    needs to find its records again, so that it may travel between processes."""

    @property
    def name(self) -> str:
        """The format's name, such as ``jsonl``."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """What the content is wrapped in, outermost first, such as ``("gzip", "utf-16")``; mostly nothing."""
        ...

    @property
    def path(self) -> Path:
        """The input: a file, or the folder that holds all of its files."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the records come from, in the order in which they are read."""
        ...

    @property
    def suffix(self) -> str:
        """The ending of an output of ``divide``, with its dot, such as ``.jsonl.gz``; empty for a folder."""
        ...

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every record in order, read as a stream and numbered from ``first_row``.

        What cannot be read comes as ``Unreadable``; each record comes in exactly one of the two forms, and
        nothing that the input holds is skipped.
        """
        ...

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again. Raises InputError where the file no longer holds it."""
        ...

    def share(self, origin: Origin) -> float | None:
        """How much of the input, 0 to 1, lies before the end of the record at ``origin``; None if unknown."""
        ...

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """Copy records, unchanged and in the input's own format, each to the target that its name stands for.

        ``places`` are in the order of the input, some may be left out. Every target is written, also one that no
        record goes to; all appear, whole, when everything is copied, or none does. Lines and archive members
        keep their bytes; lists and tables keep every value, their order and their schema.

        Raises InputError where the input has changed, UsageError where a target is the input itself.
        """
        ...


class Format(Protocol):
    """What an entry point of ``vlitqc.formats`` names: a class that knows its files and opens them."""

    rank: int
    """Formats are asked in rising order of rank; the first that fits reads. The special before the general."""

    # ``text: bool = False``, optional: whether a file that is asked for in this format is opened as it also where
    # ``fits`` says no, so long as it is text. The class then raises FormatError for what it cannot open.

    def fits(self, path: Path, head: bytes) -> bool:
        """Whether ``path`` has this format.

        ``head`` is what its content begins with, at most ``HEAD_BYTES``, unpacked and in UTF-8; empty for a
        folder. A name's ending is at most a hint: files are called anything.
        """
        ...

    def __call__(self, path: Path, names: Names) -> Reader:
        """Open ``path``. Raises FormatError where it is of this format but holds no records."""
        ...


PACKED = (".gz", ".zst", ".tgz")
"""Endings of packed files."""


def suffix_of(path: Path, name: str) -> str:
    """The ending of a file of text, packed or not: ``.jsonl.gz``; the format's ``name`` where it has none."""
    packed = path.suffix if path.suffix in PACKED else ""
    return (Path(path.name.removesuffix(packed)).suffix or f".{name}") + packed


def stem_of(path: Path) -> str:
    """What outputs beside an input are named after: ``data`` of ``data.jsonl.gz``, the whole name of a folder."""
    if path.is_dir():
        return path.name
    stem = Path(path.stem) if path.suffix in PACKED else path
    return stem.stem if stem.suffix else stem.name


def open_input(
    data: str | Path | Sequence[str | Path], format: str | None = None, names: Names = NAMES
) -> Reader:
    """A reader for a file, a folder, a glob pattern, or several of these, read one after another as one input.

    ``format`` names the format of every file; by default each one's is detected from its content. A folder's and a
    pattern's files are read in natural order (``shard-9`` before ``shard-10``), the same file once, also where it
    is reached through links. A name that holds ``*`` or ``[`` and is a file's is that file. Of a pattern's matches
    those are read whose ending is that of data, or all where none is. Of several inputs, a file that cannot be
    read is one unreadable record.

    Raises InputError for a path that is missing, empty, or not readable, and a pattern that nothing matches;
    FormatError where no format fits; UnknownName for an unknown ``format``.
    """
    from vlitqc.formats.collection import gather  # which opens its files with open_path

    given = [data] if isinstance(data, str | Path) else list(data)
    if not given:
        raise UsageError("no input was given; pass a file, a folder, or a pattern")
    try:
        return gather(given, format, names)
    except OSError as error:
        path = error.filename or given[0]
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def check_name(path: Path) -> None:
    """Raise InputError for a path that is no UTF-8: tables and most libraries cannot hold it."""
    if shown(path) != str(path):
        raise InputError(f"{shown(path)}: this name is not UTF-8; rename it")


def shown(path: Path) -> str:
    """A path as text that is valid everywhere: a byte that is no UTF-8, ``0xff``, is spelled ``\\udcff``."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def open_path(path: Path, format: str | None, names: Names) -> Reader:
    """A reader for one file or folder; raises as ``open_input`` does."""
    check_name(path)
    head = _head(path)
    if format is not None:
        named: Format = find(FORMATS, format).load()
        if path.is_dir() and not named.fits(path, head):
            from vlitqc.formats.folder import of_format

            return of_format(path, names, format, named)
        if not named.fits(path, head) and not (getattr(named, "text", False) and _is_text(head)):
            raise FormatError(
                f"{path} is not {format}: it begins with {_excerpt(head)!r}; leave the format out to have it detected"
            )
        return named(path, names)
    known: dict[str, Format] = {name: entry.load() for name, entry in entries(FORMATS).items()}
    if not known:
        raise FormatError("no format is registered, so vlitqc is not installed whole; reinstall it with pip")
    for candidate in sorted(known.values(), key=lambda form: form.rank):
        if candidate.fits(path, head):
            return candidate(path, names)
    for signature, what, cure in (*_SIGNATURES, _MARKUP):
        if head.startswith(signature):
            raise FormatError(f"{path} is {what}; {cure}")
    what = "binary data" if b"\0" in head else f"text that begins with {_excerpt(head)!r}"
    raise FormatError(
        f"{path} is {what}; expected one of the formats {', '.join(known)}: "
        "a JSON list of records, or one JSON record a line"
    )


def _head(path: Path) -> bytes:
    if path.is_dir():
        return b""
    if not path.exists():
        if _is_loop(path):
            raise InputError(f"{path} is a loop of links, which leads to no file; link it to the file itself")
        raise InputError(f"{path} does not exist; check the path (relative to {Path.cwd()})")
    if not path.is_file():
        raise InputError(
            f"{path} is a device or a pipe; save the records in a file first, for they are read twice"
        )
    try:
        with Content(path).open() as stream:
            head = stream.read(HEAD_BYTES)
            fault = stream.fault
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not head.strip() and fault:
        raise InputError(f"{path} is damaged: {fault}, and nothing can be read before that; fetch it again")
    if not head.strip():
        raise InputError(f"{path} is empty; expected a JSON list of records, or one JSON record a line")
    return head


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and not head.startswith(tuple(signature for signature, _, _ in _SIGNATURES))


def _is_loop(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        return isinstance(error, OSError) and error.errno == errno.ELOOP
    return False


def _excerpt(head: bytes) -> str:
    return " ".join(head[:200].decode("utf-8", "replace").split())[:60]
