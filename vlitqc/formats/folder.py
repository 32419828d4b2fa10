"""Folders of data files."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from vlitqc.formats.conversation import INSTRUCTION_KEYS, MEDIA_FIELDS, MESSAGE_KEYS, read_conversation
from vlitqc.formats.names import Names
from vlitqc.types import Origin, Sample

AUDITED = b"vlitqc.input"
"""The key in the schema of a filter's ``….decisions.parquet`` that tells it from other files of that name."""

FATES = ("kept", "dropped", "unreadable")
CONTROL = "control"
DECISIONS = ".decisions.parquet"
FILTER = ".filter.json"
COMPARISON = ".comparison.json"
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


def walk(root: Path, until: Callable[[Path], bool] | None = None) -> Walk:
    """Everything below ``root``, each real folder once.

    Links to files are followed, wherever they lead: the Hugging Face cache consists of them. Links to folders are
    followed only to folders below ``root``. Hidden files and folders, runs and a filter's outputs are left out.
    The walk ends at the first data file that is what ``until`` asks for.

    Raises InputError where ``root`` itself cannot be listed.
    """
    found = Walk()
    real = root.resolve()
    seen = {identity(root)}
    waiting = deque([root])
    while waiting:
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
        if folder != root and is_run(folder):
            found.others["vlitqc's own"] += 1
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
                if until is not None and until(path):
                    return found
            else:
                found.rest.append(path)
    return found


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of ours, by its name or by its ``run.json``."""
    return folder.name.endswith(RUN) or {"plan", "input"} <= small_json(folder / "run.json").keys()


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
        with path.open("rb") as file:  # pyarrow opens no path that is not UTF-8
            return AUDITED in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _is_output(name: str, stems: set[str]) -> bool:
    return any(
        name in (stem + DECISIONS, stem + FILTER, stem + COMPARISON)
        or any(f"{name}.".startswith(f"{stem}.{divided}.") for divided in (*FATES, CONTROL))
        for stem in stems
    )


def is_settings(path: Path, names: Names) -> bool:
    """Whether a ``.json`` file is a document of settings: an object that its name tells, or a small one with
    nothing in it that could be a record."""
    if path.name in SETTINGS or path.name.endswith(".index.json"):
        return not _begins_a_list(path)
    if path.suffix.lower() != ".json":
        return False
    value = small_json(path, MAX_SETTINGS)
    if not value or any(map(_holds_objects, value.values())):
        return False
    telling = {*TELLING, *(theirs.partition(".")[0] for theirs in names.fields.values())}
    place = Origin(str(path), 0, 1, 0, 0, "")
    held = (value, *(inner for inner in value.values() if isinstance(inner, dict)))  # records by id
    return not any(
        telling & one.keys() or isinstance(read_conversation(one, place, names), Sample) for one in held
    )


def _begins_a_list(path: Path) -> bool:
    if path.is_file():  # opening a pipe waits for its other end
        with suppress(OSError), path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"[")
    return False


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
    settings = {file for file in found.data if is_settings(file, names)}
    found.others.update("settings" for _ in settings)
    found.data = [file for file in found.data if file not in settings]
    for file in found.data:
        if format is None and is_metadata(file):
            parts.append(Part(file, names, pictures=file.parent))
        else:
            parts.append(replace(file_part(file, names, format), optional=format is None))
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
        from vlitqc.formats.llama_factory import INFO, LlamaFactory, catalogue

        root = absolute(path)
        if is_run(root):
            raise InputError(f"{path} is a run of vlitqc and no data; pass the data that was scored")
        parts, members, found = data_parts(root, names, format)
        if not parts and format is None and catalogue(root / INFO):
            LlamaFactory(root, names)  # says which files it lacks
        if not parts:
            raise InputError(f"{path} holds no data file; {_told(found.others)}")
        super().__init__(root, parts, others=found.others, members=members)
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
