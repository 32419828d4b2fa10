"""Several files read as one input: a folder, a glob pattern, or paths one after another."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import InputError, NoConversation, UsageError
from vlitqc.formats import HEAD_BYTES, Reader, open_path, shown
from vlitqc.formats.conversation import read_media
from vlitqc.formats.names import Names
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Media, Origin, Record, Sample, Unreadable

DATA_ENDINGS = frozenset(
    (
        ".json", ".jsonl", ".ndjson", ".jsonlines", ".parquet", ".arrow", ".feather", ".tar", ".tgz", ".csv", ".tsv",
    )
)  # fmt: skip
PACKINGS = (".gz", ".zst")

WHOLE_FILE = 0
"""The line of a record that stands for its whole file."""

MAX_OPEN = 64
MAX_SMALL = 1 << 24
_CHUNK = 1 << 20
_LOCAL = re.compile(r"(?!/|data:|[A-Za-z][A-Za-z0-9+.-]+://)")
_MAGIC = re.compile(r"[*?\[]")
_STARS = re.compile(r"\*{2,}")
_PICTURE_COLUMNS = re.compile(r".+_file_names?")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a collection, opened when it is read.

    ``kind`` opens it in place of detection; ``files`` are further files that its records come from; ``output`` is
    the file that it is written back to, where that is not ``path``; ``pictures`` is the folder that its media are
    relative to, where that is known; ``always``: it is written into every target, also without a record;
    ``optional``: beside other data it is left aside where it holds no conversation.
    """

    path: Path
    names: Names
    format: str | None = None
    kind: Callable[[Part], Reader] | None = None
    files: tuple[Path, ...] = ()
    output: Path | None = None
    pictures: Path | None = None
    always: bool = False
    optional: bool = False

    def open(self) -> Reader:
        """Raises InputError or OSError."""
        if self.kind is not None:
            return self.kind(self)
        return open_path(self.path, self.format, self.names)


class Collection:
    """Parts read one after another, their records numbered through; ``path`` is the folder that holds all.

    A part that cannot be opened is one Unreadable record with the issue ``unreadable_file``, and the rest goes on.
    ``companions`` are small files that ``divide`` copies into every target. ``members`` are the folders with a
    format of their own among the parts. No file is open but the one that is being read.
    """

    name: str = "folder"
    layers: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ""

    def __init__(
        self,
        path: Path,
        parts: Iterable[Part],
        *,
        companions: Iterable[Path] = (),
        others: Mapping[str, int] | None = None,
        notes: Iterable[str] = (),
        members: Iterable[Collection] = (),
    ) -> None:
        self.path = absolute(path)
        self.parts = tuple(parts)
        self.members = tuple(members)
        inner = (file for member in self.members for file in member.companions)
        self.companions: tuple[Path, ...] = (*companions, *inner)
        self._notes = (*notes, *(note for member in self.members for note in member.notes))
        self._aside: dict[int, str] = {}
        self._others = dict(others or {})
        self._opened: dict[int, Reader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of every part that can be opened now: what cannot has no content to be compared later."""
        return tuple(file for files in self._files for file in files if os.access(file, os.R_OK))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, in sentences; of what is left aside while reading, when it has been read."""
        return (*self._notes, *(f"{told}; left aside" for told in self._aside.values()))

    @cached_property
    def others(self) -> Mapping[str, int]:
        """How many files were left aside, by their ending or by what they are."""
        total = Counter(self._others)
        for member in self.members:
            total.update(member.others)
        return dict(total)

    @cached_property
    def _files(self) -> list[tuple[Path, ...]]:
        return [part.files if is_folder(part.path) else (part.path, *part.files) for part in self.parts]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {shown(path): at for at, part in enumerate(self.parts) for path in (part.path, *part.files)}

    @cached_property
    def _sizes(self) -> list[int]:
        return [sum(map(_size, files)) for files in self._files]

    @cached_property
    def _before(self) -> list[int]:
        return list(accumulate(self._sizes, initial=0))

    def _at(self, origin: Origin) -> int:
        file = Path(origin.file)
        for path in (file, *file.parents):
            if (at := self._place.get(str(path))) is not None:
                return at
        raise InputError(f"{file} is no file of {self.path} any more; score the input again")

    def _reader(self, at: int) -> Reader:
        if at not in self._opened:
            reader = self.parts[at].open()
            if len(self._opened) >= MAX_OPEN:
                self._opened.clear()
            self._opened[at] = reader
        return self._opened[at]

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """Every record of every part."""
        row = first_row
        aside: dict[int, NoConversation] = {}
        for at in range(len(self.parts)):
            for record in self._records(at, row, aside):
                yield record
                row += 1
        if row > first_row:
            self._aside = {at: str(error) for at, error in aside.items()}
        else:
            for row, (at, error) in enumerate(aside.items(), first_row):
                yield self._unreadable(at, row, error)

    def _records(self, at: int, row: int, aside: dict[int, NoConversation]) -> Iterator[Record]:
        prefix = self._prefix(at)
        try:
            for record in self._reader(at).records(row):
                row += 1
                yield _rebased(record, prefix)
        except (InputError, OSError) as error:
            if isinstance(error, NoConversation) and self.parts[at].optional:
                aside[at] = error
            else:
                yield self._unreadable(at, row, error)

    def _prefix(self, at: int) -> str | None:
        pictures = self.parts[at].pictures
        return None if pictures is None else Path(os.path.relpath(pictures, self.path)).as_posix()

    def _unreadable(self, at: int, row: int, error: Exception | None) -> Unreadable:
        path = self.parts[at].path
        size, digest = _fingerprint(path)
        told = str(error) if isinstance(error, InputError) else f"{shown(path)} cannot be read to its end"
        if isinstance(error, OSError):
            told = f"{shown(path)} cannot be read ({error.strerror or error})"
        origin = Origin(shown(path), row, WHOLE_FILE, 0, size, digest)
        return Unreadable(
            origin,
            (Issue("unreadable_file", "error", told, origin.file, WHOLE_FILE, row),),
            Path(origin.file).name,
        )

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again from the part whose file it is in."""
        at = self._at(origin)
        failed: Exception | None = None
        try:
            reader = self._reader(at)
        except (InputError, OSError) as error:
            failed = error
        if origin.line == WHOLE_FILE:
            again = self._unreadable(at, origin.row, failed)
            if again.origin != origin:
                raise _changed(origin)
            return again
        if failed is not None:
            raise _changed(origin, failed) from failed
        return _rebased(reader.record(origin), self._prefix(at))

    def share(self, origin: Origin) -> float | None:
        """By bytes of files; a part that cannot tell counts when it is done."""
        at = self._at(origin)
        try:
            inner = None if origin.line == WHOLE_FILE else self._reader(at).share(origin)
        except (InputError, OSError):
            inner = None
        done = self._before[at] + self._sizes[at] * (1.0 if inner is None else inner)
        return done / max(1, self._before[-1])

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """A folder for each target, with the file names of the input: of each file, the records that go there.

        A file that is one unreadable record is copied whole; one whose bytes cannot be had stays where it is.
        Raises UsageError also where a target is a folder that the input lies in; InputError where the files of
        ``places`` come in another order than the input's.
        """
        for target in targets.values():
            if self.path.resolve().is_relative_to(target.resolve()):
                raise UsageError(
                    f"{target} holds the input, which is never overwritten; choose another output"
                )
        with wholes(dict(targets), ()) as drafts:
            for draft in drafts.values():
                draft.mkdir()
                for companion in self.companions:
                    _copy(companion, draft / companion.relative_to(self.path))
            done = set()
            for at, group in groupby(places, key=lambda place: self._at(place[0])):
                if at in done:
                    raise InputError(
                        f"the records come not in the order of {self.path}, but go back to {self.parts[at].path}; "
                        "score the input again"
                    )
                self._divide(at, group, drafts)
                done.add(at)
            for at, part in enumerate(self.parts):
                if part.always and at not in done:
                    self._divide(at, iter(()), drafts)

    def _divide(self, at: int, places: Iterator[tuple[Origin, str]], drafts: Mapping[str, Path]) -> None:
        part = self.parts[at]
        inside = (part.output or part.path).relative_to(self.path)
        outputs = {name: draft / inside for name, draft in drafts.items()}
        used: set[str] = set()
        wholly: dict[str, Origin] = {}

        def single() -> Iterator[tuple[Origin, str]]:
            for origin, name in places:
                if origin.line == WHOLE_FILE:
                    wholly[name] = origin
                else:
                    used.add(name)
                    yield origin, name

        try:
            reader = self._reader(at)
        except (InputError, OSError) as error:
            for origin, _ in single():
                raise _changed(origin, error) from error
        else:
            reader.divide(single(), outputs)
            for name in outputs.keys() - used if not part.always else ():
                outputs[name].unlink()
        for name, origin in wholly.items():
            if origin.sha256 and name not in used and _copy(part.path, outputs[name]) != origin.sha256:
                raise _changed(origin)


def _rebased(record: Record, prefix: str | None) -> Record:
    """The record of an image folder with its further pictures (``…_file_name``), all relative to the input."""
    if prefix is None or not isinstance(record, Sample):
        return record
    more = {key: held for key, held in record.meta.items() if _PICTURE_COLUMNS.fullmatch(key) and held}
    media = [*record.media, *(m for held in more.values() for m in read_media("image", held))]
    meta = {key: held for key, held in record.meta.items() if key not in more}
    return replace(record, media=tuple(_below(prefix, m) for m in media), meta=meta)


def _below(prefix: str, media: Media) -> Media:
    if prefix == "." or media.data is not None or not _LOCAL.match(media.reference):
        return media
    return replace(media, reference=f"{prefix}/{media.reference}")


def _changed(origin: Origin, error: Exception | None = None) -> InputError:
    cause = f" ({error})" if error is not None else ""
    return InputError(f"{origin.file} has changed since it was read{cause}; score the input again")


def absolute(path: Path) -> Path:
    """The path from the root, links left as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps "..", Path.resolve follows links


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fingerprint(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file; 0 and nothing where they cannot be had."""
    try:
        if not path.is_file():  # to open a pipe is to wait for ever
            return 0, ""
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return 0, ""


def _copy(source: Path, target: Path) -> str:
    """Copy a file; the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = source.open("rb")
    except OSError as error:
        raise InputError(
            f"{source} cannot be read any more ({error.strerror}); put it back, or score the input again"
        ) from error
    with file, target.open("xb") as copy:
        while data := file.read(_CHUNK):
            digest.update(data)
            copy.write(data)
    return digest.hexdigest()


# ---------------------------------------------------------------- several inputs


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, as far as can be seen."""
    try:
        return path.is_dir()
    except OSError:
        return False


def small_json(path: Path, limit: int = MAX_SMALL) -> dict[str, Any]:
    """The object in a file of settings; an empty one where there is none, or one too large for that."""
    try:
        if not path.is_file() or path.stat().st_size > limit:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def natural(path: Path) -> list[list[str | int]]:
    """A key to sort paths by, in which ``shard-10`` comes after ``shard-9``."""
    return [
        [int(piece) if n % 2 else piece for n, piece in enumerate(re.split(r"(\d+)", name))]
        for name in path.parts
    ]


def ending(name: str) -> str:
    """The ending that tells a file's kind, in small letters and without its packing; empty where there is none."""
    path = Path(name.lower())
    return Path(path.stem).suffix or path.suffix if path.suffix in PACKINGS else path.suffix


def named_as_data(name: str) -> bool:
    """Whether the name's ending is that of data."""
    return ending(name) in DATA_ENDINGS


def gather(given: Sequence[str | Path], format: str | None, names: Names) -> Reader:
    """What ``open_input`` opens: the file's or folder's own reader if it is one, else a collection of all."""
    found = _distinct(path for text in given for path in _expand(text, format, names))
    if len(found) == 1:
        return _open_one(found[0], format, names)
    if format == Collection.name:
        format = None
    parts: list[Part] = []
    members: list[Collection] = []
    notes: list[str] = []
    for path in found:
        if not is_folder(path) and not _is_catalogue(path, format):
            parts.append(_file(path, format, names))
            continue
        try:
            reader = open_path(path, format, names)
        except InputError as error:
            if os.access(path, os.R_OK):
                notes.append(str(error))
            else:
                parts.append(Part(absolute(path), names, format))
            continue
        if isinstance(reader, Collection):
            members.append(reader)
            parts += reader.parts
        else:
            parts.append(Part(path, names, format, files=reader.files))
    # A file that is also given by itself is read as the folder or catalogue reads it.
    known = {identity(part.path): part for member in members for part in member.parts}
    parts = distinct_parts([known.get(identity(part.path), part) for part in parts])
    pictures = [part for part in parts if part.kind is not None]
    if pictures and len(pictures) < len(parts):
        # Beside files of records, a folder of nothing but pictures is where theirs are.
        parts = [part for part in parts if part.kind is None]
        notes += [f"{part.path} holds pictures only; it is not read by itself" for part in pictures]
    if not parts:
        raise InputError("; ".join(notes))
    homes = [part.path if is_folder(part.path) else part.path.parent for part in parts]
    common = os.path.commonpath([*homes, *(member.path for member in members)])
    return Collection(Path(common), parts, notes=notes, members=members)


def _open_one(path: Path, format: str | None, names: Names) -> Reader:
    if path.is_dir():
        return open_path(path, format, names)
    part = _file(path, format, names)
    return open_path(path, part.format, part.names)


def _file(path: Path, format: str | None, names: Names) -> Part:
    """A file that was asked for by name. Raises InputError where there is none."""
    from vlitqc.formats.llama_factory import listed_names

    with suppress(OSError):  # in a folder that may not be searched, or a broken link: told when it is read
        if not path.exists() and not path.is_symlink():
            open_path(path, format, names)
    return file_part(absolute(path), listed_names(path, names), format)


def file_part(path: Path, names: Names, format: str | None = None) -> Part:
    """A file with those that belong to it: a MIMIC-IT file of instructions has one of pictures."""
    files: tuple[Path, ...] = ()
    with suppress(InputError, OSError):
        if path.is_file() and ("_instructions" in path.name or _names_pictures(path)):
            files = tuple(file for file in open_path(path, format, names).files if file != path)
    return Part(path, names, format, files=files)


def _names_pictures(path: Path) -> bool:
    if ending(path.name) != ".json":
        return False
    with path.open("rb") as file:
        return b'"image_ids"' in file.read(HEAD_BYTES)


def _is_catalogue(path: Path, format: str | None) -> bool:
    """Whether a file is LLaMA-Factory's list of others: like a folder, it is read as the files that it lists."""
    from vlitqc.formats.llama_factory import INFO, LlamaFactory, catalogue

    return path.name == INFO and format in (None, LlamaFactory.name) and bool(catalogue(path))


def _expand(text: str | Path, format: str | None, names: Names) -> list[Path]:
    from vlitqc.formats.folder import is_settings

    path = Path(text)
    if os.path.lexists(path) or not _MAGIC.search(str(text)):
        return [path]
    at = next(n for n, piece in enumerate(path.parts) if _MAGIC.search(piece))
    base = Path(*path.parts[:at])
    pattern = [piece if piece == "**" else _STARS.sub("*", piece) for piece in path.parts[at:]]
    hidden = any(piece.startswith(".") for piece in pattern)
    # Path.glob follows no links to folders, so that a loop of links ends.
    matches = sorted(
        (
            match
            for match in base.glob("/".join(pattern))
            if hidden or not any(piece.startswith(".") for piece in match.relative_to(base).parts)
        ),
        key=natural,
    )
    if not matches:
        raise InputError(
            f"no file matches {text} (relative to {Path.cwd()}); check the pattern: * stands for a name, "
            "** for folders within folders"
        )
    # A pattern such as data/* meets pictures and notes too; one such as data/*.txt means what it says.
    data = [
        match
        for match in matches
        if not is_folder(match)
        and named_as_data(match.name)
        and (_is_catalogue(match, format) or not is_settings(match, names))
    ]
    return data or matches


def identity(path: Path) -> object:
    """What two names of one file have in common."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return str(absolute(path))
    return found.st_dev, found.st_ino


def _distinct(paths: Iterable[Path]) -> list[Path]:
    first: dict[object, Path] = {}
    for path in paths:
        first.setdefault(identity(path), path)
    return list(first.values())


def distinct_parts(parts: Sequence[Part]) -> list[Part]:
    """Each file once, at its first place, and none by itself that belongs to another's records."""
    owned = {identity(file): at for at, part in enumerate(parts) for file in part.files}
    first: dict[object, Part] = {}
    for at, part in enumerate(parts):
        who = identity(part.path)
        if owned.get(who, at) == at:
            first.setdefault(who, part)
    return list(first.values())
