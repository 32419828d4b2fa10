"""One JSON object with the records under one of its keys, read and written as a stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import NoConversation
from vlitqc.formats.conversation import ID_KEYS, KEYS, MEDIA_FIELDS, MESSAGE_KEYS, read_conversation
from vlitqc.formats.json_records import CHUNK, MAX_RECORD_BYTES, JsonRecords, Piece, Values, parse
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content, Stream
from vlitqc.formats.writing import wholes
from vlitqc.types import Origin, Sample

LOOK_ELEMENT_BYTES = 1 << 24
PROBED = 8
"""Elements of each key that are tried as conversations."""

PROBED_KEYS = 64
"""Keys that are looked at to tell whether the object is itself a record, or holds one under each key."""

SPLITS = frozenset(("train", "training", "dev", "eval", "val", "valid", "validation", "test", "testing"))
"""Keys whose objects are records wherever another key has some."""

_TOLD = frozenset(key for keys in KEYS.values() for key in keys).difference(ID_KEYS, *MEDIA_FIELDS.values())
_KEY_BYTES = 1 << 16
_NAMED = 5
_COLON = b": \t\r\n\v\f"
_KEY = re.compile(rb'"[^"\\\n]{0,%d}+(?:\\.[^"\\\n]*+)*+"\s*+:\s*+' % _KEY_BYTES, re.DOTALL)


@dataclass(slots=True)
class Member:
    """A key whose value is a list, or an object (``named``), and where its elements stand: from behind its opening
    bracket up to its closing one, which is absent where the file is cut short.

    ``depth``: how many objects it stands in. ``loose``: it has no brackets but ends with the file.
    """

    key: str
    named: bool
    begin: int
    line: int
    finish: int = 0
    whole: bool = False
    depth: int = 1
    loose: bool = False


class Document(Values):
    """The members of one object, and the elements of those that are lists or objects."""

    nested = True

    def members(self) -> Iterator[Member]:
        """Every key with a list or an object, in order. ``elements`` of it may be read before the next is asked for.

        At the end ``plain`` has the other keys, shortened, and ``itself`` the object as a member of nothing, which
        is not ``whole`` where it is cut or broken. ``rest`` of the file is what is not told of by then.
        """
        self.plain: dict[str, Any] = {}
        self.gap(0)
        self.gap(self.keep + 1)
        self.itself = Member("", True, self.base + self.keep, self.line, depth=0)
        while self.keep < len(self.buffer):
            if self.buffer[self.keep] == ord("}"):
                self.itself.finish, self.itself.whole = self.base + self.keep, True
                self.gap(self.keep + 1)
                return
            key = self._key()
            if not key:
                break
            name = str(parse(key.rstrip(_COLON))[0])
            bracket = self.buffer[self.keep : self.keep + 1]
            if bracket not in (b"{", b"["):
                end = self.end(self.keep)
                if end is None:
                    break
                if len(self.plain) < PROBED_KEYS:
                    self.plain[name] = _short(parse(self.buffer[self.keep : end])[0], end - self.keep)
                self.gap(end)
                continue
            self.gap(self.keep + 1)
            member = Member(name, bracket == b"{", self.base + self.keep, self.line)
            self._inside = True
            yield member
            if self._inside:
                for _ in self.elements(member):
                    pass
            if not member.whole:
                break
        self.itself.finish = self.file.seek(0, SEEK_END)

    def left(self) -> Member | None:
        """What stands behind the object, or in it from where it is broken: values up to the end of the file."""
        if self.keep == len(self.buffer):
            return None
        end = self.file.seek(0, SEEK_END)
        return Member("", False, self.base + self.keep, self.line, end, whole=True, loose=True)

    def following(self) -> Any:
        """The value that ``left`` begins with, where it is an object that can be read."""
        end = self.end(self.keep) if self.buffer[self.keep : self.keep + 1] == b"{" else None
        return None if end is None else parse(self.buffer[self.keep : end])[0]

    def elements(self, member: Member) -> Iterator[Piece]:
        """The elements from here on, those of an object each with its key: ``"id": {…}``."""
        if member.loose:
            yield from self.in_stream()
            return
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


@dataclass(slots=True)
class _Survey:
    """What a document holds: the members with records, and the beginning of everything, shortened."""

    document: Document
    members: list[Member] = field(default_factory=list)
    outline: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """How many objects there are under a key."""

    def walk(self, names: Names | None = None) -> Iterator[tuple[str | None, Any]]:
        """Read the document: of each key the elements up to a conversation, at least the first ones, and all under
        ``images``; with the keys they have.

        Members are those with a conversation, and with them those of objects that have a field that tells one, as
        a record has it, or that are called as a split is. ``images`` are a table, unless they begin with one.
        """
        told = _TOLD.union(names.fields.values() if names else ())
        found = set[str]()
        doubtful = list[tuple[Member, set[str]]]()
        for member in self.document.members():
            readable, held, fields = False, dict[str, Any](), set[str]()
            table = member.key == "images"
            early = len(self.outline) < PROBED_KEYS
            for n, piece in enumerate(self.document.elements(member)):
                if readable and n >= (PROBED_KEYS if member.named else PROBED) and not table:
                    continue
                if not early and not (piece.raw or b"").endswith(
                    b"}"
                ):  # of a million keys, only objects are parsed
                    continue
                key, value, _ = entry(piece.raw or b"")
                yield key, value
                if isinstance(value, dict):
                    fields |= told & value.keys()
                    if not readable and (n < PROBED or not table):
                        readable = _readable(value, names)
                if n < PROBED_KEYS:
                    held[str(n) if key is None else key] = _short(value, piece.end - piece.start)
                if isinstance(value, dict):
                    self.sizes[member.key] = n + 1
            if early:
                self.outline[member.key] = held if member.named else [*held.values()]
            if readable:
                self.members.append(member)
                found |= fields
            elif early and not table and member.key in self.sizes:
                doubtful.append((member, fields))
        if self.members:
            self.members += [m for m, fields in doubtful if fields & found or m.key in SPLITS]
            self.members.sort(key=lambda member: member.begin)
        self.outline |= self.document.plain

    def is_by_id(self, names: Names | None = None) -> bool:
        """Whether the object has a record under each key: only objects, of which most are conversations."""
        held = self.outline.values()
        return all(isinstance(v, dict) for v in held) and 2 * sum(_readable(v, names) for v in held) > len(
            held
        )

    def is_document(self) -> bool:
        """Whether the object is no record itself and holds some, or objects at least, and no other follows it; but
        records may follow records.

        Where it is cut or broken it must hold a record, and no key that records have.
        """
        if not self.document.itself.whole:
            found = bool(self.members) or self.is_by_id()
            return found and self.outline.keys().isdisjoint(MESSAGE_KEYS)
        following = self.document.following()
        if following is not None and not (self.members and _readable(following)):
            return False
        if _readable(self.outline):
            return False
        held = self.outline.values()
        inner = [v.values() if isinstance(v, dict) else v for v in held if isinstance(v, dict | list)]
        holds = any(isinstance(value, dict) for values in inner for value in values)
        named = len(held) > 1 and all(isinstance(value, dict) for value in held)
        return holds or named or bool(self.members) or self.is_by_id()


class JsonDocument(JsonRecords):
    """One JSON object that holds records, in a list or by their ids, and other things beside them.

    Read are the keys that hold a conversation and those like them, or every key where the object itself holds the
    records by their ids; the others are carried over whole. A record of an object has its key for an id. Where a
    record has an ``image_id``, its picture is the ``file_name`` that the document's ``images`` give that id, as in
    COCO's captions, or without such a list the id with ``.jpg``, as in MiniGPT-4's. An object that is a record in
    the terms of ``names`` is read as one. What follows the object, or cannot be told where it is broken, is read as
    records that are mostly unreadable.

    Raises NoConversation where no key holds conversations.
    """

    name = "json_document"
    rank: ClassVar[int] = 50

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether the file is one object that is no record itself, and holds objects in a list or by their ids."""
        if not head.lstrip().startswith(b"{"):
            return False
        with Content(path).open() as file:
            survey = _Survey(Document(file, LOOK_ELEMENT_BYTES))
            for _ in survey.walk():
                pass
            return survey.is_document()

    def __init__(self, path: Path, names: Names) -> None:
        super().__init__(path, names)
        self._pictures: dict[str, str] = {}
        with self.content.open() as file:
            document = Document(file, MAX_RECORD_BYTES)
            survey = _Survey(document)
            for key, value in survey.walk(names):
                self._note_picture(key, value)
            self._members = survey.members
            if names.fields and document.itself.whole and _readable(survey.outline, names):
                end = file.seek(0, SEEK_END)
                self._members = [Member("", False, self.content.start, 1, end, whole=True, loose=True)]
            elif survey.is_by_id(names):
                self._members = [document.itself]
            self._open = not document.itself.whole
            if self._members and self._members[-1].whole and not self._members[-1].loose:
                self._members += filter(None, [document.left()])
        if not self._members:
            sizes = survey.sizes
            keys = [f"'{key}'" for key in survey.outline]
            more = f" and {len(keys) - _NAMED} keys more" if len(keys) > _NAMED else ""
            held = ", ".join(f"{n} {key}" for key, n in sizes.items()) or ", ".join(keys[:_NAMED]) + more
            cure = (
                f"if the '{max(sizes, key=lambda key: sizes[key])}' are records, say what their fields are called"
                if sizes
                else "if records stand deeper, bring them into one list; if its values are records, name their fields"
            )
            raise NoConversation(
                f"{path} is one JSON object that holds {held}; no conversation is found in any; {cure}, such as "
                "--map instruction=THEIRS --map response=THEIRS; else pass the file that holds the records"
            )

    def _note_picture(self, key: str | None, value: Any) -> None:
        if isinstance(value, dict) and isinstance(value.get("file_name"), str):
            id = value.get("id", key)
            if id is not None:
                self._pictures[str(id)] = value["file_name"]

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
        """The same document with fewer records; everything beside them is copied byte for byte.

        Where it is broken behind a list, the objects that follow are put into that list, and the rest behind the
        document, which is closed.
        """
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            files = {name: stack.enter_context(self.content.create(draft)) for name, draft in drafts.items()}
            source = stack.enter_context(self.content.open())
            loose = self._members[-1] if self._open and self._members[-1].loose else None
            members = iter(self._members[:-1] if loose else self._members)
            member = next(members)
            _copy(source, source.tell(), member.begin, files.values())
            begun: set[str] = set()
            behind: list[tuple[Origin, str]] = []
            for origin, name in places:
                while member.finish < origin.end and (later := next(members, None)) is not None:
                    _copy(source, member.finish, later.begin, files.values())
                    member, begun = later, set()
                raw = self._raw(source, origin)
                if origin.start >= member.finish and (
                    member.named or not isinstance(self.parse(raw)[0], dict)
                ):
                    behind.append((origin, name))
                    continue
                between = b"\n" if member.loose else b",\n"
                files[name].write(between + raw if name in begun else raw)
                begun.add(name)
            for later in members:
                _copy(source, member.finish, later.begin, files.values())
                member = later
            if loose is None:
                _copy(source, member.finish, None, files.values())
            else:
                source.seek(max(member.finish, loose.begin - CHUNK))
                last = source.read(loose.begin - source.tell()).rstrip(b" \t\r\n\v\f,\xef\xbb\xbf")
                _copy(source, member.finish, max(member.finish, loose.begin - CHUNK), files.values())
                for file in files.values():
                    file.write(last + (b"null}" if last.endswith(b":") else b"}"))
                for origin, name in behind:
                    files[name].write(b"\n" + self._raw(source, origin))
            if not member.whole:  # a list cut short is closed
                for file in files.values():
                    file.write((b"}" if member.named else b"]") + b"}" * member.depth)


def _short(value: Any, size: int) -> Any:
    """The value, or one of its kind where it takes so many bytes."""
    return value if size <= _KEY_BYTES else "x" if isinstance(value, str) else type(value)()


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
    return isinstance(read_conversation(_with_picture(value, {}), Origin("", 0, 1, 0, 0, ""), names), Sample)


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
