"""JSON lists and JSON lines: records split by their bytes, so that a broken one costs only itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import HEAD_BYTES, suffix_of
from vlitqc.formats.conversation import read_conversation
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content, Stream
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Sample, Unreadable

CHUNK = 1 << 18
MAX_RECORD_BYTES = 1 << 28
"""A longer record is reported as unreadable: memory stays bounded whatever the file holds."""

PROBE_BYTES = 1 << 20
MAX_RESUMES = 100
"""Every resumption may have read ahead by a whole record's limit; a file that needs more is beyond saving."""

MAX_TRIES = 16
"""Places on a line where a record may begin after one that was cut short."""

MAX_BLANKS = 1 << 10
MAX_STEP = 1 << 25
"""Memory grows by no more at once."""

PATIENCE = 1 << 22
"""Bytes from which on a record that is not yet closed is looked at for the beginning of the next."""


_CUT = "the list is cut short after this record"
_BLANKS = b" \t\r\n\v\f"
# A byte order mark may stand between records: files that were put together have one each.
_GAP = re.compile(rb"[\s,]*+(?:\xef\xbb\xbf[\s,]*+)*+")
_EDGE = re.compile(rb"(?:[\s,\0]|\xef\xbb\xbf)*+")
_NULS = re.compile(rb"\0*+")
# Everything up to the next bracket outside a string. No string holds a raw newline in JSON, so a newline also
# ends one: a lost quotation mark then spoils its own line and not the rest of the file. One that the buffer cuts is
# matched too: before Python 3.11.5 a possessive group whose last try fails after a few steps ends at a wrong place.
_STRING = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+'
_RUN = re.compile(rb'(?:[^{}\[\]"]++|' + _STRING + rb'(?:["\n]|\\?\Z))*+', re.DOTALL)
_STRINGS = re.compile(_STRING + rb'(["\n]?)', re.DOTALL)
_SCALAR = re.compile(
    rb"(?:" + _STRING + rb'"|-?[0-9][0-9.eE+-]*+|-?Infinity|NaN|null|true|false)(?=\s*+[,\]])',
    re.DOTALL,
)
_LIST = re.compile(rb'\[\s*+(?:["\[\]{,]|-?[0-9]|-?Infinity|NaN|null|true|false|//|$)')
_FIRST_KEY = re.compile(rb'\{\s*"[^"\\]*"')
# A whole surrogate pair, a lone half (the group), or any other escape: an escaped backslash hides what follows.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


_HALF = re.compile(rb"\xed[\xa0-\xbf]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A record's bytes and their place; ``raw`` is None where they are too many to hold."""

    start: int
    end: int
    line: int
    raw: bytes | None
    fault: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    """Warnings that do not make the record unreadable: their kinds and what they say."""
    last: bool = False
    """The file ends with it, and not with a line."""


class JsonRecords:
    """What all files of JSON share: pieces to records, random access, and outputs that appear whole."""

    name: ClassVar[str]

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.names = names
        self.content = Content(path)

    @property
    def layers(self) -> tuple[str, ...]:
        """What the text is wrapped in."""
        return self.content.layers

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    @property
    def suffix(self) -> str:
        """The input's own ending, packed or not, with the format's name where it has none."""
        return suffix_of(self.path, self.name)

    def pieces(self, file: Stream) -> Iterator[Piece]:
        """The records' bytes, in file order."""
        raise NotImplementedError

    def parts(self, piece: Piece) -> list[Piece]:
        """The records in a piece that is no JSON; none where it is one broken record."""
        return []

    def fields(self, value: Any) -> dict[str, Any]:
        """The fields of a record as it stands in the file."""
        return value if isinstance(value, dict) else {str(i): held for i, held in enumerate(value)}

    def parse(self, raw: bytes, line: int = 1) -> tuple[Any, str]:
        """The value of a record's bytes, or what is wrong with them."""
        return parse(raw, line)

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every record; memory does not grow with the file."""
        row = first_row
        with self.content.open() as file:
            for piece in _with_fault(self.pieces(file), file):
                for part, value, fault in self._parsed(piece):
                    digest = self._digest(part) if part.raw is None else _sha256(part.raw)
                    origin = Origin(str(self.path), row, part.line, part.start, part.end, digest)
                    yield self._record(part.raw or b"", value, fault, origin, part.notes)
                    row += 1

    def share(self, origin: Origin) -> float | None:
        """By bytes; unknown through a layer."""
        return None if self.layers else min(1.0, origin.end / max(1, self.path.stat().st_size))

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again."""
        try:
            with self.content.open() as file:
                raw = self._raw(file, origin)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}); put it back and try again"
            ) from error
        value, fault = self.parse(raw, origin.line)
        if fault and raw.startswith(b"{") and Values(io.BytesIO(raw), MAX_RECORD_BYTES).is_open():
            fault = never_closed(origin.line)
        return self._record(raw, value, fault, origin)

    def _raw(self, file: BinaryIO, origin: Origin) -> bytes:
        file.seek(origin.start)
        raw = file.read(origin.end - origin.start)
        if _sha256(raw) != origin.sha256:
            raise InputError(
                f"{self.path} no longer holds record {origin.row} at bytes {origin.start} to {origin.end}: "
                "the file has changed since it was read; score it again"
            )
        return raw

    def _digest(self, piece: Piece) -> str:
        digest = hashlib.sha256()
        with self.content.open() as file:
            left = piece.end - file.seek(piece.start)
            while left and (data := file.read(min(CHUNK, left))):
                digest.update(data)
                left -= len(data)
        return digest.hexdigest()

    def _parsed(self, piece: Piece) -> Iterable[tuple[Piece, Any, str]]:
        if piece.raw is None or piece.fault:
            return ((piece, None, piece.fault),)
        value, fault = self.parse(piece.raw, piece.line)
        if fault and (parts := self.parts(piece)):
            parts[-1] = replace(parts[-1], notes=piece.notes)
            return [(p, None, p.fault) if p.fault else (p, *self.parse(p.raw or b"", p.line)) for p in parts]
        if fault and piece.last:
            fault = f"{fault}; the file ends at byte {piece.end}"
        return ((piece, value, fault),)

    def _record(
        self, raw: bytes, value: Any, fault: str, origin: Origin, notes: tuple[tuple[str, str], ...] = ()
    ) -> Record:
        if not fault and not isinstance(value, dict | list):
            fault = f"expected an object, got {_KINDS[type(value)]}"
        record: Record
        if fault:
            record = Unreadable(origin, (Issue.at(origin, "malformed_record", "error", fault),))
        else:
            record = self.conversation(value, origin)
            if isinstance(record, Sample):
                notes = (*_remarks(raw, value), *notes)
        if not notes:
            return record
        told = (Issue.at(origin, kind, "warning", detail, record.id) for kind, detail in notes)
        return replace(record, issues=(*record.issues, *told))

    def conversation(self, value: Any, origin: Origin) -> Record:
        """The conversation in a record's value, an object or a list."""
        record = read_conversation(self.fields(value), origin, self.names)
        if isinstance(value, list) and isinstance(record, Unreadable) and not self.names.fields:
            fault = f"expected an object, got a list of {len(value)}; {_NAME_ELEMENTS}"
            return Unreadable(origin, (Issue.at(origin, "malformed_record", "error", fault),))
        return record


class _Sequence(JsonRecords):
    """Records one after another, and nothing else in the file."""

    opening: ClassVar[bytes]
    separator: ClassVar[bytes]
    closing: ClassVar[bytes]

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """Every record's bytes, with this layout's separators between them and the input's layers around all."""
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            files = {name: stack.enter_context(self.content.create(draft)) for name, draft in drafts.items()}
            writers = {name: _Writer(file, self.separator, self.closing) for name, file in files.items()}
            source = stack.enter_context(self.content.open())
            for file in files.values():
                file.write(self.opening)
            for origin, name in places:
                writers[name].write(self._raw(source, origin))
            for file in files.values():
                file.write(self.closing)


class JsonList(_Sequence):
    """One JSON list, streamed element by element; of a list cut short, every whole element is read.

    Raises FormatError where no bracket comes first.
    """

    name = "json"
    rank = 60
    text: ClassVar[bool] = True
    opening, separator, closing = b"[", b",\n", b"]"

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        with self.content.open() as file:
            if not _after_gap(file.read(HEAD_BYTES)).startswith(b"["):
                raise FormatError(
                    f"{path} is not json: no bracket comes first; leave the format out to have it detected"
                )

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether a bracket comes first, then what may begin a list of records.

        A broken first line of JSON lines may begin with a bracket too. It is a list all the same if its first
        element opens an object or the bracket stands alone, or if the objects below are not lines by themselves.
        """
        text = _after_gap(head)
        if not _LIST.match(text) or _begins_list_lines(text):
            return False
        first, _, later = text.partition(b"\n")
        first = first.strip()
        opens_object = first[1:].lstrip().startswith(b"{") and not isinstance(parse(first)[0], list)
        return opens_object or first == b"[" or not _begins_lines(later)

    def pieces(self, file: Stream) -> Iterator[Piece]:
        """The list's elements."""
        return Values(file, MAX_RECORD_BYTES).in_list()


class JsonLines(_Sequence):
    """One record a line; also objects over several lines, one after another, and several on one line.

    Raises FormatError where the file is one JSON object that is itself no conversation, or one JSON list.
    """

    name = "jsonl"
    rank = 70
    text: ClassVar[bool] = True
    # A record over several lines needs no other separator than this, so both layouts are written alike.
    opening, separator, closing = b"", b"\n", b""

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        with self.content.open() as file:
            if _is_list(file):
                raise FormatError(
                    f"{path} is not jsonl: it is one JSON list; leave the format out to have it detected"
                )
            file.seek(self.content.start)
            values = Values(file, PROBE_BYTES).in_stream()
            first, second = next(values, None), next(values, None)
        raw = (first.raw or b"") if first is not None and not first.fault else b""
        self._over_lines = b"\n" in raw and not parse(raw)[1]
        if second is None:
            self._refuse_settings(raw)

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether the first character is a brace, or some whole line is an object, or the first two are lists."""
        text = _after_gap(head)
        begins = text.startswith(b"{") and not _begins_table(text)
        return begins or _any_object(text) or _begins_list_lines(text)

    def pieces(self, file: Stream) -> Iterator[Piece]:
        """Lines that are not blank, or objects where they run over several lines."""
        return Values(file, MAX_RECORD_BYTES).in_stream() if self._over_lines else _lines(file)

    def parts(self, piece: Piece) -> list[Piece]:
        """Objects one after another on a line; a record that was cut short and the one that follows it there."""
        raw = piece.raw or b""
        found = list(Values(io.BytesIO(raw), MAX_RECORD_BYTES).in_stream())
        if len(found) > 1 and any(isinstance(parse(part.raw or b"")[0], dict) for part in found):
            return [_within(piece, part.start, part.end, part.fault) for part in found]
        opening = _FIRST_KEY.match(raw)
        at = len(raw)
        for _ in range(MAX_TRIES):
            at = raw.rfind(opening[0], 1, at) if opening is not None else -1
            if at < 0:
                break
            if raw[:at].rstrip()[-1] not in b"[,:" and isinstance(parse(raw[at:])[0], dict):
                return [_within(piece, 0, at), _within(piece, at, len(raw))]
        return []

    def _refuse_settings(self, raw: bytes) -> None:
        """Raise FormatError for a lone object that is no record, such as a file of settings."""
        value = parse(raw)[0] if b"\n" in raw else None
        if not isinstance(value, dict):
            return
        if isinstance(self.conversation(value, Origin(str(self.path), 0, 1, 0, len(raw), "")), Unreadable):
            raise FormatError(
                f"{self.path} is one JSON object with the keys {', '.join(list(value)[:8])}; expected a list of "
                "records, or one record a line; pass the file that holds the records"
            )


class _Writer:
    def __init__(self, file: BinaryIO, separator: bytes, closing: bytes) -> None:
        self._file = file
        self._between = separator if closing else b""
        self._after = b"" if closing else separator
        self._any = False

    def write(self, raw: bytes) -> None:
        """Append one record."""
        self._file.write((self._between if self._any else b"") + raw + self._after)
        self._any = True


def _after_gap(head: bytes) -> bytes:
    """What begins after byte order marks, blanks, and the NULs that a crash leaves."""
    return head[_EDGE.match(head).end() :]  # type: ignore[union-attr]


def _begins_lines(text: bytes) -> bool:
    """Whether the first object is a whole line, and what follows it is the next one or nothing."""
    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    at = next((i for i, line in enumerate(lines) if line.startswith(b"{")), None)
    if at is None or not isinstance(parse(lines[at])[0], dict):
        return False
    return at + 1 == len(lines) or lines[at + 1].startswith(b"{")


def _is_list(file: Stream) -> bool:
    """Whether a list begins here that runs over several lines, or the file is nothing else; no line is an object."""
    start = file.tell()
    text = _after_gap(file.read(HEAD_BYTES))
    if not text.startswith(b"[") or _begins_lines(text.partition(b"\n")[2]):
        return False
    file.seek(start)
    end = b""
    while part := file.readline(CHUNK):
        end = part.rstrip()[-1:] or end
        if end and part.endswith(b"\n"):
            break
    return end != b"]" or _next(file) != b"["


def _next(file: Stream) -> bytes:
    """The next byte that is no blank; the file stays where it stands."""
    start = file.tell()
    while (part := file.read(64)) and not part.strip():
        pass
    file.seek(start)
    return part.lstrip()[:1]


def _begins_list_lines(text: bytes) -> bool:
    """Whether the first two lines are a list each, and the first one's elements are no objects."""
    lines = [line for line in text.split(b"\n", 64)[:64] if line.strip()][:2]
    values = [parse(line)[0] for line in lines if line.startswith(b"[")]
    return len(values) == 2 and all(
        isinstance(value, list) and value and not isinstance(value[0], dict | list) for value in values
    )


def _begins_table(text: bytes) -> bool:
    """Whether the first line is an object, a tab, and something that is none."""
    held, tab, rest = text.partition(b"\n")[0].partition(b"}\t")
    other = rest.strip() and not rest.lstrip().startswith(b"{")
    return bool(tab and other) and isinstance(parse(held + b"}")[0], dict)


def _any_object(text: bytes) -> bool:
    """Whether some line is a whole object."""
    return any(
        line.startswith(b"{") and isinstance(parse(line.strip())[0], dict) for line in text.splitlines()
    )


# ---------------------------------------------------------------- bytes to pieces


def _lines(file: Stream) -> Iterator[Piece]:
    offset = file.tell()
    number = 0
    while line := file.readline(MAX_RECORD_BYTES):
        number += 1
        start, offset = offset, offset + len(line)
        raw = line.strip()
        start += len(line) - len(line.lstrip())
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            while rest := file.readline(CHUNK):
                offset += len(rest)
                if rest.endswith(b"\n"):
                    break
            end = offset - rest.endswith(b"\n")
            yield Piece(start, end, number, None, f"the line is longer than {MAX_RECORD_BYTES >> 20} MiB")
        elif raw[:1] == b"{" and raw[-1:] == b"}":
            yield Piece(start, start + len(raw), number, raw)
        elif raw == b"{" and _next(file) == b'"':
            # From here on objects run over several lines, as where files were put together.
            file.seek(start)
            yield from Values(file, MAX_RECORD_BYTES, number).in_stream()
            return
        elif raw:
            last = not line.endswith(b"\n")
            yield from _odd_line(Piece(start, start + len(raw), number, raw, last=last))


def _odd_line(piece: Piece) -> Iterator[Piece]:
    """A line without the byte order mark and the comma that stand beside its record; NULs there come apart."""
    raw = piece.raw or b""
    start = _EDGE.match(raw).end()  # type: ignore[union-attr]
    end = len(raw.rstrip(_BLANKS + b",\0"))
    if raw[end - 1 : end] not in (b"}", b"]"):
        end = len(raw.rstrip(_BLANKS + b"\0"))
    yield from _nul_piece(piece, 0, start)
    if start < end:
        yield _within(piece, start, end)
        yield from _nul_piece(piece, end, len(raw))


def _nul_piece(piece: Piece, start: int, end: int) -> Iterator[Piece]:
    raw = piece.raw or b""
    first = raw.find(b"\0", start, end)
    if first >= 0:
        yield _within(
            piece, first, raw.rfind(b"\0", start, end) + 1, _nuls(raw[start:end], piece.start + start)
        )


def _within(piece: Piece, start: int, end: int, fault: str = "") -> Piece:
    raw = piece.raw or b""
    last = piece.last and end == len(raw)
    return Piece(piece.start + start, piece.start + end, piece.line, raw[start:end], fault, last=last)


def _nuls(raw: bytes, at: int) -> str:
    n = raw.count(0)
    bytes_ = "byte" if n == 1 else "bytes"
    return f"{n} NUL {bytes_} from byte {at + raw.index(0)} on, as a crash or a full disk leaves them"


def _with_fault(pieces: Iterator[Piece], file: Stream) -> Iterator[Piece]:
    """The pieces; the last one tells of a broken layer, since what followed it is lost."""
    last: Piece | None = None
    for piece in pieces:
        if last is not None:
            yield last
        last = piece
    if file.fault is None:
        if last is not None:
            yield last
    elif last is None:
        yield Piece(file.tell(), file.tell(), 1, b"", f"nothing can be read: {file.fault}")
    else:
        told = ("damaged_file", f"what follows this record is lost: {file.fault}")
        yield replace(last, notes=(*last.notes, told))


def _run(buffer: bytes, at: int) -> tuple[int, bool]:
    """From a place outside strings to the next bracket outside them; or, with True, to a string that is cut."""
    end = _RUN.match(buffer, at).end()  # type: ignore[union-attr]
    if end == len(buffer):
        last = deque(_STRINGS.finditer(buffer, at), maxlen=1)
        if last and not last[0][1]:
            return last[0].start(), True
    return end, False


class Values:
    """Finds where JSON values begin and end by their brackets, without holding more than one of them.

    ``buffer[0]`` is byte ``base`` of the file. What stands before ``keep`` may be dropped when more is read.
    ``lead``: the line end before the value there, with its indentation; nothing where it stands in the same line.
    ``broken``: nothing can be told of what follows.
    """

    nested: ClassVar[bool] = False
    """Whether the list is part of something, so that what follows its end is another's business."""

    def __init__(self, file: BinaryIO, limit: int, line: int = 1) -> None:
        self.file = file
        self.limit = limit
        self.base = file.tell()
        self.buffer = b""
        self.keep = 0
        self.lead = b""
        self.line = line
        self.counted = 0
        self.resumes = 0
        self.broken = False

    def in_list(self) -> Iterator[Piece]:
        """The elements of the list that the file is."""
        self.gap(0)
        while nuls := _NULS.match(self.buffer, self.keep).end() - self.keep:  # type: ignore[union-attr]
            told = _nuls(self.buffer[self.keep : self.keep + nuls], self.base + self.keep)
            yield self.piece(self.keep, self.keep + nuls, told)
            self.gap(self.keep + nuls)
        yield from self._values(self.keep + 1, closing=True)

    def is_open(self) -> bool:
        """Whether the value that comes first has no end."""
        self.gap(0)
        return self.end(self.keep) is None

    def in_stream(self) -> Iterator[Piece]:
        """Values one after another to the file's end."""
        yield from self._values(0, closing=False)

    def _values(self, at: int, *, closing: bool) -> Iterator[Piece]:
        held: Piece | None = None  # until it is known whether anything follows
        while True:
            self.gap(at)
            start = self.keep
            ended = start == len(self.buffer)
            if held is not None:
                yield replace(held, notes=(("list_cut_short", _CUT),)) if ended and closing else held
                held = None
            if ended:
                return
            if closing and self.buffer[start] == ord("]"):
                if self.nested:
                    return
                self.gap(start + 1)
                if self.buffer[self.keep : self.keep + 1] == b"[":  # lists that were put together
                    at = self.keep + 1
                    continue
                if self.keep < len(self.buffer):
                    yield self.rest("something that is no list follows the end of the list")
                return
            end = self.end(start)
            if end is not None:
                at = end
                held = self.piece(self.keep, end, "")
            else:
                resume = self._resume(beside=closing and not self.lead)
                fault = never_closed(self.line)
                if resume is None:
                    yield self.rest(fault)
                    return
                at = resume
                broken = self.buffer[self.keep : resume].rstrip(b" \t\r\n,")
                held = self.piece(self.keep, self.keep + len(broken), fault)

    def gap(self, at: int) -> None:
        """Move ``keep`` from ``at`` over space and commas to the next value."""
        self.move(at)
        length = 0
        while True:
            # Long stretches of blanks are dropped but for their last line, which tells the indentation.
            end = _GAP.match(self.buffer, self.keep + length).end()  # type: ignore[union-attr]
            if end < len(self.buffer) and not (self.buffer[end] == 0xEF and end + 3 > len(self.buffer)):
                break
            newline = self.buffer.rfind(b"\n", self.keep, end)
            if newline > self.keep:
                self.move(newline)
            length = end - self.keep
            if not self.more():
                break
        gap = self.buffer[self.keep : end]
        self.move(end)
        self.lead = gap[gap.rfind(b"\n") :] if b"\n" in gap else b""

    def move(self, to: int) -> None:
        self.line += self.buffer.count(b"\n", self.counted, to)
        self.keep = self.counted = to

    def more(self) -> bool:
        """Read on, the more the longer the value is, and drop what is done with. False at the end."""
        data = self.file.read(max(CHUNK, min(len(self.buffer) - self.keep, MAX_STEP)))
        if not data:
            return False
        self.buffer = self.buffer[self.keep :] + data
        self.base += self.keep
        self.counted -= self.keep
        self.keep = 0
        return True

    def end(self, start: int) -> int | None:
        """Where the value at ``start`` ends; None if the file ends first or the value is over the limit."""
        first = self.buffer[start]
        if first in b"{[":
            return self._close(start + 1)
        if first in b"}]":
            return start + 1
        return self._bare()

    def _bare(self) -> int | None:
        """The end of a string, number or word; of anything else, all up to the next bracket, for it is one fault."""
        done = 0
        while True:
            scalar = _SCALAR.match(self.buffer, self.keep)
            if scalar is not None:
                return scalar.end()
            at, in_string = _run(self.buffer, self.keep + done)
            done = at - self.keep
            if at == len(self.buffer) or in_string:
                if len(self.buffer) - self.keep > self.limit:
                    return None
                if self.more():
                    continue
                if in_string:
                    return None
            return self.keep + len(self.buffer[self.keep : self.keep + done].rstrip(b" \t\r\n\v\f,"))

    def _close(self, at: int) -> int | None:
        depth = 1
        done = at - self.keep
        while True:
            buffer = self.buffer
            at = self.keep + done
            size = len(buffer)
            while True:
                at, in_string = _run(buffer, at)
                if at == size or in_string:
                    break
                bracket = buffer[at]
                depth += 1 if bracket in b"{[" else -1
                at += 1
                if depth == 0:
                    # In ASCII a closing bracket stands two after its opening one. Any other has lost its partner.
                    return at if bracket == buffer[self.keep] + 2 else None
            done = at - self.keep
            if size - self.keep > self.limit or self._has_lost_its_end() or not self.more():
                return None

    def _has_lost_its_end(self) -> bool:
        """Whether a value is long and a line with just its indentation opens as it does: no inner value has that."""
        if len(self.buffer) - self.keep < PATIENCE or len(self.lead) < 2:
            return False
        opening = _FIRST_KEY.match(self.buffer, self.keep)
        return opening is not None and self.buffer.find(self.lead + opening[0], self.keep) >= 0

    def _resume(self, *, beside: bool) -> int | None:
        """Where the next record begins after one that never closes: a line that opens just as that one did.

        ``beside``: records share a line, so that it is an object behind a comma or line end that can be read.
        """
        opening = _FIRST_KEY.match(self.buffer, self.keep)
        if opening is None or self.resumes == MAX_RESUMES:
            return None
        self.resumes += 1
        begun = re.compile(
            (rb"[,\n]\s{0,%d}+" % MAX_BLANKS if beside else self.lead or rb"\n")
            + rb"(?=%s)" % re.escape(opening[0])
        )
        done = tries = 0
        while tries < MAX_TRIES:
            found = begun.search(self.buffer, self.keep + done)
            if found is None:
                done = max(done, len(self.buffer) - self.keep - len(self.lead + opening[0]) - MAX_BLANKS)
                if len(self.buffer) - self.keep > self.limit or not self.more():
                    return None
                continue
            place, done, tries = found.start() - self.keep, found.end() - self.keep, tries + 1
            end = self._close(found.end() + 1) if beside else None
            if not beside or (end is not None and not parse(self.buffer[self.keep + done : end])[1]):
                return self.keep + place
        return None

    def piece(self, start: int, end: int, fault: str) -> Piece:
        return Piece(self.base + start, self.base + end, self.line, self.buffer[start:end], fault)

    def rest(self, fault: str) -> Piece:
        """From ``keep`` to the end of the file."""
        self.broken = True
        end = self.file.seek(0, os.SEEK_END)
        start = self.base + self.keep
        whole = end == self.base + len(self.buffer)
        told = f"{fault}; the file ends at byte {end}"
        return Piece(start, end, self.line, self.buffer[self.keep :] if whole else None, told)


def never_closed(line: int) -> str:
    """What is told of a record that has no end."""
    return f"the record that starts in line {line} is never closed (cut short, or a bracket lost)"


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# ---------------------------------------------------------------- pieces to records


_TOO_DEEP = "nested too deeply to be read"
_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_BROKEN = "half of a surrogate pair (\\ud800 to \\udfff) is no character; it is read as U+FFFD"


_NAME_ELEMENTS = "say which is which, such as --map instruction=0 --map response=1 --map image=2"


def parse(raw: bytes, line: int = 1) -> tuple[Any, str]:
    """The value, or what is wrong with it. NaN, Infinity and repeated keys pass, as in Python's json."""
    fault = ""
    try:
        text = _decoded(raw)
        return json.loads(_paired(text)[0] if b"\\u" in raw else text), ""
    except UnicodeDecodeError as error:
        return None, f"not valid UTF-8: byte {raw[error.start]:#04x} at byte {error.start} of the record"
    except json.JSONDecodeError as error:
        fault = f"not valid JSON: {error.msg} in line {line + error.lineno - 1}, column {error.colno}"
    except ValueError as error:
        fault = f"not valid JSON: {error}"
    except RecursionError:
        return None, _TOO_DEEP
    return None, f"{_nuls(raw, 0)}; {fault}" if b"\0" in raw else fault


def _decoded(raw: bytes) -> str:
    """As UTF-8. Halves of a surrogate pair written as three bytes each are joined, a lone one becomes U+FFFD."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        if not _HALF.search(raw):
            raise
        halves = raw.decode("utf-8", "surrogatepass")
        return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _remarks(raw: bytes, value: Any) -> Iterator[tuple[str, str]]:
    """What is odd in a record that can be read all the same."""
    if (b"\\u" in raw and _paired(_decoded(raw))[1]) or (b"\xed" in raw and _lone_half(raw)):
        yield "broken_character", _BROKEN
    if isinstance(value, dict) and any(raw.count(f'"{key}"'.encode()) > 1 for key in value):
        for key, n in _counted(raw).items():
            if n > 1:
                yield "duplicate_key", f"the key '{key}' stands {n} times in the record; the last one is read"


def _counted(raw: bytes) -> Counter[str]:
    """How often each key of the record stands in it."""
    keys: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys[:] = [key for key, _ in pairs]  # the outermost object ends last
        return dict(pairs)

    text = _paired(_decoded(raw))[0]
    if text.lstrip().startswith('"'):  # a member of an object comes with its key
        text = f"{{{text}}}"
    try:
        json.loads(text, object_pairs_hook=collect)
    except RecursionError:  # with the hook the parser does not go quite as deep as it has gone without
        return Counter()
    return Counter(keys)


def _lone_half(raw: bytes) -> bool:
    return bool(_HALF.search(raw)) and _decoded(raw).count("\ufffd") > raw.count("\ufffd".encode())


def _paired(text: str) -> tuple[str, int]:
    """The JSON text with every lone surrogate escape made U+FFFD, and how many there were.

    A lone surrogate is no character: it cannot be encoded, and would break whatever writes or tokenizes it.
    """
    broken = 0

    def pair(match: re.Match[str]) -> str:
        nonlocal broken
        broken += match[1] is not None
        return "\\ufffd" if match[1] else match[0]

    return _ESCAPE.sub(pair, text), broken
