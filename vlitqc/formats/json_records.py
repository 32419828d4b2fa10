"""JSON lists and JSON lines: records split by their bytes, so that a broken one costs only itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats.conversation import read_conversation
from vlitqc.formats.names import Names
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Sample, Unreadable

CHUNK = 1 << 18
MAX_RECORD_BYTES = 1 << 28
"""A longer record is reported as unreadable: memory stays bounded whatever the file holds."""

PROBE_BYTES = 1 << 20
MAX_RESUMES = 100
"""Every resumption may have read ahead by a whole record's limit; a file that needs more is beyond saving."""

_CUT = "the list is cut short after this record"
_BOM = b"\xef\xbb\xbf"
_GAP = re.compile(rb"[\s,]*+")
# Everything up to the next bracket outside a string. No string holds a raw newline in JSON, so a newline also
# ends one: a lost quotation mark then spoils its own line and not the rest of the file.
_RUN = re.compile(rb'(?:[^{}\[\]"]++|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+["\n])*+', re.DOTALL)
_SCALAR = re.compile(
    rb'(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|-?[0-9][0-9.eE+-]*+|-?Infinity|NaN|null|true|false)(?=\s*+[,\]])',
    re.DOTALL,
)
_LIST = re.compile(rb'\[\s*+(?:["\[\]{,]|-?[0-9]|-?Infinity|NaN|null|true|false|//|$)')
_FIRST_KEY = re.compile(rb'\{\s*"[^"\\]*"')
# A whole surrogate pair, a lone half (the group), or any other escape: an escaped backslash hides what follows.
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A record's bytes and their place; ``raw`` is None where they are too many to hold."""

    start: int
    end: int
    line: int
    raw: bytes | None
    fault: str = ""
    note: str = ""
    """A warning that does not make the record unreadable."""


class _JsonRecords:
    """What JSON lists and JSON lines share: pieces to records, random access, and an atomic writer."""

    name: ClassVar[str]
    opening: ClassVar[bytes]
    separator: ClassVar[bytes]
    closing: ClassVar[bytes]

    layers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.names = names

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    @property
    def suffix(self) -> str:
        """The input's own ending, or the format's name where it has none."""
        return self.path.suffix or f".{self.name}"

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """The records' bytes, in file order."""
        raise NotImplementedError

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every record; memory does not grow with the file."""
        with self.path.open("rb") as file:
            for row, piece in enumerate(self.pieces(file), first_row):
                digest = _digest(self.path, piece) if piece.raw is None else _sha256(piece.raw)
                origin = Origin(str(self.path), row, piece.line, piece.start, piece.end, digest)
                yield _record(piece.raw or b"", origin, piece.fault, piece.note)

    def share(self, origin: Origin) -> float | None:
        """By bytes."""
        return origin.end / max(1, self.path.stat().st_size)

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again."""
        try:
            with self.path.open("rb") as file:
                return _record(self._raw(file, origin), origin, "")
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}); put it back and try again"
            ) from error

    def _raw(self, file: BinaryIO, origin: Origin) -> bytes:
        file.seek(origin.start)
        raw = file.read(origin.end - origin.start)
        if _sha256(raw) != origin.sha256:
            raise InputError(
                f"{self.path} no longer holds record {origin.row} at bytes {origin.start} to {origin.end}: "
                "the file has changed since it was read; score it again"
            )
        return raw

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """Every record's bytes, with this layout's separators between them."""
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            files = {name: stack.enter_context(draft.open("xb")) for name, draft in drafts.items()}
            writers = {name: _Writer(file, self.separator, self.closing) for name, file in files.items()}
            source = stack.enter_context(self.path.open("rb"))
            for file in files.values():
                file.write(self.opening)
            for origin, name in places:
                writers[name].write(self._raw(source, origin))
            for file in files.values():
                file.write(self.closing)


class JsonList(_JsonRecords):
    """One JSON list, streamed element by element; of a list cut short, every whole element is read."""

    name = "json"
    rank = 60
    opening, separator, closing = b"[", b",\n", b"]"

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether a bracket comes first, then what may begin a list of records.

        A broken first line of JSON lines may begin with a bracket too. It is a list all the same if its first
        element opens an object or the bracket stands alone, or if the objects below are not lines by themselves.
        """
        text = head.removeprefix(_BOM).lstrip()
        if not _LIST.match(text):
            return False
        first, _, later = text.partition(b"\n")
        first = first.strip()
        opens_object = first[1:].lstrip().startswith(b"{") and not isinstance(_parse(first)[0], list)
        return opens_object or first == b"[" or not _begins_lines(later)

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """The list's elements."""
        return _Values(file, MAX_RECORD_BYTES).in_list()


class JsonLines(_JsonRecords):
    """One record a line; also objects over several lines, one after another.

    Raises FormatError where the file is one JSON object that is itself no conversation.
    """

    name = "jsonl"
    rank = 70
    # A record over several lines needs no other separator than this, so both layouts are written alike.
    opening, separator, closing = b"", b"\n", b""

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        with path.open("rb") as file:
            values = _Values(file, PROBE_BYTES).in_stream()
            first, second = next(values, None), next(values, None)
        raw = (first.raw or b"") if first is not None and not first.fault else b""
        self._over_lines = b"\n" in raw and not _parse(raw)[1]
        if second is None:
            _refuse_document(path, raw)

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether the first character is a brace, or some whole line is an object."""
        text = head.removeprefix(_BOM).lstrip()
        return text.startswith(b"{") or _any_object(text)

    def pieces(self, file: BinaryIO) -> Iterator[Piece]:
        """Lines that are not blank, or objects where they run over several lines."""
        return _Values(file, MAX_RECORD_BYTES).in_stream() if self._over_lines else _lines(file)


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


def _begins_lines(text: bytes) -> bool:
    """Whether the first object is a whole line, and what follows it is the next one or nothing."""
    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    at = next((i for i, line in enumerate(lines) if line.startswith(b"{")), None)
    if at is None or not isinstance(_parse(lines[at])[0], dict):
        return False
    return at + 1 == len(lines) or lines[at + 1].startswith(b"{")


def _any_object(text: bytes) -> bool:
    """Whether some line is a whole object."""
    return any(
        line.startswith(b"{") and isinstance(_parse(line.strip())[0], dict) for line in text.splitlines()
    )


# ---------------------------------------------------------------- bytes to pieces


def _lines(file: BinaryIO) -> Iterator[Piece]:
    offset = _skip_bom(file)
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
        elif raw:
            yield Piece(start, start + len(raw), number, raw)


class _Values:
    """Finds where JSON values begin and end by their brackets, without holding more than one of them.

    ``buffer[0]`` is byte ``base`` of the file. What stands before ``keep`` may be dropped when more is read.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file = file
        self.limit = limit
        self.base = _skip_bom(file)
        self.buffer = b""
        self.keep = 0
        self.line = 1
        self.counted = 0
        self.resumes = 0

    def in_list(self) -> Iterator[Piece]:
        """The elements of the list that the file is."""
        self._gap(0)
        yield from self._values(self.keep + 1, closing=True)

    def in_stream(self) -> Iterator[Piece]:
        """Values one after another to the file's end."""
        yield from self._values(0, closing=False)

    def _values(self, at: int, *, closing: bool) -> Iterator[Piece]:
        held: Piece | None = None  # until it is known whether anything follows
        while True:
            indent = self._gap(at)
            start = self.keep
            ended = start == len(self.buffer)
            if held is not None:
                yield replace(held, note=_CUT) if ended and closing else held
                held = None
            if ended:
                return
            if closing and self.buffer[start] == ord("]"):
                self._gap(start + 1)
                if self.keep < len(self.buffer):
                    yield self._rest("something follows the end of the list; a file holds one list")
                return
            end = self._end(start)
            if end is not None:
                at = end
                held = self._piece(self.keep, end, "")
            else:
                resume = self._resume(indent)
                fault = f"the record that starts in line {self.line} is never closed (cut short, or a bracket lost)"
                if resume is None:
                    yield self._rest(fault)
                    return
                at = resume
                broken = self.buffer[self.keep : resume].rstrip(b" \t\r\n,")
                held = self._piece(self.keep, self.keep + len(broken), fault)

    def _gap(self, at: int) -> bytes:
        """Move ``keep`` from ``at`` over space and commas to the next value; its indentation."""
        self._move(at)
        length = 0
        while True:
            # Long stretches of blanks are dropped but for their last line, which tells the indentation.
            end = _GAP.match(self.buffer, self.keep + length).end()  # type: ignore[union-attr]
            if end < len(self.buffer):
                break
            newline = self.buffer.rfind(b"\n", self.keep, end)
            if newline > self.keep:
                self._move(newline)
            length = end - self.keep
            if not self._more():
                end = len(self.buffer)
                break
        gap = self.buffer[self.keep : end]
        self._move(end)
        return gap[gap.rfind(b"\n") + 1 :] if b"\n" in gap else b""

    def _move(self, to: int) -> None:
        self.line += self.buffer.count(b"\n", self.counted, to)
        self.keep = self.counted = to

    def _more(self) -> bool:
        """Read on, twice as much each time a value needs it, and drop what is done with. False at the end."""
        data = self.file.read(max(CHUNK, len(self.buffer) - self.keep))
        if not data:
            return False
        self.buffer = self.buffer[self.keep :] + data
        self.base += self.keep
        self.counted -= self.keep
        self.keep = 0
        return True

    def _end(self, start: int) -> int | None:
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
            at = _RUN.match(self.buffer, self.keep + done).end()  # type: ignore[union-attr]
            done = at - self.keep
            in_string = self.buffer[at : at + 1] == b'"'
            if at == len(self.buffer) or in_string:
                if len(self.buffer) - self.keep > self.limit:
                    return None
                if self._more():
                    continue
                if in_string:
                    return None
            return self.keep + len(self.buffer[self.keep : self.keep + done].rstrip(b" \t\r\n\v\f,"))

    def _close(self, at: int) -> int | None:
        depth = 1
        done = at - self.keep
        while True:
            buffer, run = self.buffer, _RUN.match
            at = self.keep + done
            size = len(buffer)
            while True:
                at = run(buffer, at).end()  # type: ignore[union-attr]
                if at == size or buffer[at] == 0x22:
                    break
                bracket = buffer[at]
                depth += 1 if bracket in b"{[" else -1
                at += 1
                if depth == 0:
                    # In ASCII a closing bracket stands two after its opening one. Any other has lost its partner.
                    return at if bracket == buffer[self.keep] + 2 else None
            done = at - self.keep
            if size - self.keep > self.limit or not self._more():
                return None

    def _resume(self, indent: bytes) -> int | None:
        """Where the next record begins after one that never closes: a line that opens just as that one did."""
        opening = _FIRST_KEY.match(self.buffer, self.keep)
        if opening is None or self.resumes == MAX_RESUMES:
            return None
        self.resumes += 1
        line = b"\n" + indent + opening[0]
        done = 0
        while (place := self.buffer.find(line, self.keep + done)) < 0:
            done = max(0, len(self.buffer) - self.keep - len(line))
            if len(self.buffer) - self.keep > self.limit or not self._more():
                return None
        return place

    def _piece(self, start: int, end: int, fault: str) -> Piece:
        return Piece(self.base + start, self.base + end, self.line, self.buffer[start:end], fault)

    def _rest(self, fault: str) -> Piece:
        """From ``keep`` to the end of the file."""
        end = self.file.seek(0, os.SEEK_END)
        start = self.base + self.keep
        whole = end == self.base + len(self.buffer)
        return Piece(start, end, self.line, self.buffer[self.keep :] if whole else None, fault)


def _skip_bom(file: BinaryIO) -> int:
    if file.read(len(_BOM)) == _BOM:
        return len(_BOM)
    return file.seek(0)


def _digest(path: Path, piece: Piece) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = piece.end - file.seek(piece.start)
        while left and (data := file.read(min(CHUNK, left))):
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


# ---------------------------------------------------------------- pieces to records


def _record(raw: bytes, origin: Origin, fault: str, note: str = "") -> Record:
    record = _read(raw, origin, fault)
    if note:
        issue = _issue("list_cut_short", "warning", note, origin, record.id)
        return replace(record, issues=(*record.issues, issue))
    return record


def _read(raw: bytes, origin: Origin, fault: str) -> Record:
    if not fault:
        value, fault = _parse(raw, origin.line)
    if not fault and not isinstance(value, dict):
        fault = f"expected an object, got {_KINDS[type(value)]}"
    if fault:
        return Unreadable(origin, (_issue("malformed_record", "error", fault, origin),))
    record = _conversation(value, origin)
    if isinstance(record, Sample) and b"\\ud" in raw.lower() and _paired(raw.decode("utf-8"))[1]:
        issue = _issue("broken_character", "warning", _BROKEN, origin, record.id)
        return replace(record, issues=(*record.issues, issue))
    return record


def _conversation(value: dict[str, Any], origin: Origin) -> Record:
    try:
        return read_conversation(value, origin)
    except RecursionError:  # pictures within pictures: JSON's own parser goes deeper than Python does
        return Unreadable(origin, (_issue("malformed_record", "error", _TOO_DEEP, origin),))


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


def _parse(raw: bytes, line: int = 1) -> tuple[Any, str]:
    """The value, or what is wrong with it. NaN, Infinity and repeated keys pass, as in Python's json."""
    try:
        text = raw.decode("utf-8")
        return json.loads(_paired(text)[0] if b"\\u" in raw else text), ""
    except UnicodeDecodeError as error:
        return None, f"not valid UTF-8: byte {raw[error.start]:#04x} at byte {error.start} of the record"
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg} in line {line + error.lineno - 1}, column {error.colno}"
    except ValueError as error:
        return None, f"not valid JSON: {error}"
    except RecursionError:
        return None, _TOO_DEEP


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


def _refuse_document(path: Path, raw: bytes) -> None:
    """Raise FormatError for a lone document that is no record, such as COCO's annotations or a settings file."""
    value = _parse(raw)[0]
    if not isinstance(value, dict):
        return
    inner = {key: held for key, held in value.items() if _holds_objects(held)}
    record = _conversation(value, Origin(str(path), 0, 1, 0, len(raw), ""))
    if isinstance(record, Unreadable) and (inner or b"\n" in raw):
        told = f"{path} is one JSON object with the keys {', '.join(list(value)[:8])}"
        longest = max(inner, key=lambda key: len(inner[key]), default=None)
        cure = "pass the file that holds the records"
        if longest is not None:
            cure = f"if its '{longest}' are records: jq -c '.{longest}[]' {path.name} > records.jsonl"
        raise FormatError(f"{told}; expected a list of records, or one record a line; {cure}")


def _holds_objects(held: Any) -> bool:
    items = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
    return isinstance(next(iter(items), None), dict)


def _issue(kind: str, severity: Any, detail: str, origin: Origin, id: str = "") -> Issue:
    return Issue(kind, severity, detail, origin.file, origin.line, origin.row, id)
