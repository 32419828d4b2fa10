"""Arrow files, the stream and the file (Feather) alike: read by record batches, so that damage costs one of them.

Both are messages one after another. Their headers tell where each batch lies and how many rows it has, so that a row
is found without reading what stands before it, and a file that lost its end is read to where it broke.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError
from vlitqc.formats.table import Part, Source, Table, faults, slices_of, unreadable

FILE_MAGIC = b"ARROW1\0\0"
MESSAGE = b"\xff\xff\xff\xff"
FEATHER_1 = b"FEA1"
MAX_HEADER = 1 << 26

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_CODECS = ("lz4", "zstd")


class Arrow(Table):
    """An Arrow stream, as ``datasets`` writes its caches, or an Arrow file.

    Raises FormatError where the schema cannot be read.
    """

    rank: ClassVar[int] = 11
    name = "arrow"
    keeps_parts_whole = True

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether it begins as a file does, or with the message of a schema."""
        if head.startswith((FILE_MAGIC, FEATHER_1)):
            return True
        if not head.startswith(MESSAGE) or len(head) < 8:
            return False
        try:
            kind = _Header(head[8 : 8 + int.from_bytes(head[4:8], "little")]).kind
        except (struct.error, IndexError):
            return False
        return kind == _SCHEMA

    @contextmanager
    def _open(self) -> Iterator[Source]:
        import pyarrow as pa

        with self.path.open("rb") as file:
            start = file.read(len(FILE_MAGIC))
            if start.startswith(FEATHER_1):
                raise FormatError(
                    f"{self.path} is a Feather file of version 1; write it anew with pyarrow.feather.write_feather"
                )
            is_file = start == FILE_MAGIC
            if not is_file and not start.startswith(MESSAGE):
                raise FormatError(
                    f"{self.path} is an Arrow file packed once more; unpack it, e.g. with: gunzip"
                )
            index = _Index(file, is_file=is_file)
            try:
                with pa.ipc.open_stream(_Pieces(file, [index.schema])) as stream:
                    schema = stream.schema
            except faults() as error:
                raise unreadable(
                    self.path, "an Arrow file", error, "it may be damaged: fetch it again"
                ) from error
            new = pa.ipc.new_file if is_file else pa.ipc.new_stream
            options = pa.ipc.IpcWriteOptions(compression=index.codec, emit_dictionary_deltas=is_file)

            @contextmanager
            def create(target: Path) -> Iterator[Any]:
                with pa.OSFile(str(target), "wb") as sink, new(sink, schema, options=options) as writer:
                    yield writer

            yield Source(schema, index.parts, create, index.note)


class _Index:
    """Where the messages lie: the schema, and a part for each batch."""

    def __init__(self, file: BinaryIO, *, is_file: bool) -> None:
        at = len(FILE_MAGIC) if is_file else 0
        self.schema = (at, at)
        self.parts: list[Part] = []
        self.codec: str | None = None
        self.note = ""
        size = file.seek(0, 2)
        before: list[tuple[int, int]] = []
        row = 0
        while True:
            file.seek(at)
            prefix = file.read(8)
            length = int.from_bytes(prefix[4:], "little")
            if not prefix and not is_file:
                self.note = (
                    f"the stream ends at byte {at} without an end mark; it may have been cut after this row"
                )
                return
            if len(prefix) < 8 or prefix[:4] != MESSAGE:
                # Older files have no end mark before their footer.
                if not is_file or not _has_footer(file, size):
                    self._add(row, 0, f"no message follows byte {at} of {size}, where one is expected")
                return
            if length == 0:
                if not is_file and at + 8 < size:
                    self._add(row, 0, f"{size - at - 8} bytes follow the end of the stream at byte {at + 8}")
                return
            try:
                if length > MAX_HEADER:
                    raise ValueError(f"{length} bytes long")
                header = _Header(file.read(length))
            except (struct.error, IndexError, ValueError) as error:
                told = "ends the file" if at + 8 + length > size else f"is damaged ({error})"
                self._add(row, 0, f"the message at byte {at} of {size} {told}")
                return
            end = at + 8 + length + header.body
            if end > size:
                self._add(row, header.rows, f"the file ends at byte {size}, before byte {end}")
                return
            if header.kind == _SCHEMA:
                self.schema = (at, end)
                before = [self.schema]
            elif header.kind == _DICTIONARY:
                before = [*before, (at, end)]
            elif header.kind == _BATCH:
                self.codec = self.codec or header.codec
                slices = _Slices(file, [*before, (at, end)])
                self.parts.append(Part(f"record batch {len(self.parts) + 1}", row, header.rows, slices))
                row += header.rows
            at = end

    def _add(self, row: int, rows: int, fault: str) -> None:
        self.parts.append(Part(f"record batch {len(self.parts) + 1}", row, rows, partial(_lost, fault)))


def _has_footer(file: BinaryIO, size: int) -> bool:
    magic = FILE_MAGIC.rstrip(b"\0")
    file.seek(max(0, size - len(magic)))
    return file.read() == magic


class _Header:
    """What a message's header says. It is a flatbuffer, and only these fields of it are needed.

    Raises struct.error or IndexError where it is none.
    """

    def __init__(self, raw: bytes) -> None:
        message = _Flat(raw, *struct.unpack_from("<I", raw))
        self.kind = message.number(1, "<B")
        self.body = message.number(3, "<q")
        self.rows = 0
        self.codec: str | None = None
        if self.kind == _BATCH:
            batch = message.table(2)
            self.rows = batch.number(0, "<q")
            if batch.place(3) is not None:
                self.codec = _CODECS[batch.table(3).number(0, "<b")]
        if self.body < 0 or self.rows < 0:
            raise IndexError("a negative length")


@dataclass(frozen=True, slots=True)
class _Flat:
    """A table in a flatbuffer: fields by number, each absent or at an offset that the table's own table tells."""

    raw: bytes
    at: int

    def place(self, field: int) -> int | None:
        """Where the field is; None where it is left out."""
        (back,) = struct.unpack_from("<i", self.raw, self.at)
        table = self.at - back
        if table < 0:
            raise IndexError("an offset that leaves the header")
        (size,) = struct.unpack_from("<H", self.raw, table)
        if 4 + 2 * field >= size:
            return None
        (offset,) = struct.unpack_from("<H", self.raw, table + 4 + 2 * field)
        return self.at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        """The field as a number, 0 where it is left out."""
        place = self.place(field)
        return 0 if place is None else int(struct.unpack_from(form, self.raw, place)[0])

    def table(self, field: int) -> _Flat:
        """The field as a table."""
        place = self.place(field)
        if place is None:
            raise IndexError("a table that is missing")
        return _Flat(self.raw, place + struct.unpack_from("<I", self.raw, place)[0])


class _Slices:
    """A record batch in slices."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self._file = file
        self._pieces = pieces

    def __call__(self) -> Iterator[Any]:
        import pyarrow as pa

        with pa.ipc.open_stream(_Pieces(self._file, self._pieces)) as stream:
            batch = next(iter(stream), None)
        if batch is None:
            raise ValueError("it holds no rows")
        batch.validate(full=True)  # offsets that lead out of their buffers end the process
        return slices_of(batch)


def _lost(fault: str) -> Iterator[Any]:
    """A record batch that is not there."""
    raise ValueError(fault)


class _Pieces:
    """Pieces of a file, whole messages each, as a stream of their own."""

    closed = False

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self._file = file
        self._left = list(reversed(pieces))

    def read(self, n: int = -1) -> bytes:
        """At most ``n`` bytes of the current piece."""
        while self._left and self._left[-1][0] >= self._left[-1][1]:
            self._left.pop()
        if not self._left:
            return b""
        at, end = self._left[-1]
        self._file.seek(at)
        data = self._file.read(end - at if n < 0 else min(n, end - at))
        self._left[-1] = (at + len(data) if data else end, end)
        return data

    def close(self) -> None:
        """The file is somebody else's."""
