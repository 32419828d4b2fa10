"""Folders of data files."""

from __future__ import annotations

import os
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats import Format, Reader
from vlitqc.formats.collection import (
    Collection,
    Part,
    absolute,
    distinct_parts,
    ending,
    file_part,
    identity,
    named_as_data,
    natural,
    small_json,
)
from vlitqc.formats.conversation import INSTRUCTION_KEYS, MEDIA_FIELDS, MESSAGE_KEYS
from vlitqc.formats.names import Names

AUDITED = b"vlitqc.input"
"""The key in the schema of a filter's ``….decisions.parquet`` that tells it from other files of that name."""

FATES = ("kept", "dropped", "unreadable")
DECISIONS = ".decisions.parquet"
RUN = ".vlitqc"

SETTINGS = frozenset(
    (
        "added_tokens.json", "chat_template.json", "config.json", "dataset_dict.json", "dataset_info.json",
        "dataset_infos.json", "generation_config.json", "package.json", "package-lock.json",
        "preprocessor_config.json", "processor_config.json", "special_tokens_map.json", "state.json",
        "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "tsconfig.json", "vocab.json",
    )
)  # fmt: skip
MAX_SETTINGS = 1 << 16
TELLING = frozenset(
    (*MESSAGE_KEYS, *INSTRUCTION_KEYS, *(key for keys in MEDIA_FIELDS.values() for key in keys))
)
"""Keys that a record has and settings have not."""


@dataclass(slots=True)
class Walk:
    """What a folder holds: files by kind, and how many are left aside."""

    data: list[Path] = field(default_factory=list)
    rest: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def walk(root: Path, *, whole: bool = True) -> Walk:
    """Everything below ``root``, each real folder once.

    Links to files are followed, wherever they lead: the Hugging Face cache consists of them. Links to folders are
    followed only to folders below ``root``. Hidden files and folders, runs (``….vlitqc``) and a filter's outputs
    are left out. With ``whole`` false the walk ends at the first folder with a data file.

    Raises InputError where ``root`` itself cannot be listed.
    """
    found = Walk()
    real = root.resolve()
    seen = {identity(root)}
    waiting = deque([root])
    while waiting and (whole or not found.data):
        folder = waiting.popleft()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise InputError(
                    f"{root} cannot be read ({error.strerror}); check its permissions"
                ) from error
            found.closed.append(folder)
            continue
        found.folders.append(folder)
        own = _outputs([entry.name for entry in entries], folder)
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                found.others["hidden"] += 1
            elif entry.name.endswith(RUN) or _is_output(entry.name, own):
                found.others["vlitqc's own"] += 1
            elif _is_dir(entry):
                if entry.is_symlink() and not path.resolve().is_relative_to(real):
                    found.others["links to other folders"] += 1
                elif (who := identity(path)) not in seen:
                    seen.add(who)
                    waiting.append(path)
            elif _is_special(entry):
                found.others["devices and pipes"] += 1
            elif named_as_data(entry.name):
                found.data.append(path)
            else:
                found.rest.append(path)
    return found


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is there, and nothing that can be read to an end: to open a pipe is to wait for ever."""
    try:
        return not entry.is_file() and Path(entry).exists()
    except OSError:  # a loop of links
        return False


def _outputs(names: list[str], folder: Path) -> set[str]:
    """The stems of the inputs that a filter has written outputs of into ``folder``."""
    return {
        name.removesuffix(DECISIONS)
        for name in names
        if name.endswith(DECISIONS) and (folder / name).is_file() and _audited(folder / name)
    }


def _audited(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return AUDITED in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _is_output(name: str, stems: set[str]) -> bool:
    return any(
        name == stem + DECISIONS or f"{name}.".startswith(f"{stem}.{fate}.")
        for stem in stems
        for fate in FATES
    )


def is_settings(path: Path, names: Names) -> bool:
    """Whether a ``.json`` file is a document of settings: known by its name, or small, with nothing in it that
    could be a record."""
    if path.name in SETTINGS or path.name.endswith(".index.json"):
        return True
    if path.suffix.lower() != ".json":
        return False
    value = small_json(path, MAX_SETTINGS)
    if not value:
        return False
    telling = {*TELLING, *(theirs.partition(".")[0] for theirs in names.fields.values())}
    return not telling & value.keys() and not any(map(_holds_objects, value.values()))


def _holds_objects(held: Any) -> bool:
    inner = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
    return any(isinstance(value, dict) for value in inner)


def data_parts(
    path: Path, names: Names, format: str | None, *, nested: bool = True
) -> tuple[list[Part], list[Collection], Walk]:
    """The data files below ``path`` as parts, and those of its folders that have a format of their own.

    With ``nested`` false no folder has one.
    """
    from vlitqc.formats.image_folder import is_metadata
    from vlitqc.formats.llama_factory import LlamaFactory
    from vlitqc.formats.saved_dataset import SavedDataset

    found = walk(path)
    members: dict[Path, Collection] = {}

    def owned(file: Path) -> bool:
        return not members.keys().isdisjoint((file, *file.parents))

    for folder in found.folders[1:] if format is None and nested else ():
        kind = next((kind for kind in (SavedDataset, LlamaFactory) if kind.fits(folder, b"")), None)
        if kind is not None and not owned(folder):
            with suppress(InputError):
                members[folder] = kind(folder, names)
    parts = [part for member in members.values() for part in member.parts]
    # What lies in a folder with a format of its own is for that format to read or to leave aside.
    for lists in (found.data, found.rest, found.closed):
        lists[:] = [file for file in lists if not owned(file)]
    for file in found.data:
        if is_settings(file, names):
            found.others["settings"] += 1
        elif format is None and is_metadata(file):
            parts.append(Part(file, names, pictures=file.parent))
        else:
            parts.append(file_part(file, names, format))
    parts += [Part(folder, names) for folder in found.closed]
    found.others.update(ending(file.name) or "no ending" for file in found.rest)
    return distinct_parts(sorted(parts, key=lambda part: natural(part.path))), [*members.values()], found


class Folder(Collection):
    """Every data file below a folder, known by its ending; other files are counted in ``others``.

    Raises InputError where there is nothing to read, or the folder cannot be listed.
    """

    rank: ClassVar[int] = 90

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Every folder."""
        return path.is_dir()

    def __init__(self, path: Path, names: Names, format: str | None = None) -> None:
        root = absolute(path)
        if root.name.endswith(RUN):
            raise InputError(f"{path} is a run of vlitqc and no data; pass the data that was scored")
        parts, members, found = data_parts(root, names, format)
        if not parts:
            raise InputError(f"{path} holds no data file; {_told(found.others)}")
        super().__init__(
            root,
            parts,
            companions=[file for member in members for file in member.companions],
            others=found.others,
            notes=[note for member in members for note in member.notes],
            members=members,
        )
        if format is not None:
            self.name = format


def of_format(path: Path, names: Names, format: str, kind: Format) -> Reader:
    """A folder whose every file has one format. Raises FormatError where the format is one of folders."""
    if isinstance(kind, type) and issubclass(kind, Collection):
        raise FormatError(f"{path} is not {format}; leave the format out to have it detected")
    return Folder(path, names, format)


def _told(others: Counter[str]) -> str:
    found = ", ".join(f"{kind} {n}" for kind, n in others.most_common(8))
    return (
        f"found {found or 'nothing at all'}; data files end in .json, .jsonl, .parquet, .arrow, .tar, .csv or .tsv; "
        "read others by a pattern such as 'DIR/*.txt'"
    )
