"""WebDataset: a tar whose neighbouring members with one name before the first dot are one sample.

Members are read in the order of the archive and never extracted. What belongs to a sample is its bytes from the
first header block to the end of its last member, and these are what is hashed and copied. Directories, global headers
and what macOS adds to a file (``._name``) hold no data: inside a sample they are part of it, elsewhere every output
gets them in their place. Any other
member that belongs to no sample (a README, a link without a sample's name) is a record that cannot be read, so that
no output loses it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats.conversation import MEDIA_FIELDS, PART_KINDS, Kind, read_conversation
from vlitqc.formats.endings import PICTURES, SOUNDS, VIDEOS
from vlitqc.formats.names import Names
from vlitqc.formats.streams import Content, Stream
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Severity, Unreadable

MAX_MEMBER_BYTES = 1 << 28
"""A larger member is not read: memory stays bounded whatever a header says."""

MAX_SAMPLE_BYTES = 1 << 29
MAX_TEXT_BYTES = 1 << 20
"""Up to this size, a member of an unknown kind is looked at as text."""

MAX_HEADER_BYTES = 1 << 18
MAX_HEADERS = 16
"""So many blocks may extend the header of one member; tar writes three at most."""

MAX_CANDIDATES = 10_000
"""So many places are tried for where the archive goes on after damage."""

MAX_SIZE = 1 << 42
"""No member is larger: a file system may refuse to look behind it."""

BLOCK = tarfile.BLOCKSIZE
STEP = 1 << 18

_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
_MAGIC_AT = 257
_MAGIC = b"ustar"
_KINDS: Mapping[Kind, frozenset[str]] = {"image": PICTURES, "video": VIDEOS, "audio": SOUNDS}
_CAPTIONS = frozenset(("txt", "text", "caption", "transcript"))
_REFERRING = frozenset((*(key for keys in MEDIA_FIELDS.values() for key in keys), *PART_KINDS))
_BELOW = frozenset(("url", "path"))
"""Keys that refer to a medium only directly below a part or a field that is one."""

_NUMBERS = re.compile(r"(\d+)")


class WebDataset:
    """A tar of samples, which may be packed with gzip or zstd.

    Raises FormatError where no member has a sample's name.
    """

    rank: ClassVar[int] = 12
    name = "webdataset"

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether it begins with a member's header."""
        return _is_header(head[:BLOCK])

    def __init__(self, path: Path, names: Names) -> None:
        self.path = path
        self.names = names
        self.layers = Content(path).layers
        with self._open() as stream:
            groups = _groups(stream, read=False)
            if not any(group.key or group.fault_kind == "malformed_record" for group in groups):
                raise FormatError(
                    f"{path} is a tar without samples: none of its members is a file with an extension; "
                    "unpack it and pass what is inside"
                )

    def _open(self) -> Stream:
        return Content(self.path).open()

    @property
    def files(self) -> tuple[Path, ...]:
        """The archive itself."""
        return (self.path,)

    @property
    def suffix(self) -> str:
        """The input's own ending, both parts of ``.tar.gz``; ``.tar`` where it has none."""
        endings = self.path.suffixes[-2:]
        return "".join(endings) if endings[:1] == [".tar"] else self.path.suffix or ".tar"

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every sample, each held in memory by itself; what lies between that is none, as unreadable."""
        seen: set[int] = set()
        with self._open() as stream:
            row = first_row
            for group in _groups(stream, read=True):
                if group.loose:
                    continue
                if group.key:
                    known = hash(group.key)
                    if known in seen:
                        told = f"the members of '{group.shown}' do not stand together; each part is read by itself"
                        group.notes.append(("split_sample", "warning", told))
                    seen.add(known)
                yield self._record(group, self._origin(group, row, row - first_row + 1))
                row += 1

    def record(self, origin: Origin) -> Record:
        """The sample at ``origin``, read again."""
        try:
            with self._open() as stream:
                stream.seek(origin.start)
                group = next(_groups(stream, read=True), None)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be read ({error.strerror}); put it back and try again"
            ) from error
        if group is None or self._origin(group, origin.row, origin.line) != origin:
            raise self._changed(origin)
        return self._record(group, origin)

    def share(self, origin: Origin) -> float | None:
        """By bytes, where the archive is not packed."""
        return None if self.layers else origin.end / max(1, self.path.stat().st_size)

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """Every sample's bytes, headers included, and the end of an archive.

        A sample that the input's end cuts in the middle stays cut: a target that ends with it gets no end mark.
        """
        content = Content(self.path)
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), self.files))
            tapes = {
                name: _Tape(stack.enter_context(content.create(draft))) for name, draft in drafts.items()
            }
            source = stack.enter_context(content.open())
            waiting = iter(places)
            place = next(waiting, None)
            for group in _groups(stack.enter_context(content.open()), read=False):
                if group.loose:
                    for tape in tapes.values():
                        tape.write(_bytes(source, group.start, group.end))
                elif place is not None and place[0].start == group.start:
                    self._copy(source, place[0], tapes[place[1]], cut=group.cut)
                    place = next(waiting, None)
            if place is not None:
                raise self._changed(place[0])
            for tape in tapes.values():
                tape.end()

    def _copy(self, source: BinaryIO, origin: Origin, tape: _Tape, *, cut: bool) -> None:
        digest = hashlib.sha256()
        for data in _bytes(source, origin.start, origin.end):
            digest.update(data)
            tape.write((data,))
        if digest.hexdigest() != origin.sha256:
            raise self._changed(origin)
        tape.cut = cut

    def _origin(self, group: _Group, row: int, line: int) -> Origin:
        return Origin(str(self.path), row, line, group.start, group.end, group.digest.hexdigest())

    def _changed(self, origin: Origin) -> InputError:
        return InputError(
            f"{self.path} no longer holds record {origin.row} at bytes {origin.start} to {origin.end}: "
            "the file has changed since it was read; score it again"
        )

    def _record(self, group: _Group, origin: Origin) -> Record:
        notes = list(group.notes)
        if not group.fault:
            try:
                record = read_conversation(_fields(group, notes), origin, self.names)
            except _Fault as fault:
                group.fault, group.fault_kind = str(fault), fault.kind
            except RecursionError:  # JSON's own parser goes deeper than Python does
                group.fault, group.fault_kind = (
                    f"'{group.shown}' is nested too deeply to be read",
                    "malformed_record",
                )
        if group.fault:
            severity: Severity = "warning" if group.fault_kind == "stray_member" else "error"
            issue = Issue.at(origin, group.fault_kind, severity, group.fault, group.shown)
            return Unreadable(origin, (issue,), group.shown)
        more = tuple(Issue.at(origin, kind, severity, told, record.id) for kind, severity, told in notes)
        return replace(record, issues=(*record.issues, *more)) if more else record


class _Tape:
    """One target."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self.cut = False

    def write(self, pieces: Iterable[bytes]) -> None:
        """Whole members, one after another."""
        for data in pieces:
            self._file.write(data)
            self._size += len(data)

    def end(self) -> None:
        """The end mark: two blocks of zeros, filled up to a whole record as tar does."""
        if not self.cut:
            padded = -(-self._size // BLOCK) * BLOCK + 2 * BLOCK
            whole = -(-padded // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
            self._file.write(bytes(whole - self._size))


# ---------------------------------------------------------------- bytes to members


class _Broken(Exception):
    """Why there is no header here."""


@dataclass(slots=True)
class _Entry:
    """A member, a global header, or damage: where it starts, where its content lies, and where it ends."""

    start: int
    data: int
    size: int
    end: int
    name: str = ""
    kind: str = "file"
    """``file``, ``loose`` (a directory, a global header, ``._name``), ``damage``, ``end`` (one without its mark), or
    else what it is, in words."""

    raw: bytes = b""
    fault: str = ""
    after_end: bool = False


@dataclass(slots=True)
class _Member:
    name: str
    ending: str
    at: int
    size: int
    kind: str
    data: bytes | None


@dataclass(slots=True)
class _Group:
    """Members of one sample, or a stretch that is none."""

    key: str
    start: int
    end: int
    digest: Any
    members: list[_Member] = field(default_factory=list)
    notes: list[tuple[str, Severity, str]] = field(default_factory=list)
    fault: str = ""
    fault_kind: str = ""
    loose: bool = False
    cut: bool = False

    @property
    def shown(self) -> str:
        """The key as text, whatever bytes it has."""
        return _shown(self.key)


def _groups(stream: Stream, *, read: bool) -> Iterator[_Group]:
    """Samples and what stands between them, from where the stream stands; ``read``: with content and hash."""
    group: _Group | None = None
    between: _Group | None = None  # what holds no data, after a sample that may go on
    for entry in _entries(stream):
        if entry.kind == "end":
            if group is not None:
                told = f"the archive ends at byte {group.end} without an end mark; it may have been cut there"
                group.notes.append(("archive_cut_short", "warning", told))
            break
        match = _KEY.fullmatch(entry.name) if entry.kind not in ("loose", "damage") else None
        key = match[1] if match else ""
        if entry.kind == "loose" and not entry.after_end:
            after = between or group
            digest = after.digest.copy() if after else hashlib.sha256()
            between = between or _Group("", entry.start, entry.end, digest, loose=True)
            _take(stream, entry, between, read=read)
            continue
        if group is not None and group.key and key == group.key and not entry.after_end:
            if between is not None:
                group.digest, between = between.digest, None
        else:
            yield from (held for held in (group, between) if held is not None)
            between = None
            group = _Group(key, entry.start, entry.end, hashlib.sha256(), loose=entry.kind == "loose")
            if entry.after_end:
                told = f"what stands from byte {entry.start} on comes after the archive's end mark"
                group.notes.append(("after_end_of_archive", "warning", told))
        content = _take(stream, entry, group, read=read)
        if entry.kind == "damage":
            group.fault, group.fault_kind = entry.fault, "malformed_record"
            group.cut = _at_end(stream, entry.end)
        elif match:
            group.members.append(
                _Member(entry.name, match[2].lower(), entry.start, entry.size, entry.kind, content)
            )
        elif not group.loose:
            what = "a file without an extension" if entry.kind == "file" else entry.kind
            group.fault = f"'{_shown(entry.name)}' at byte {entry.start} is {what} and belongs to no sample"
            group.fault_kind = "stray_member"
        if group.end < entry.end - (-entry.size % BLOCK):
            group.cut, group.fault_kind = True, "malformed_record"
            group.fault = (
                f"the archive ends at byte {group.end}, in the middle of '{_shown(entry.name)}', which starts at byte "
                f"{entry.start} and holds {entry.size} bytes{_because(stream)}"
            )
        if group.cut:
            break
    yield from (held for held in (group, between) if held is not None)


def _take(stream: Stream, entry: _Entry, group: _Group, *, read: bool) -> bytes | None:
    """Move over an entry, into the group; its content, if that is to be read and is not too large."""
    if not read:
        group.end = entry.end
        if entry.end > entry.data and _at_end(stream, entry.end - 1):
            stream.seek(entry.data)
            group.end = entry.data + _skip(stream, entry.end - entry.data)
        return None
    group.digest.update(entry.raw)
    held = sum(len(member.data or b"") for member in group.members)
    wanted = entry.kind == "file" and entry.size <= min(MAX_MEMBER_BYTES, MAX_SAMPLE_BYTES - held)
    pieces = []
    stream.seek(entry.data)
    at = entry.data
    while at < entry.end and (data := stream.read(min(STEP, entry.end - at))):
        group.digest.update(data)
        if wanted:
            pieces.append(data)
        at += len(data)
    group.end = at
    return b"".join(pieces)[: entry.size] if wanted else None


def _skip(stream: Stream, n: int) -> int:
    done = 0
    while done < n and (data := stream.read(min(STEP, n - done))):
        done += len(data)
    return done


def _at_end(stream: Stream, at: int) -> bool:
    """Whether nothing stands at byte ``at``."""
    stream.seek(at)
    return not stream.read(1)


def _because(stream: Stream) -> str:
    return f": {stream.fault}" if stream.fault else ""


def _bytes(stream: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    stream.seek(start)
    while start < end and (data := stream.read(min(STEP, end - start))):
        yield data
        start += len(data)


def _entries(stream: Stream) -> Iterator[_Entry]:
    """Members in order, from where the stream stands, and what is none, to the end of the file."""
    at = known = stream.tell()
    after_end = False
    tries = MAX_CANDIDATES
    while True:
        if stream.tell() != at:
            stream.seek(at)
        block = stream.read(BLOCK)
        if block and not block.strip(b"\0"):
            at = _after_zeros(stream, at)
            after_end = True
            continue
        if not block:
            if not after_end:
                stream.seek(known)
                at = known + _skip(stream, at - known)  # the last member may be cut
                told = f"the archive ends at byte {at}{_because(stream)}"
                yield _Entry(at, at, 0, at, kind="damage" if stream.fault else "end", fault=told)
            return
        try:
            entry = _entry(stream, at, block)
        except _Broken as broken:
            end, tries = _resume(stream, at + 1, tries)
            told = f"bytes {at} to {end} are no member of the archive: {broken}{_because(stream)}"
            entry = _Entry(at, at, end - at, end, kind="damage", fault=told)
        entry.after_end = after_end
        after_end = False
        yield entry
        at, known = entry.end, entry.data


def _after_zeros(stream: Stream, at: int) -> int:
    """Where the zeros that begin at ``at`` end, by whole blocks."""
    stream.seek(at)
    while data := stream.read(STEP):
        if rest := data.lstrip(b"\0"):
            return at + (len(data) - len(rest)) // BLOCK * BLOCK
        at += len(data)
    return at


def _is_header(block: bytes) -> bool:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size >= 0
    except tarfile.HeaderError:
        return False


def _resume(stream: Stream, at: int, tries: int) -> tuple[int, int]:
    """Where the next header begins, from ``at`` on, else the end of the file; and how many tries are left."""
    stream.seek(at)
    window = b""
    while data := stream.read(STEP):
        window += data
        found = -1
        while tries and (found := window.find(_MAGIC, found + 1)) >= 0:
            begin = found - _MAGIC_AT
            if begin + BLOCK > len(window):
                window += stream.read(BLOCK)
            if begin >= 0:
                tries -= 1
                if _is_header(window[begin : begin + BLOCK]):
                    return at + begin, tries
        done = max(0, len(window) - BLOCK)
        window = window[done:]
        at += done
    return at + len(window), tries


def _entry(stream: Stream, start: int, block: bytes) -> _Entry:
    """The member whose first header block is ``block``, with all blocks that extend it."""
    raw = [block]
    size = start + len(block)
    name: str | None = None
    pax: dict[bytes, bytes] = {}
    for _ in range(MAX_HEADERS):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise _Broken(_WORDS.get(str(error), str(error))) from error
        if not 0 <= info.size <= MAX_SIZE:
            raise _Broken(f"the header tells a size of {info.size} bytes")
        if info.type not in _EXTENDING:
            break
        if info.size + size - start > MAX_HEADER_BYTES:
            raise _Broken(f"a header of {info.size} bytes, over the limit of {MAX_HEADER_BYTES}")
        body = stream.read(-(-info.size // BLOCK) * BLOCK)
        raw.append(body)
        size += len(body)
        if len(body) < info.size:
            raise _Broken(f"the archive ends at byte {size}, in the middle of a header")
        if info.type == tarfile.XGLTYPE:
            return _Entry(start, size, 0, size, kind="loose", raw=b"".join(raw))
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = body[: info.size].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            pax |= _pax(body[: info.size])
        block = stream.read(BLOCK)
        raw.append(block)
        size += len(block)
    else:
        raise _Broken(f"more than {MAX_HEADERS} headers extend one another")
    if b"path" in pax:
        name = pax[b"path"].decode("utf-8", "surrogateescape")
    if name is None:
        name = info.name
    if pax.get(b"size", b"").isdigit():
        info.size = min(int(pax[b"size"][:20]), MAX_SIZE)
    kind = _SPECIAL.get(info.type, "file")
    if info.type == tarfile.GNUTYPE_SPARSE:
        more = block[482]
        while more:
            block = stream.read(BLOCK)
            raw.append(block)
            size += len(block)
            if len(block) < BLOCK or size - start > MAX_HEADER_BYTES:
                raise _Broken("the map of a sparse file that does not end")
            more = block[504]
    elif any(key.startswith(b"GNU.sparse.") for key in pax):
        kind = _SPARSE
        name = pax.get(b"GNU.sparse.name", name.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )
    length = info.size if kind in ("file", _SPARSE) else 0
    if name.rpartition("/")[2].startswith("._"):
        kind = "loose"
    return _Entry(start, size, length, size + -(-length // BLOCK) * BLOCK, name, kind, b"".join(raw))


def _pax(body: bytes) -> dict[bytes, bytes]:
    """The entries of an extended header: ``length key=value`` and a newline, each."""
    found = {}
    at = 0
    size = len(body.rstrip(b"\0"))
    while at < size:
        space = body.find(b" ", at, at + 21)
        digits = body[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if end <= space or not at < end <= len(body):
            raise _Broken("an extended header that cannot be read")
        key, _, value = body[space + 1 : end - 1].partition(b"=")
        found[key] = value
        at = end
    return found


_EXTENDING = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
)  # fmt: skip
_SPARSE = "a sparse file"
_SPECIAL = {
    tarfile.DIRTYPE: "loose",
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: _SPARSE,
}
_WORDS = {
    "truncated header": "the archive ends in the middle of a header",
    "empty header": "a header is missing",
    "bad checksum": "the checksum of the header is wrong",
    "invalid header": "the header holds a number that is none",
}


# ---------------------------------------------------------------- members to fields


class _Fault(Exception):
    """Why a sample cannot be read."""

    def __init__(self, member: _Member, why: str, kind: str = "malformed_record") -> None:
        super().__init__(f"'{_shown(member.name)}' at byte {member.at} {why}")
        self.kind = kind


def _fields(group: _Group, notes: list[tuple[str, Severity, str]]) -> dict[str, Any]:
    """What a JSON record of this sample would hold, pictures as ``{"bytes", "path"}``."""
    fields: dict[str, Any] = {}
    captions: list[str] = []
    others: dict[str, str] = {}
    media: dict[Kind, list[tuple[_Member, dict[str, Any]]]] = {kind: [] for kind in _KINDS}
    members: dict[str, _Member] = {}
    for member in group.members:
        if member.name in members:
            told = f"'{_shown(member.name)}' stands twice in the sample; the later one, at byte {member.at}, is read"
            notes.append(("duplicate_member", "warning", told))
        members[member.name] = member
    for member in members.values():
        if member.kind != "file":
            told = f"'{_shown(member.name)}' at byte {member.at} is {member.kind}, which is not read"
            notes.append(("unread_member", "warning", told))
            continue
        data, ending = _content(member)
        last = ending.rpartition(".")[2]
        kind = next((kind for kind, endings in _KINDS.items() if last in endings), None)
        if kind is not None:
            if data:
                media[kind].append((member, {"bytes": data, "path": _shown(member.name)}))
            else:
                told = f"'{_shown(member.name)}' at byte {member.at} is empty"
                notes.append((f"unreadable_{kind}", "error", told))
        elif last == "json":
            value = _json(member, data)
            if isinstance(value, dict) and ending == "json":
                fields |= value
            else:
                fields[ending.removesuffix(".json")] = value
        elif ending in _CAPTIONS:
            captions.append(_text(member, data))
        else:
            others[ending] = _excerpt(data)
    for ending, text in others.items():
        fields.setdefault(ending, text)
    for text in captions:
        if fields.get("caption") in (None, ""):
            fields["caption"] = text
        elif fields["caption"] != text:
            fields.setdefault("txt", text)
    for kind, found in media.items():
        _place(kind, sorted(found, key=lambda item: _order(item[0].ending)), fields)
    fields.setdefault("id", group.shown)
    return fields


def _place(kind: Kind, found: Sequence[tuple[_Member, dict[str, Any]]], fields: dict[str, Any]) -> None:
    """Put media where the JSON names them; where it names none of them, into the field of their kind."""
    if not found:
        return
    named: dict[str, dict[str, Any]] = {}
    for member, medium in found:
        for name in (member.ending, Path(member.name).name, member.name):
            named[name] = medium
    if _refer(fields, named):
        # The picture itself goes before another address of it.
        keys = MEDIA_FIELDS[kind]
        embedded = next((at for at, key in enumerate(keys) if _is_embedded(fields.get(key))), 0)
        for key in keys[:embedded]:
            fields.pop(key, None)
        return
    if len(found) == 1:
        fields[kind] = found[0][1]
    else:
        fields.pop(kind, None)
        fields[f"{kind}s"] = [medium for _, medium in found]


def _is_embedded(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(held, dict) and isinstance(held.get("bytes"), bytes) for held in values)


def _refer(value: Any, named: Mapping[str, dict[str, Any]], *, below: bool = False) -> bool:
    """Replace names of media by the media, below every key that refers to one. Whether there was any.

    ``below``: the value stands directly below such a key.
    """
    placed = False
    if isinstance(value, list):
        for held in value:
            placed |= _refer(held, named, below=below)
    elif isinstance(value, dict):
        kind = value.get("type")
        is_part = below or (isinstance(kind, str) and kind in PART_KINDS)
        for key, held in value.items():
            if key not in _REFERRING and not (is_part and key in _BELOW):
                placed |= _refer(held, named)
            elif isinstance(held, str) and (name := _named(held, named)):
                value[key] = named[name]
                placed = True
            elif isinstance(held, list) and any(isinstance(one, str) for one in held):
                names = [_named(one, named) if isinstance(one, str) else "" for one in held]
                value[key] = [named[name] if name else one for one, name in zip(held, names, strict=True)]
                placed |= any(names)
            else:
                placed |= _refer(held, named, below=True)
    return placed


def _named(text: str, named: Mapping[str, Any]) -> str:
    """The name among ``named`` that a path stands for: itself, or its last part."""
    return next((name for name in (text, text.rpartition("/")[2]) if name in named), "")


def _content(member: _Member) -> tuple[bytes, str]:
    """A member's bytes, unpacked, and its ending without that of the packing."""
    if member.data is None:
        limit = MAX_MEMBER_BYTES if member.size > MAX_MEMBER_BYTES else MAX_SAMPLE_BYTES
        whose = "a member" if member.size > MAX_MEMBER_BYTES else "a sample"
        why = f"holds {member.size} bytes, over the limit of {limit} for {whose}; it is not read"
        raise _Fault(member, why, "member_too_large")
    if not member.ending.endswith(".gz"):
        return member.data, member.ending
    unpacking = zlib.decompressobj(wbits=31)
    try:
        data = unpacking.decompress(member.data, MAX_MEMBER_BYTES)
    except zlib.error as error:
        raise _Fault(member, f"holds damaged gzip data ({error})") from error
    if unpacking.unconsumed_tail:
        raise _Fault(
            member, f"unpacks to more than the limit of {MAX_MEMBER_BYTES} bytes", "member_too_large"
        )
    if not unpacking.eof:
        raise _Fault(member, "holds gzip data that is cut short")
    return data, member.ending.removesuffix(".gz")


def _json(member: _Member, data: bytes) -> Any:
    try:
        return json.loads(_text(member, data))
    except json.JSONDecodeError as error:
        raise _Fault(member, f"is not valid JSON: {error}") from error
    except ValueError as error:  # a number of too many digits
        raise _Fault(member, f"is not valid JSON: {error}") from error
    except RecursionError as error:
        raise _Fault(member, "is nested too deeply to be read") from error


def _text(member: _Member, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Fault(
            member, f"is not valid UTF-8: byte {data[error.start]:#04x} at byte {error.start} of it"
        ) from error


def _excerpt(data: bytes) -> str:
    """What is text, as text; of anything else, how much it is."""
    if len(data) <= MAX_TEXT_BYTES and b"\0" not in data:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return f"{len(data)} bytes"


def _order(ending: str) -> list[tuple[int, str]]:
    """Names by their numbers: ``2.jpg`` before ``10.jpg``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in _NUMBERS.split(ending)]


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
