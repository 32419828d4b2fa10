"""Hugging Face image folders: pictures with a table of metadata, or in folders named after their class."""

from __future__ import annotations

import csv
import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import HEAD_BYTES, check_name, shown
from vlitqc.formats.collection import Collection, Part, absolute, ending, natural
from vlitqc.formats.conversation import read_conversation
from vlitqc.formats.endings import PICTURES
from vlitqc.formats.folder import data_parts, is_settings, walk
from vlitqc.formats.names import Names
from vlitqc.formats.writing import wholes
from vlitqc.types import Issue, Origin, Record, Sample, Unreadable

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLITS = frozenset(("train", "test", "val", "valid", "validation", "dev", "eval", "images", "data"))
_COLUMN = re.compile(r"(?:.+_)?file_names?")


def is_metadata(path: Path) -> bool:
    """Whether a file lists pictures as image folders do: by its name, and a column ``file_name`` or ``…_file_name``."""
    if path.name not in METADATA:
        return False
    try:
        return any(_COLUMN.fullmatch(name) for name in _columns(path))
    except (OSError, ValueError, csv.Error):  # pyarrow's errors are ValueErrors
        return False


def _columns(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            return next(csv.reader(file), [])
        # A broken first line costs no more than itself.
        for _ in range(10):
            try:
                value = json.loads(file.readline(HEAD_BYTES))
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                return list(value)
    return []


class ImageFolder(Collection):
    """The lines of every ``metadata.jsonl``, ``.csv`` or ``.parquet`` as records, or a record for each picture.

    A line's pictures are relative to its file; here, to the folder. Without metadata, pictures lie in one folder
    a class, whose name is their caption. ``divide`` copies lines and no pictures; without metadata it writes a
    ``metadata.jsonl`` of ``file_name`` and ``text``. ``others`` counts also the pictures that no line lists.

    Raises FormatError for pictures with neither metadata nor classes.
    """

    name = "imagefolder"
    rank: ClassVar[int] = 20

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether all data files below a folder are such metadata; or there are none, but pictures."""
        if not path.is_dir():
            return False
        lists: list[bool] = []

        def is_other(file: Path) -> bool:
            if not is_settings(file, Names()):
                lists.append(is_metadata(file))
            return not all(lists)

        try:
            found = walk(path, until=is_other)
        except InputError:
            return False
        return all(lists) and (bool(lists) or any(map(_is_picture, found.rest)))

    def __init__(self, path: Path, names: Names) -> None:
        root = absolute(path)
        parts, _, found = data_parts(root, names, None)
        if found.data:
            parts = [_with_picture_column(part) for part in parts]
        else:
            pictures = class_pictures(root, found.rest)
            output = root / METADATA[0]
            parts.append(Part(root, names, kind=ClassFolders, files=pictures, output=output, pictures=root))
            found.others.subtract(ending(file.name) for file in pictures)
        super().__init__(root, parts, others=+found.others)

    @cached_property
    def others(self) -> Mapping[str, int]:
        """How many files were left aside; reads the metadata for it."""
        total = Counter(self._others)
        if any(part.kind is not None for part in self.parts):
            return dict(total)
        references = (m.reference for r in self.records() if isinstance(r, Sample) for m in r.media)
        listed = set(map(posixpath.normpath, references))
        for file in walk(self.path).rest:
            if not _is_picture(file):
                continue
            total[ending(file.name)] -= 1
            total["pictures that no line lists"] += file.relative_to(self.path).as_posix() not in listed
        return dict(+total)


def _is_picture(file: Path) -> bool:
    return ending(file.name)[1:] in PICTURES


def _with_picture_column(part: Part) -> Part:
    """Where no column is called ``file_name``, the first ``…_file_name`` holds the picture."""
    try:
        columns = [name for name in _columns(part.path) if _COLUMN.fullmatch(name)]
    except (OSError, ValueError, csv.Error):
        return part
    if not columns or "file_name" in columns or "image" in part.names.fields:
        return part
    fields = {"image": columns[0], **part.names.fields}
    return Part(part.path, Names(fields, part.names.speakers), pictures=part.pictures)


def class_pictures(root: Path, files: Sequence[Path]) -> tuple[Path, ...]:
    """The pictures among all files below a folder. Raises FormatError where their folders tell no class."""
    texts = [file for file in files if ending(file.name) == ".txt"]
    pictures = tuple(sorted(filter(_is_picture, files), key=natural))
    inner = [file for file in pictures if file.parent != root]
    classes = {file.parent.name for file in inner} - SPLITS
    if len(classes) < 2 or len({len(file.parts) for file in inner}) > 1:
        raise FormatError(
            f"{root} holds {len(pictures)} pictures and no file of records; expected a metadata.jsonl, .csv or "
            ".parquet with file_name and text, or at least two folders of pictures, each named after its class"
            + (f"; if {texts[0].relative_to(root)} holds the texts, pass that file" if texts else "")
        )
    return pictures


class ClassFolders:
    """Pictures in folders named after their class, the files of a part: a record each, captioned with the name."""

    name: ClassVar[str] = "imagefolder"
    layers: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ".jsonl"

    def __init__(self, part: Part) -> None:
        self.path = part.path
        self.files = part.files

    def records(self, first_row: int = 0) -> Iterator[Record]:
        """A record for each picture, in natural order."""
        for row, file in enumerate(self.files, first_row):
            yield self._record(self._origin(file, row))

    def _origin(self, file: Path, row: int) -> Origin:
        try:
            with file.open("rb") as picture:
                digest = hashlib.file_digest(picture, "sha256").hexdigest()
                return Origin(shown(file), row, 1, 0, picture.tell(), digest)
        except OSError:  # it is reported where pictures are: when they are loaded
            return Origin(shown(file), row, 1, 0, 0, "")

    def _fields(self, origin: Origin) -> dict[str, Any]:
        file = Path(origin.file)
        fields = {"file_name": file.relative_to(self.path).as_posix()}
        return fields if file.parent == self.path else fields | {"text": file.parent.name}

    def _record(self, origin: Origin) -> Record:
        fields = self._fields(origin)
        fault: tuple[str, str] | None = None
        try:
            check_name(self._file(origin))
        except InputError as error:
            fault = "unreadable_file", str(error)
        else:
            if "text" not in fields:
                told = "the picture lies in no folder named after its class, so it has no caption"
                fault = "malformed_record", told
        if fault is not None:
            issue = Issue.at(origin, fault[0], "error", fault[1])
            return Unreadable(origin, (issue,), fields["file_name"])
        return read_conversation({"id": fields["file_name"], **fields}, origin, Names())

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``, read again."""
        self._check(origin)
        return self._record(origin)

    def _check(self, origin: Origin) -> None:
        if self._origin(self._file(origin), origin.row) != origin:
            raise InputError(f"{origin.file} has changed since it was read; score the input again")

    def share(self, origin: Origin) -> float | None:
        """By the number of pictures."""
        return (self._place[origin.file] + 1) / len(self.files)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {shown(file): n for n, file in enumerate(self.files)}

    def _file(self, origin: Origin) -> Path:
        at = self._place.get(origin.file)
        return Path(origin.file) if at is None else self.files[at]

    def divide(self, places: Iterable[tuple[Origin, str]], targets: Mapping[str, Path]) -> None:
        """A ``metadata.jsonl`` of ``file_name`` and ``text`` for each target."""
        with ExitStack() as stack:
            drafts = stack.enter_context(wholes(dict(targets), ()))
            files = {
                name: stack.enter_context(draft.open("x", encoding="utf-8")) for name, draft in drafts.items()
            }
            for origin, name in places:
                self._check(origin)
                files[name].write(json.dumps(self._fields(origin), ensure_ascii=False) + "\n")
