"""One JSON object with the records under one of its keys, read and written as a stream."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError
from vlitqc.formats.conversation import ID_KEYS, MEDIA_FIELDS, MESSAGE_KEYS, read_conversation
from vlitqc.formats.json_records import CHUNK, MAX_RECORD_BYTES, JsonRecords, Piece, Values, parse
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content, Stream
from vlitqc.formats.writing import wholes
from vlitqc.types import Origin, Sample

LOOK_BYTES = 1 << 20
"""An object up to this size is looked at whole: it may be a lone record."""

LOOK_ELEMENT_BYTES = 1 << 24
PROBED = 8
"""Elements of each key that are tried as conversations."""

_KEY_BYTES = 1 << 16
_COLON = b": \t\r\n\v\f"
_KEY = re.compile(rb'"[^"\\\n]{0,%d}+(?:\\.[^"\\\n]*+)*+"\s*+:\s*+' % _KEY_BYTES, re.DOTALL)


@dataclass(slots=True)
class Member:
    """A key whose value is a list, or an object (``named``), and where its elements stand: from behind its opening
    bracket up to its closing one, which is absent where the file is cut short.
    """

    key: str
    named: bool
    begin: int
    line: int
    finish: int = 0
    whole: bool = False


class Document(Values):
    """The members of one object, and the elements of those that are lists or objects."""

    nested = True

    def members(self) -> Iterator[Member]:
        """Every key with a list or an object, in order. ``elements`` of it may be read before the next is asked for.

        ``closed`` tells at the end whether the object came to its end, and ``alone`` whether the file did as well.
        """
        self.closed = self.alone = False
        self.gap(0)
        self.gap(self.keep + 1)
        while self.keep < len(self.buffer):
            if self.buffer[self.keep] == ord("}"):
                self.gap(self.keep + 1)
                self.closed, self.alone = True, self.keep == len(self.buffer)
                return
            key = self._key()
            if not key:
                return
            bracket = self.buffer[self.keep : self.keep + 1]
            if bracket not in (b"{", b"["):
                end = self.end(self.keep)
                if end is None:
                    return
                self.gap(end)
                continue
            self.gap(self.keep + 1)
            name = parse(key.rstrip(_COLON))[0]
            member = Member(str(name), bracket == b"{", self.base + self.keep, self.line)
            self._inside = True
            yield member
            if self._inside:
                for _ in self.elements(member):
                    pass
            if not member.whole:
                return

    def elements(self, member: Member) -> Iterator[Piece]:
        """The elements from here on, those of an object each with its key: ``"id": {…}``."""
        self._inside = False
        yield from self._named() if member.named else self._values(self.keep, closing=True)
        closing = b"}" if member.named else b"]"
        member.whole = not self.broken and self.buffer[self.keep : self.keep + 1] == closing
        member.finish = self.base + self.keep if member.whole else self.file.tell()
        if member.whole:
            self.gap(self.keep + 1)

    def entries(self) -> Iterator[Piece]:
        """The members of the object that the file is, each with its key."""
        self.gap(0)
        self.gap(self.keep + 1)
        yield from self._named()

    def _named(self) -> Iterator[Piece]:
        self.gap(self.keep)
        while self.keep < len(self.buffer) and self.buffer[self.keep] != ord("}"):
            start, line = self.base + self.keep, self.line
            key = self._key()
            end = self.end(self.keep) if key and self.keep < len(self.buffer) else None
            if end is None:
                fault = (
                    f"the record that starts in line {line} is never closed (cut short, or a bracket lost)"
                )
                rest = self.rest(fault)
                yield Piece(start, rest.end, line, None if rest.raw is None else key + rest.raw, rest.fault)
                return
            yield Piece(start, self.base + end, line, key + self.buffer[self.keep : end])
            self.gap(end)

    def _key(self) -> bytes:
        """The key that stands here, with its colon and the blanks around it, and on to its value; else nothing."""
        while True:
            match = _KEY.match(self.buffer, self.keep)
            if match is not None and match.end() < len(self.buffer):
                self.move(match.end())
                return match[0]
            if len(self.buffer) - self.keep > _KEY_BYTES or not self.more():
                return b""


class JsonDocument(JsonRecords):
    """One JSON object that holds records, in a list or by their ids, and other things beside them.

    Read are the keys whose first elements are conversations. A record of an object has its key for an id. Where a
    record has an ``image_id``, its picture is the ``file_name`` that the document's ``images`` give that id, as in
    COCO's captions, or without such a list the id with ``.jpg``, as in MiniGPT-4's.

    Raises FormatError where no key holds conversations.
    """

    name = "json_document"
    rank: ClassVar[int] = 50

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether the file is one object that is no record itself, and holds objects in a list or by their ids."""
        if not _opens_object(head):
            return False
        content = Content(path)
        with content.open() as file:
            values = Values(file, LOOK_BYTES).in_stream()
            first, second = next(values, None), next(values, None)
            value = parse(first.raw or b"")[0] if first is not None and not first.fault else None
            if value is not None or (first is not None and not first.fault and second is not None):
                return second is None and isinstance(value, dict) and _is_document(value)
            file.seek(content.start)
            document = Document(file, LOOK_ELEMENT_BYTES)
            holds = False
            for member in document.members():
                if member.key in MESSAGE_KEYS:
                    return False
                for n, piece in enumerate(document.elements(member)):
                    value = entry(piece.raw or b"")[1] if n < PROBED else None
                    if _readable(value):
                        return True
                    holds = holds or isinstance(value, dict)
            return holds and document.alone

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        self._pictures: dict[str, str] = {}
        self._members: list[Member] = []
        keys: list[str] = []
        sizes: dict[str, int] = {}
        with self.content.open() as file:
            document = Document(file, MAX_RECORD_BYTES)
            for member in document.members():
                keys.append(member.key)
                readable, value = False, None
                for n, piece in enumerate(document.elements(member)):
                    if n < PROBED or member.key == "images":
                        value = self.parse(piece.raw or b"")[0]
                        readable = readable or (n < PROBED and _readable(value, names))
                        self._note_picture(value)
                    if isinstance(value, dict):
                        sizes[member.key] = n + 1
                if readable:
                    self._members.append(member)
        if not self._members:
            told = (
                f"{path} is one JSON object that holds {', '.join(f'{n} {key}' for key, n in sizes.items())}"
            )
            longest = max(sizes, key=lambda key: sizes[key], default="")
            raise FormatError(
                f"{told}; no conversation is found in the first of any; if the '{longest}' are records, say what "
                "their fields are called, such as --map instruction=THEIRS --map response=THEIRS; else pass the "
                "file that holds the records"
            )

    def _note_picture(self, value: Any) -> None:
        if isinstance(value, dict) and isinstance(value.get("file_name"), str) and "id" in value:
            self._pictures[str(value["id"])] = value["file_name"]

    def pieces(self, file: Stream) -> Iterator[Piece]:
        """The elements of every key that holds records."""
        for member in self._members:
            file.seek(member.begin)
            yield from Document(file, MAX_RECORD_BYTES, member.line).elements(replace(member))

    def parse(self, raw: bytes, line: int = 1) -> tuple[Any, str]:
        """The value of an element; one that has its id before it gets it as its id."""
        key, value, fault = entry(raw, line)
        if key is not None and isinstance(value, dict) and not any(name in value for name in ID_KEYS):
            value = {"id": key, **value}
        return value, fault

    def fields(self, value: Any) -> dict[str, Any]:
        """The record with its picture."""
        return _with_picture(super().fields(value), self._pictures)

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """The same document with fewer records; everything beside them is copied byte for byte."""
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            files = {name: stack.enter_context(self.content.create(draft)) for name, draft in drafts.items()}
            source = stack.enter_context(self.content.open())
            members = iter(self._members)
            member = next(members)
            _copy(source, source.tell(), member.begin, files.values())
            begun: set[str] = set()
            for origin, name in places:
                while member.finish < origin.end and (later := next(members, None)) is not None:
                    _copy(source, member.finish, later.begin, files.values())
                    member, begun = later, set()
                raw = self._raw(source, origin)
                files[name].write(b",\n" + raw if name in begun else raw)
                begun.add(name)
            for later in members:
                _copy(source, member.finish, later.begin, files.values())
                member = later
            _copy(source, member.finish, None, files.values())
            if not member.whole:  # a list cut short is closed
                for file in files.values():
                    file.write(b"}}" if member.named else b"]}")


def _opens_object(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _is_document(value: dict[str, Any]) -> bool:
    inner = (held.values() if isinstance(held, dict) else held for held in value.values())
    holds = any(isinstance(held, Collection) and isinstance(next(iter(held), None), dict) for held in inner)
    return holds and not _readable(value)


def entry(raw: bytes, line: int = 1) -> tuple[str | None, Any, str]:
    """The key of an element, where it has one, its value, and what is wrong with it."""
    key = _KEY.match(raw)
    if key is None:
        return None, *parse(raw, line)
    name = parse(key[0].rstrip(_COLON))[0]
    return str(name), *parse(raw[key.end() :], line + key[0].count(b"\n"))


def _readable(value: Any, names: Names | None = None) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        record = read_conversation(_with_picture(value, {}), Origin("", 0, 1, 0, 0, ""), names)
    except RecursionError:  # pictures within pictures
        return False
    return isinstance(record, Sample)


def _with_picture(fields: dict[str, Any], pictures: Mapping[str, str]) -> dict[str, Any]:
    id = fields.get("image_id")
    if not isinstance(id, str | int) or any(fields.get(key) for key in MEDIA_FIELDS["image"]):
        return fields
    named = pictures or Path(str(id)).suffix
    return {**fields, "file_name": pictures.get(str(id), str(id) if named else f"{id}.jpg")}


def _copy(source: BinaryIO, start: int, end: int | None, targets: Iterable[BinaryIO]) -> None:
    left = (float("inf") if end is None else end) - source.seek(start)
    while left > 0 and (data := source.read(int(min(CHUNK, left)))):
        left -= len(data)
        for target in targets:
            target.write(data)
