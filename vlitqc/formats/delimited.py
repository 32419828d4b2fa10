"""CSV and TSV: rows found by their bytes, so that a broken one costs only itself.

Whether the first row is a header is decided in this order. It is none where a column is mapped by its number, and
one where a mapped column is among its cells. It is none where a cell is a picture's path, a URL or base64, else one
where a cell is a field's known name. It is none where a cell is empty (the first may be), repeated, a number or a
longer text than a name. Else it is one where a column below it holds nothing but numbers and pictures, or where its
cells are at most three words long and those of some column below are longer on average.

Lines end with CR alone where no LF is in sight, as on old Macs. A quote within a quoted field is written twice or
after a backslash, whichever makes more regular rows. A first line ``sep=;``, as Excel has it, is obeyed and kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError, InputError, NoConversation
from vlitqc.formats import HEAD_BYTES, PACKED, suffix_of
from vlitqc.formats.conversation import (
    CAPTION_KEYS,
    INPUT_KEYS,
    INSTRUCTION_KEYS,
    MEDIA_FIELDS,
    MESSAGE_KEYS,
    NO_CONVERSATION,
    RESPONSE_KEYS,
    read_conversation,
)
from vlitqc.formats.endings import A_PICTURE
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Sample, Unreadable

MAX_ROW_BYTES = 1 << 28
"""A longer row is reported as unreadable: memory stays bounded whatever the file holds."""

MAX_QUOTED_BYTES = 1 << 24
"""How far a quoted field may go on over line ends before its closing quote counts as lost."""

SAMPLE_ROWS = 100
SAMPLE_BYTES = 1 << 24
REGULAR = 0.9
"""The share of rows with the same number of fields in a table whose header holds no field that is known."""

_STEP = 1 << 18
_TOLD = re.compile(rb'"?sep=(.)"?(?:\r?\n|\r)', re.IGNORECASE)
_PICTURE = re.compile(rf"\S.{{0,1000}}{A_PICTURE}(?:\?\S*)?", re.IGNORECASE)
_URL = re.compile(r"(?:https?|s3|gs)://\S+|data:image/\S+", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{200,}={0,2}")
_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?|nan", re.IGNORECASE)
_NAME = re.compile(r"[\w(#*][^\n]{0,63}")
_WORD = re.compile(r"[\u3040-\u9fff\uac00-\ud7af]|[^\s\u3040-\u9fff\uac00-\ud7af]+")
_MEDIA_KEYS = frozenset(key for keys in MEDIA_FIELDS.values() for key in keys)
_KNOWN = _MEDIA_KEYS | {*MESSAGE_KEYS, *INSTRUCTION_KEYS, *INPUT_KEYS, *RESPONSE_KEYS, *CAPTION_KEYS}
_LISTS = _MEDIA_KEYS | {*MESSAGE_KEYS, "history", "chosen", "rejected"}
_CUT = ("malformed_record", "the row is cut short")
_NOT_MAPPED = "no field '"
_MAPPED_LISTS = ("messages", "history", "image", "video", "audio")


class _Delimited:
    """A table as text: a record a row.

    Raises FormatError where no separator makes columns, NoConversation where no column holds one.
    """

    name: ClassVar[str]
    text: ClassVar[bool] = True
    separators: ClassVar[tuple[bytes, ...]]

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether the text is regular under one of the separators, with columns that are known by their names or
        look like pictures and captions; a name that ends like a table's makes up for that.
        """
        found = _likeliest(head, (*Tsv.separators, *Csv.separators))
        if found is None or found.dialect.separator not in cls.separators:
            return False
        # What JSON, XML and web pages begin with, however regular their commas; a first column may be JSON as well.
        if head.lstrip()[:1] in ((b"<",) if found.dialect.separator == b"\t" else (b"{", b"[", b"<")):
            return False
        packed = path.suffix if path.suffix in PACKED else ""
        hinted = path.name.removesuffix(packed).lower().endswith((".csv", ".tsv", ".tab", ".psv"))
        return found.known or (found.share >= REGULAR and hinted)

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.names = names
        self._content = Content(path)
        self.layers = self._content.layers
        with self._content.open() as stream:
            head = stream.read(HEAD_BYTES)
            found = _likeliest(head, self.separators)
            if found is None:
                marks = " ".join("tabs" if mark == b"\t" else mark.decode() for mark in self.separators)
                raise FormatError(
                    f"{path} is not {self.name}: no two columns between {marks} go through most of its first rows; "
                    "leave the format out to have it detected"
                )
            self._dialect = found.dialect
            told = _TOLD.match(head)
            stream.seek(self._content.start + (told.end() if told else 0))
            rows, starts, _ = _sample(stream, self._dialect, line=2 if told else 1)
        width = _width(rows) or len(rows[0])
        table = [row for row in rows if len(row) == width]
        self._layout = _layout(table, names)
        header = self._layout.header
        if header and len(rows) == 1:
            raise FormatError(
                f"{path} has a header and no row below it; pass the file that holds the records"
            )
        self._begin = starts[header]
        self._refuse_other_tables(table[header:])

    def _refuse_other_tables(self, rows: Sequence[Sequence[str]]) -> None:
        nowhere = Origin(str(self.path), 0, 1, 0, 0, "")
        read = (read_conversation(self._fields(row), nowhere, self.names) for row in rows)
        refused = (NO_CONVERSATION, _NOT_MAPPED)
        if rows and all(isinstance(r, Unreadable) and r.issues[0].detail.startswith(refused) for r in read):
            columns = self._layout.columns
            shown = ", ".join(columns[:12])
            first = ", ".join(cell[:20] for cell in rows[0][:12])
            headless = "" if self._layout.header else f" (for want of a header; the first row is {first})"
            for ours, theirs in self.names.fields.items():
                if not {theirs, theirs.partition(".")[0]} & set(columns):
                    raise NoConversation(
                        f"{self.path} has no column '{theirs}', which is mapped to {ours}; its columns are "
                        f"{shown}{headless}; map {ours} to one of these"
                    )
            found = {role: columns[at] for role, at in _roles(rows).items() if role != "id"}
            pairs = (f"{role}={found.get(role, 'COLUMN')}" for role in ("image", "caption"))
            told = [f"--map {shlex.quote(pair)}" for pair in pairs]
            raise NoConversation(
                f"{self.path} is a table with the columns {shown}{headless}, and none of them is "
                f"known to hold a conversation; say which do, such as {' '.join(told)}, or --map instruction=COLUMN "
                "--map response=COLUMN"
            )

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    @property
    def suffix(self) -> str:
        """The input's own ending, or the format's name where it has none."""
        return suffix_of(self.path, self.name)

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every row; blank lines are none. Memory does not grow with the file."""
        with self._content.open() as stream:
            stream.seek(self._begin[0])
            rows = _Rows(stream, self._dialect, len(self._layout.columns), line=self._begin[1])
            held: Record | None = None
            for number, row in enumerate(rows, first_row):
                if held is not None:
                    yield held
                # A row without a line end is the last, so that a fault of the stream is known by now.
                cut = not row.ended and stream.fault is not None
                held = self._record(replace(row, fault=_CUT) if cut else row, number)
            if held is not None and stream.fault is not None:
                told = f"what follows this record is lost: {stream.fault}"
                issue = Issue.at(held.origin, "damaged_file", "warning", told, held.id)
                held = replace(held, issues=(*held.issues, issue))
            if held is not None:
                yield held

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again."""
        raw = io.BytesIO()
        try:
            with self._content.open() as stream:
                self._copy(stream, origin, raw)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}); put it back and try again"
            ) from error
        raw.seek(0)
        rows = _Rows(io.BufferedReader(raw), self._dialect, len(self._layout.columns), line=origin.line)
        nothing = Row(origin.start, origin.end, origin.line, b"", fault=_CUT)
        return self._record(next(iter(rows), nothing), origin.row, origin)

    def share(self, origin: Origin) -> float | None:
        """By bytes; unknown where the file is packed."""
        return None if self.layers else min(1.0, origin.end / max(1, self.path.stat().st_size))

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """The header, then every row's bytes with its own line end."""
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            files = {name: stack.enter_context(self._content.create(path)) for name, path in drafts.items()}
            source = stack.enter_context(self._content.open())
            header = source.read(self._begin[0] - self._content.start)
            for file in files.values():
                file.write(header)
            for origin, name in places:
                self._copy(source, origin, files[name], ending=True)

    def _copy(self, source: BinaryIO, origin: Origin, target: BinaryIO, *, ending: bool = False) -> None:
        source.seek(origin.start)
        digest = hashlib.sha256()
        left = origin.end - origin.start
        while left and (data := source.read(min(left, _STEP))):
            digest.update(data)
            target.write(data)
            left -= len(data)
        if digest.hexdigest() != origin.sha256:
            raise InputError(
                f"{self.path} no longer holds record {origin.row} at bytes {origin.start} to {origin.end}: "
                "the file has changed since it was read; score it again"
            )
        if ending and origin.end > origin.start:
            after, end = source.read(2), self._dialect.end
            crlf = after == b"\r\n" and end == b"\n"
            target.write(after if crlf else after[:1] if after[:1] == end else b"")

    def _record(self, row: Row, number: int, origin: Origin | None = None) -> Record:
        if origin is None:
            digest = row.sha256 or hashlib.sha256(row.raw or b"").hexdigest()
            origin = Origin(str(self.path), number, row.line, row.start, row.end, digest)
        if row.fault is not None:
            return Unreadable(origin, (Issue.at(origin, row.fault[0], "error", row.fault[1]),))
        broken = ""
        texts = []
        for at, cell in enumerate(row.cells, 1):
            try:
                texts.append(cell.decode("utf-8"))
            except UnicodeDecodeError as error:
                told = f"not valid UTF-8: byte {cell[error.start]:#04x} at byte {error.start} of field {at}"
                return Unreadable(origin, (Issue.at(origin, "malformed_record", "error", told),))
            if b"\0" in cell:
                broken = f"field {at} holds NUL characters: {cell.count(0)}"
        record = read_conversation(self._fields(texts), origin, self.names)
        if broken and isinstance(record, Sample):
            issue = Issue.at(origin, "broken_character", "warning", broken, record.id)
            return replace(record, issues=(*record.issues, issue))
        return record

    def _fields(self, texts: Sequence[str]) -> dict[str, Any]:
        lists = self._layout.lists
        return {
            name: _value(text) if name in lists else text
            for name, text in zip(self._layout.columns, texts, strict=True)
        }


class Csv(_Delimited):
    """Values between commas, semicolons or vertical bars."""

    name = "csv"
    rank: ClassVar[int] = 80
    separators = (b",", b";", b"|")


class Tsv(_Delimited):
    """Values between tabs."""

    name = "tsv"
    rank: ClassVar[int] = 81
    separators = (b"\t",)


def _value(text: str) -> Any:
    """The list or object that a cell holds as JSON, or the text as it is: a Python literal is none."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is no character
            plain = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
            value = json.loads(plain.decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        return text
    return value


# ---------------------------------------------------------------- what kind of table


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the columns are called, which may hold lists and objects, and whether the first row says so."""

    header: bool
    columns: tuple[str, ...]
    lists: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What separates values, what ends lines, and whether a backslash stands before a quote in a quoted field."""

    separator: bytes
    end: bytes = b"\n"
    escaped: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A dialect that makes a table of a text; ``known``: with something to read; ``share``: of regular rows."""

    known: bool
    share: float
    width: int
    dialect: _Dialect

    def rank(self) -> tuple[Any, ...]:
        """More is likelier."""
        mark = self.dialect.separator
        regular = self.known or self.share >= REGULAR
        return self.known, regular, mark == b"\t", self.share, not self.dialect.escaped, self.width, mark


def _likeliest(head: bytes, separators: Iterable[bytes]) -> _Found | None:
    """The dialect of the table that ``head`` begins, with one of these separators; None where it begins none."""
    end = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
    told = _TOLD.match(head)
    text = head[told.end() :] if told else head
    found = []
    for separator in separators:
        if told and separator != told[1]:
            continue
        for escaped in (False, True) if b'\\"' in text else (False,):
            dialect = _Dialect(separator, end, escaped)
            rows, _, n_faulty = _sample(io.BufferedReader(io.BytesIO(text)), dialect)
            if len(head) >= HEAD_BYTES and len(rows) > 1:
                del rows[-1]
            if width := _width(rows):
                table = [row for row in rows if len(row) == width]
                share = len(table) / len(rows)
                # A row with a broken quote is split at every separator, and may come out regular by chance.
                found.append(_Found(_is_known(table, share), share - n_faulty / len(rows), width, dialect))
    return max(found, key=_Found.rank, default=None)


def _sample(
    file: io.BufferedReader, dialect: _Dialect, line: int = 1
) -> tuple[list[list[str]], list[tuple[int, int]], int]:
    """The first rows in text, where and in which line each of them begins, and how many are faulty."""
    rows, starts = [], []
    n_bytes = n_faulty = 0
    for row in _Rows(file, dialect, None, line=line):
        n_bytes += row.end - row.start
        rows.append([cell.decode("utf-8", "replace") for cell in row.cells])
        starts.append((row.start, row.line))
        n_faulty += row.fault is not None
        if len(rows) == SAMPLE_ROWS or n_bytes > SAMPLE_BYTES:
            break
    return rows, starts, n_faulty


def _width(rows: Sequence[Sequence[str]]) -> int:
    """The number of columns, or 0 where the rows are no table."""
    width = len(rows[0]) if rows else 0
    return width if width > 1 and 2 * sum(len(row) == width for row in rows) > len(rows) else 0


def _is_known(table: Sequence[Sequence[str]], share: float) -> bool:
    """Whether a header tells that there is something to read, or the content of rows that are mostly regular."""
    if _has_header(table, Names()):
        return len(table) > 1 and any(map(_is_field, table[0]))
    return share >= REGULAR and {"image", "caption"} <= set(_roles(table))


def _has_header(table: Sequence[Sequence[str]], names: Names) -> bool:
    first = [cell.strip() for cell in table[0]]
    mapped = {name.partition(".")[0] for name in names.fields.values()}
    if any(name.isdecimal() and int(name) < len(first) for name in mapped):
        return False
    if mapped & set(first):
        return True
    if any(map(_is_picture, first)):
        return False
    if any(map(_is_field, first)):
        return True
    said = first if first[0] else first[1:]  # a table written with its row numbers leaves the first one empty
    if len(set(said)) < len(said) or not all(map(_NAME.fullmatch, said)):
        return False
    if any(map(_is_number, said)):
        return False
    columns = [[row[at] for row in table[1:] if row[at]] for at in range(len(first))]
    if any(column and all(_is_number(c) or _is_picture(c) for c in column) for column in columns):
        return True
    longest = max((_mean_words(column) for column in columns), default=0)
    return all(_words(cell) <= 3 for cell in said) and longest > 3


def _layout(table: Sequence[Sequence[str]], names: Names) -> _Layout:
    header = _has_header(table, names)
    mapped = set(names.fields.values())
    columns = [str(at) for at in range(len(table[0]))]
    if header:
        for at, cell in enumerate(table[0]):
            name = cell.strip()
            name = name.lower() if name not in _KNOWN | mapped and name.lower() in _KNOWN else name
            if name and name not in columns:
                columns[at] = name
    else:
        for role, at in _roles(table).items():
            if role not in names.fields and str(at) not in mapped:
                columns[at] = role
    inside = {name.partition(".")[0] for name in mapped if "." in name}
    lists = _LISTS | inside | {names.fields[ours] for ours in _MAPPED_LISTS if ours in names.fields}
    return _Layout(header, tuple(columns), frozenset(lists) & set(columns))


def _roles(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """By content: the first column of pictures, that of the others with most words, the first without repeats."""
    columns = list(zip(*rows, strict=True))
    found: dict[str, int] = {}
    pictures = [at for at, column in enumerate(columns) if _mostly(column, _is_picture)]
    if pictures:
        found["image"] = pictures[0]
    others = [at for at, column in enumerate(columns) if at not in pictures and any(column)]
    plain = [at for at in others if not (_mostly(columns[at], _is_number) or _mostly(columns[at], _is_json))]
    texts = [at for at in plain if _mean_words(columns[at]) >= 2]
    if texts:
        found["caption"] = max(texts, key=lambda at: _mean_words(columns[at]))
    names = (at for at in others if at != found.get("caption") and _is_id(columns[at]))
    if (at := next(names, None)) is not None:
        found["id"] = at
    return found


def _mostly(column: Sequence[str], holds: Any) -> bool:
    told = [cell for cell in column if cell]
    return bool(told) and sum(map(holds, told)) > len(told) / 2


def _is_picture(cell: str) -> bool:
    return bool(_PICTURE.fullmatch(cell) or _URL.match(cell) or _BASE64.match(cell, 0, 1024))


def _is_id(column: Sequence[str]) -> bool:
    return len(set(column)) == len(column) and all(cell and len(cell.split()) == 1 for cell in column)


def _is_field(cell: str) -> bool:
    return cell.strip() in _KNOWN or cell.strip().lower() in _KNOWN


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell))


def _is_json(cell: str) -> bool:
    return not isinstance(_value(cell), str)


def _words(text: str) -> int:
    return len(_WORD.findall(text[:2000]))


def _mean_words(column: Sequence[str]) -> float:
    return sum(map(_words, column)) / max(1, len(column))


# ---------------------------------------------------------------- bytes to rows


@dataclass(frozen=True, slots=True)
class Row:
    """A row's bytes, without its line end, and their place; ``raw`` is None where they are too many to hold.

    ``fault``: the kind and the words of what is wrong with it. ``ended``: whether a line end follows.
    """

    start: int
    end: int
    line: int
    raw: bytes | None
    cells: tuple[bytes, ...] = ()
    fault: tuple[str, str] | None = None
    ended: bool = True
    sha256: str = ""


class _Quote(Exception):
    """A quoted field that does not end well: nothing closes it (``lost``), or more follows its closing quote."""

    def __init__(self, field: int, *, lost: bool) -> None:
        self.field = field
        self.lost = lost


class _Rows:
    """The rows of a stream from its place on, each of ``width`` fields where that is known.

    A quote that is not closed costs its own line only: reading goes on with the next one. Between tabs, quotes
    are mostly ordinary characters, so that there a line with the right number of fields is a row as it stands
    if a quote in it is left open, or hides other such lines.
    """

    def __init__(
        self, file: io.BufferedReader, dialect: _Dialect, width: int | None, *, line: int = 1
    ) -> None:
        self.line = line
        self._file = file
        self._separator = dialect.separator
        self._end = dialect.end
        self._width = width
        self._at = file.tell()
        self._ahead: list[bytes] = []  # lines that were read too early, the next one last
        mark = re.escape(dialect.separator)
        self._plain = re.compile(rb"[^%s%s]*+" % (mark, dialect.end))
        self._after = re.compile((rb"(%s)|\r|\Z" if dialect.end == b"\r" else rb"(%s)|\r*\n|\r*\Z") % mark)
        self._quoted = _ESCAPED if dialect.escaped else _QUOTED
        self._twice = _TWICE_ESCAPED if dialect.escaped else _TWICE

    def __iter__(self) -> Iterator[Row]:
        while line := self._take():
            if len(line) >= MAX_ROW_BYTES and not line.endswith(self._end):
                yield self._too_long(line)
            elif not line.strip(b"\r\n"):
                self._at += len(line)
                self.line += 1
            elif b'"' not in line:
                yield self._row(line, self._body(line).split(self._separator))
            else:
                yield self._quoted_row(line)

    def _take(self) -> bytes:
        return self._ahead.pop() if self._ahead else self._readline(MAX_ROW_BYTES)

    def _readline(self, limit: int) -> bytes:
        if self._end == b"\n":
            return self._file.readline(limit)
        pieces: list[bytes] = []
        while (
            limit and not (pieces and pieces[-1].endswith(self._end)) and (near := self._file.peek(1)[:limit])
        ):
            pieces.append(self._file.read(near.find(self._end) + 1 or len(near)))
            limit -= len(pieces[-1])
        return b"".join(pieces)

    def _body(self, line: bytes) -> bytes:
        return line[:-2] if line.endswith(b"\r\n") else line.removesuffix(self._end)

    def _lines(self, text: bytes) -> list[bytes]:
        *whole, rest = text.split(self._end)
        return [line + self._end for line in whole] + ([rest] if rest else [])

    def _too_long(self, part: bytes) -> Row:
        start, digest = self._at, hashlib.sha256()
        while part:
            body = part.removesuffix(self._end)
            digest.update(body)
            self._at += len(body)
            if len(body) < len(part):
                break
            part = self._readline(_STEP)
        fault = ("malformed_record", f"the row is longer than {MAX_ROW_BYTES >> 20} MiB")
        row = Row(start, self._at, self.line, None, (), fault, bool(part), digest.hexdigest())
        self._at += bool(part)
        self.line += 1
        return row

    def _row(self, text: bytes, cells: Sequence[bytes], fault: tuple[str, str] | None = None) -> Row:
        if fault is None and self._width is not None and len(cells) != self._width:
            n = f"{len(cells)} field{'s' * (len(cells) != 1)}"
            fault = ("ragged_row", f"the row has {n}, the table has {self._width} columns")
        raw = self._body(text)
        row = Row(
            self._at, self._at + len(raw), self.line, raw, tuple(cells), fault, text.endswith(self._end)
        )
        self._at += len(text)
        self.line += text.count(self._end)
        return row

    def _quoted_row(self, first: bytes) -> Row:
        text = first
        while True:
            try:
                cells, end = self._split(text)
                break
            except _Quote as quote:
                if quote.lost and len(text) < len(first) + MAX_QUOTED_BYTES and (more := self._more(text)):
                    text += more
                    continue
                self._give_back(text[len(first) :])
                told = (
                    "is never closed" if quote.lost else "is closed, and more follows before the field ends"
                )
                return self._first_line(first, f"the quote that opens field {quote.field} {told}")
        self._give_back(text[end:])
        text = text[:end]
        tabs = self._separator == b"\t"
        if len(text) > len(first) and (tabs or len(cells) != self._width) and self._hides_a_row(text):
            self._give_back(text[len(first) :])
            return self._first_line(first, "a quote in this line is not closed before the next row begins")
        return self._row(text, cells)

    def _first_line(self, line: bytes, told: str) -> Row:
        cells = self._body(line).split(self._separator)
        as_it_stands = self._separator == b"\t" and len(cells) == self._width
        return self._row(line, cells, None if as_it_stands else ("unbalanced_quote", told))

    def _more(self, text: bytes) -> bytes:
        """As much again in whole lines, so that a long field is not searched anew for each of its lines."""
        lines: list[bytes] = []
        length = 0
        while length < len(text) and (line := self._take()):
            lines.append(line)
            length += len(line)
        return b"".join(lines)

    def _give_back(self, text: bytes) -> None:
        if text:
            self._ahead += reversed(self._lines(text))

    def _hides_a_row(self, text: bytes) -> bool:
        """Whether a later line of the row is by itself a row as the table has them."""
        for line in self._lines(text)[1:]:
            try:
                cells, end = self._split(line)
            except _Quote:
                continue
            if len(cells) == self._width and end == len(line):
                return True
        return False

    def _split(self, text: bytes) -> tuple[list[bytes], int]:
        """The fields of the row that ``text`` begins with, and where the next one begins."""
        cells: list[bytes] = []
        at = 0
        while True:
            if text.startswith(b'"', at):
                quoted = self._quoted.match(text, at)
                assert quoted is not None
                after = self._after.match(text, quoted.end())
                if not quoted[2] or after is None:
                    raise _Quote(len(cells) + 1, lost=not quoted[2])
                cells.append(self._twice.sub(rb"\1", quoted[1]))
            else:
                plain = self._plain.match(text, at)
                assert plain is not None
                after = self._after.match(text, plain.end())
                assert after is not None
                cells.append(plain[0].removesuffix(b"\r") if after[0] == b"\n" else plain[0])
            at = after.end()
            if not after[1]:
                return cells, at


_QUOTED = re.compile(rb'"((?:[^"]++|"")*+)("?)')
_TWICE = re.compile(rb'"(")')
_ESCAPED = re.compile(rb'"((?:[^"\\]++|\\.|"")*+)("?)', re.DOTALL)
_TWICE_ESCAPED = re.compile(rb'["\\](["\\])')
