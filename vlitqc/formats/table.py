"""What Parquet and Arrow files share: rows to fields, random access, and writing rows back by value.

A table is read in parts that stand or fall by themselves, row groups and record batches, and these in slices bounded
by rows and bytes, for tables carry whole pictures.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import struct
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats.conversation import KEYS, MEDIA_FIELDS, read_conversation
from vlitqc.formats.names import Names
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_ROWS = 256
SLICE_BYTES = 1 << 24
"""Rows are taken in slices of about this size. By rows too: of rows that repeat, the file does not tell the size."""

PART_BYTES = 1 << 28
"""A part of an output is written when it holds this much, though it was larger in the input."""

MAX_LOST = 20_000
"""Rows of a damaged part that are reported one by one; a broken header may promise any number of them."""

Rows = Callable[[], Iterator["pa.RecordBatch"]]


@dataclass(frozen=True, slots=True)
class Part:
    """A row group or a record batch: its first row's number in the file, how many it has, and how to read them.

    ``slices`` gives them in slices; what it raises is the reason why the rest is lost. A part that is known to be
    lost, but not how many rows it had, has none.
    """

    name: str
    first: int
    rows: int
    slices: Rows


@dataclass(frozen=True, slots=True)
class Source:
    """A table that is open. ``create`` makes an output with the same schema and settings; ``note``: why rows may be
    missing at the end."""

    schema: pa.Schema
    parts: Sequence[Part]
    create: Callable[[Path], AbstractContextManager[Any]]
    note: str = ""


class Table(ABC):
    """A file with rows and columns."""

    name: ClassVar[str]
    layers: ClassVar[tuple[str, ...]] = ()
    keeps_parts_whole: ClassVar[bool]
    """Whether an output's part must be one piece in memory to be written as one."""

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.names = names
        self._texts = frozenset(
            theirs
            for ours, keys in KEYS.items()
            if ours not in MEDIA_FIELDS
            for theirs in ((names.fields[ours],) if ours in names.fields else keys)
        ) - {theirs for ours, theirs in names.fields.items() if ours in MEDIA_FIELDS}
        with self._open() as source:
            self._n_rows = sum(part.rows for part in source.parts)

    @abstractmethod
    def _open(self) -> AbstractContextManager[Source]:
        """Open the file. Raises FormatError where it cannot be read at all."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    @property
    def suffix(self) -> str:
        """The input's own ending, or the format's name where it has none."""
        return self.path.suffix or f".{self.name}"

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every row; of a damaged part, every row before the damage, and the others as unreadable."""
        with self._open() as source:
            row = first_row
            for part in source.parts:
                at, fault = part.first, "there are fewer rows than promised"
                try:
                    for batch in part.slices():
                        for values in _rows(batch, self._texts):
                            yield self._read(source, values, self._origin(row, at, values.sha256))
                            at, row = at + 1, row + 1
                    if at == part.first + part.rows:
                        continue
                except faults() as error:
                    fault = _told(error)
                end = max(at, part.first + part.rows)
                for start in range(at, min(at + MAX_LOST, max(end, at + 1))):
                    last = min(start + 1, end) if start + 1 < at + MAX_LOST else end
                    yield self._lost(part, self._origin(row, start, "", last), fault)
                    row += 1

    def record(self, origin: Origin) -> Record:
        """The row at ``origin``, read again; of the rest of the file, only its part is read."""
        try:
            with self._open() as source:
                for part in source.parts:
                    if not origin.sha256:
                        if part.first <= origin.start < part.first + max(part.rows, 1):
                            return self._lost(part, origin, "its values were lost when it was first read")
                    elif part.first <= origin.start < part.first + part.rows:
                        return self._reread(source, part, origin)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror or error}); put it back and try again"
            ) from error
        raise self._changed(origin)

    def _reread(self, source: Source, part: Part, origin: Origin) -> Record:
        at = part.first
        try:
            for batch in part.slices():
                if origin.start < at + batch.num_rows:
                    values = next(_rows(batch.slice(origin.start - at, 1), self._texts))
                    if values.sha256 != origin.sha256:
                        break
                    return self._read(source, values, origin)
                at += batch.num_rows
        except faults() as error:
            raise self._changed(origin) from error
        raise self._changed(origin)

    def _read(self, source: Source, values: _Row, origin: Origin) -> Record:
        record = values.record(origin, self.names)
        if source.note and origin.end == self._n_rows:
            issue = Issue.at(origin, "table_cut_short", "warning", source.note, record.id)
            record = replace(record, issues=(*record.issues, issue))
        return record

    def share(self, origin: Origin) -> float | None:
        """By rows."""
        return origin.end / max(1, self._n_rows)

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """Every row's values, under the input's schema and metadata, in parts as the input has them.

        Rows that were lost to damage have no values left, so that no target holds them; their origins have no hash.
        """
        waiting = ((o, name) for o, name in places if o.sha256)
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            source = stack.enter_context(self._open())
            outputs = {
                name: _Output(
                    stack.enter_context(source.create(draft)), source.schema, self.keeps_parts_whole
                )
                for name, draft in drafts.items()
            }
            place = next(waiting, None)
            for part in source.parts:
                if place is None or place[0].start >= part.first + part.rows:
                    continue
                at = part.first
                try:
                    for batch in part.slices():
                        chosen: dict[str, list[Origin]] = {}
                        while place is not None and at <= place[0].start < at + batch.num_rows:
                            chosen.setdefault(place[1], []).append(place[0])
                            place = next(waiting, None)
                        for name, origins in chosen.items():
                            outputs[name].add(self._pick(batch, at, origins))
                        at += batch.num_rows
                except faults() as error:
                    raise InputError(
                        f"{self.path}: {part.name} can no longer be read ({_told(error)}); score it again"
                    ) from error
                for output in outputs.values():
                    output.end_part()
            if place is not None:
                raise self._changed(place[0])

    def _pick(self, batch: pa.RecordBatch, first: int, origins: Sequence[Origin]) -> pa.RecordBatch:
        import pyarrow as pa

        rows = [origin.start - first for origin in origins]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            picked = batch.slice(rows[0], len(rows))
        else:
            picked = batch.take(pa.array(rows, pa.int64()))
        for origin, values in zip(origins, _rows(picked), strict=True):
            if values.sha256 != origin.sha256:
                raise self._changed(origin)
        return picked

    def _origin(self, row: int, start: int, sha256: str, end: int | None = None) -> Origin:
        return Origin(str(self.path), row, start + 1, start, start + 1 if end is None else end, sha256)

    def _lost(self, part: Part, origin: Origin, fault: str) -> Unreadable:
        if origin.end - origin.start == 1:
            what = f"row {origin.start + 1} cannot be read"
        elif origin.end > origin.start:
            what = f"rows {origin.start + 1} to {origin.end} cannot be read"
        else:
            what = "an unknown number of rows cannot be read"
        told = f"{what}, {part.name} being damaged: {fault}; no output can hold its values"
        return Unreadable(origin, (Issue.at(origin, "damaged_table", "error", told),))

    def _changed(self, origin: Origin) -> InputError:
        return InputError(
            f"{self.path} no longer holds record {origin.row} in its row {origin.start + 1}: "
            "the file has changed since it was read; score it again"
        )


class _Output:
    """One target, written part by part."""

    def __init__(self, writer: Any, schema: pa.Schema, whole: bool) -> None:
        self._writer = writer
        self._schema = schema
        self._whole = whole
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows of the current part."""
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes > PART_BYTES:
            self.end_part()

    def end_part(self) -> None:
        """Write what has been added as one part."""
        import pyarrow as pa

        if self._held:
            table = pa.Table.from_batches(self._held, self._schema)
            self._writer.write_table(table.combine_chunks() if self._whole else table, table.num_rows)
            self._held, self._bytes = [], 0


@cache
def faults() -> tuple[type[Exception], ...]:
    """What pyarrow raises for content that it cannot read."""
    import pyarrow as pa

    return (
        pa.ArrowException,
        OSError,
        ValueError,
        NotImplementedError,
        MemoryError,
        OverflowError,
    )


def unreadable(path: Path, what: str, error: Exception, cure: str) -> FormatError:
    """The error for a file that cannot be read at all."""
    return FormatError(f"{path} is {what} that cannot be read ({_told(error)}); {cure}")


def slices_of(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in slices of about ``SLICE_BYTES``, at most ``SLICE_ROWS``."""
    step = slice_rows(batch.nbytes, batch.num_rows)
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


def slice_rows(n_bytes: int, n_rows: int) -> int:
    """How many of ``n_rows`` rows with ``n_bytes`` a slice holds."""
    return max(1, min(SLICE_ROWS, SLICE_BYTES * n_rows // max(1, n_bytes)))


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


# ---------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True)
class _Row:
    fields: Mapping[str, Any]
    sha256: str
    unread: Mapping[str, str]
    """Column → why Python cannot hold its value."""

    def record(self, origin: Origin, names: Names) -> Record:
        record = read_conversation(self.fields, origin, names)
        told = (
            Issue.at(origin, "unreadable_value", "warning", f"column '{name}' is left out: {why}", record.id)
            for name, why in self.unread.items()
        )
        return replace(record, issues=(*record.issues, *told)) if self.unread else record


class _Unread(str):
    """Why there is no value."""

    __slots__ = ()


def _rows(batch: pa.RecordBatch, texts: Container[str] = ()) -> Iterator[_Row]:
    """The rows of a batch; bytes in the columns ``texts`` are text where they are UTF-8."""
    names = batch.schema.names
    readers = [_reader(field.type, outermost=True, text=field.name in texts) for field in batch.schema]
    columns = [_values(_storage(batch.column(i))) for i in range(batch.num_columns)]
    for values in zip(*columns, strict=True) if columns else ((),) * batch.num_rows:
        fields: dict[str, Any] = {}
        unread: dict[str, str] = {}
        digest = hashlib.sha256()
        for name, value, read in zip(names, values, readers, strict=True):
            _feed(digest.update, name)
            _feed(digest.update, value)
            if isinstance(value, _Unread):
                unread[name] = value
            else:
                fields[name] = value if read is None or value is None else read(value)
        yield _Row(fields, digest.hexdigest(), unread)


def _values(column: pa.Array) -> list[Any]:
    """The column in Python's values; where one cannot be had, the reason."""
    try:
        return list(column.to_pylist())
    except faults():
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except faults() as error:
        return _Unread(f"a {scalar.type} that cannot be read ({_told(error)})")


def _storage(column: pa.Array) -> pa.Array:
    # Without its type's own code, so that a row reads alike wherever that type is known and where it is not.
    return getattr(column, "storage", column)


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Feed a hash with a form of ``value`` that no other value has, and that no version of a library changes."""
    if value is None:
        update(b"n")
    elif isinstance(value, _Unread):
        update(b"u")
    elif isinstance(value, bool):
        update(b"t" if value else b"f")
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        update(b"s%d:" % len(raw))
        update(raw)
    elif isinstance(value, bytes):
        update(b"b%d:" % len(value))
        update(value)
    elif isinstance(value, int):
        update(b"i%d;" % value)
    elif isinstance(value, Mapping):
        update(b"m%d:" % len(value))
        for key, held in value.items():
            _feed(update, key)
            _feed(update, held)
    elif isinstance(value, list | tuple):
        update(b"l%d:" % len(value))
        for held in value:
            _feed(update, held)
    elif isinstance(value, uuid.UUID):
        _feed(update, value.bytes)
    elif isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        _feed(update, _as_text(value))
    else:  # a float of any width
        update(b"d" + (b"nan" if math.isnan(value) else struct.pack(">d", value)))


def _as_text(value: Any) -> str:
    """A date or time in ISO 8601, a duration or decimal number as Python writes it."""
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


# ---------------------------------------------------------------- values as JSON would hold them

Read = Callable[[Any], Any]


def _reader(type: pa.DataType, *, outermost: bool = False, text: bool = False) -> Read | None:
    """What makes of a column's values what a JSON record would hold; None where they are that already.

    Objects lose the keys that are null, since a table gives every object every key. Objects of lists become lists
    of objects: so ``datasets`` stored a list of objects before its version 4. Bytes that stand by themselves
    become ``{"bytes": …}``, as ``datasets`` stores pictures, or with ``text`` a text, if they are UTF-8.
    """
    import pyarrow.types as t

    if getattr(type, "extension_name", "") == "arrow.json":
        return _from_json
    if hasattr(type, "storage_type"):
        return _reader(type.storage_type, outermost=outermost, text=text)
    if t.is_dictionary(type) or t.is_run_end_encoded(type):
        return _reader(type.value_type, outermost=outermost, text=text)
    if t.is_map(type):
        return _map_reader(_reader(type.item_type))
    if t.is_struct(type):
        fields = [type.field(i) for i in range(type.num_fields)]
        if len(fields) > 1 and all(_is_list(field.type) for field in fields):
            return _turning_reader({f.name: _reader(f.type.value_type) for f in fields})
        return _struct_reader({f.name: _reader(f.type) for f in fields}, outermost)
    if _is_list(type):
        return _list_reader(_reader(type.value_type, outermost=outermost, text=text))
    if t.is_temporal(type) or t.is_decimal(type):
        return _as_text
    if t.is_binary(type) or t.is_large_binary(type) or t.is_binary_view(type) or t.is_fixed_size_binary(type):
        return (_text if text else _wrapped) if outermost else None
    return None


def _is_list(type: pa.DataType) -> bool:
    import pyarrow.types as t

    kinds = (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view)
    return any(is_kind(type) for is_kind in kinds)


def _from_json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _wrapped(value: bytes) -> dict[str, bytes]:
    return {"bytes": value}


def _text(value: bytes) -> str | dict[str, bytes]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return _wrapped(value)


def _list_reader(read: Read | None) -> Read | None:
    if read is None:
        return None
    return lambda values: [None if value is None else read(value) for value in values]


def _map_reader(read: Read | None) -> Read:
    def of_map(pairs: Any) -> dict[str, Any]:
        return {str(key): held if read is None or held is None else read(held) for key, held in pairs}

    return of_map


def _struct_reader(readers: Mapping[str, Read | None], outermost: bool) -> Read:
    def of_struct(value: dict[str, Any]) -> Any:
        kept = {
            key: held if (read := readers[key]) is None else read(held)
            for key, held in value.items()
            if held is not None
        }
        return None if outermost and not kept else kept

    return of_struct


def _turning_reader(readers: Mapping[str, Read | None]) -> Read:
    of_struct = _struct_reader(readers, False)

    def turned(value: dict[str, Any]) -> Any:
        columns = {key: held for key, held in value.items() if held is not None}
        if len(set(map(len, columns.values()))) > 1:
            return columns
        return [
            of_struct(dict(zip(columns, held, strict=True))) for held in zip(*columns.values(), strict=True)
        ]

    return turned
