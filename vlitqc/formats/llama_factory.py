"""LLaMA-Factory's catalogue of data sets, ``dataset_info.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import FormatError, InputError
from vlitqc.formats.collection import (
    Collection,
    Part,
    absolute,
    distinct_parts,
    ending,
    file_part,
    identity,
    small_json,
)
from vlitqc.formats.folder import data_parts, walk
from vlitqc.formats.names import Names

INFO = "dataset_info.json"
SOURCES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")

COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "response", "history": "history",
    "messages": "messages", "system": "system", "images": "image", "videos": "video", "audios": "audio",
}  # fmt: skip
"""Their name of a column → our name of the field. Tools, rejected answers and tags of KTO stay in the record."""

KEYS = {"role_tag": "role", "content_tag": "content"}
SPEAKERS = {
    "user_tag": "user", "assistant_tag": "assistant", "function_tag": "assistant", "observation_tag": "tool",
    "system_tag": "system",
}  # fmt: skip


class LlamaFactory(Collection):
    """Every local file that ``dataset_info.json`` lists, with the columns and tags that it gives.

    Entries on a hub, whose file is missing or is another entry's too, and data files that no entry lists, are
    told in ``notes``.
    ``divide`` copies ``dataset_info.json`` and writes every file, also without a record.

    Raises FormatError where no entry has a file here.
    """

    name = "llama_factory"
    rank: ClassVar[int] = 21

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether a file, or the one of that name in a folder, is such a catalogue; a folder must hold its data."""
        if path.is_dir():
            return any(_local(path, entry) is not None for entry in catalogue(path / INFO).values())
        return path.name == INFO and bool(catalogue(path))

    def __init__(self, path: Path, names: Names) -> None:
        info = absolute(path if path.is_file() else path / INFO)
        root = info.parent
        parts: list[Part] = []
        notes: list[str] = []
        absent: list[str] = []
        on_hub: list[str] = []
        again: list[str] = []
        owner: dict[object, str] = {}
        for name, entry in catalogue(info).items():
            local = _local(root, entry)
            if local is not None:
                found = _parts(local, entry_names(entry, names), notes)
                parts += (replace(part, pictures=part.pictures or root, always=True) for part in found)
                for file in (part.path for part in found):
                    if (first := owner.setdefault(identity(file), name)) != name:
                        again.append(f"{name} ({file.relative_to(root)}, read as {first})")
            elif named := entry.get("file_name"):
                outside = not absolute(root / str(named)).is_relative_to(root)
                absent.append(f"{name} ({named}{', outside the folder' if outside else ''})")
            else:
                on_hub.append(name)
        parts = distinct_parts(parts)
        if not parts:
            lacked = f": {_few(absent)}" if absent else ""
            raise FormatError(
                f"no entry of {info} has a file in {root}{lacked}; put the files there, or pass the data file itself"
            )
        if again:
            notes.append(f"listed twice in {INFO}, read once: {_few(again)}")
        if absent:
            notes.append(
                f"{_n(len(absent), 'entry', 'entries')} of {INFO} without a file here: {_few(absent)}"
            )
        if on_hub:
            notes.append(
                f"{_n(len(on_hub), 'entry', 'entries')} of {INFO} on a hub, not read: {_few(on_hub)}"
            )
        below = walk(root)
        used = {part.path for part in parts} | {info}
        unlisted = [str(file.relative_to(root)) for file in below.data if file not in used]
        if unlisted:
            notes.append(
                f"{_n(len(unlisted), 'data file', 'data files')} not in {INFO}, not read: {_few(unlisted)}"
            )
        others = below.others + Counter(ending(file.name) or "no ending" for file in below.rest)
        others[f"not in {INFO}"] = len(unlisted)
        super().__init__(root, parts, companions=[info], others=+others, notes=notes)


def catalogue(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a ``dataset_info.json`` by name; empty where the file is none."""
    return {
        name: entry
        for name, entry in small_json(path).items()
        if isinstance(entry, dict) and any(isinstance(entry.get(key), str) for key in SOURCES)
    }


def listed_names(path: Path, names: Names) -> Names:
    """``names`` with those that a ``dataset_info.json`` beside a file gives it; what ``names`` says goes first."""
    entries = catalogue(path.parent / INFO).values() if path.name != INFO else ()
    own = next((entry for entry in entries if entry.get("file_name") == path.name), None)
    return names if own is None else entry_names(own, names)


def entry_names(entry: Mapping[str, Any], names: Names) -> Names:
    """The columns and tags of an entry in our terms, below those of ``names``."""
    columns, tags = _texts(entry.get("columns")), _texts(entry.get("tags"))
    if entry.get("ranking") and "chosen" in columns:
        columns = columns | {"response": columns["chosen"]}
    fields = {COLUMNS[key]: theirs for key, theirs in columns.items() if key in COLUMNS}
    fields |= {KEYS[key]: theirs for key, theirs in tags.items() if key in KEYS}
    speakers = {theirs: SPEAKERS[key] for key, theirs in tags.items() if key in SPEAKERS}
    return Names({**fields, **names.fields}, {**speakers, **names.speakers})


def _texts(value: Any) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {key: held for key, held in items if isinstance(held, str) and held}


def _local(root: Path, entry: Mapping[str, Any]) -> Path | None:
    """The file or folder of an entry, where it exists and lies below ``root``."""
    named = entry.get("file_name")
    if not isinstance(named, str) or not named:
        return None
    # This path is looked at and opened: beside links, "a/.." may be another folder than the one above "a".
    root = absolute(root)
    path = absolute(root / named)
    if path.name == INFO:  # which would list itself
        return None
    try:
        inside = path.exists() and path.is_relative_to(root) and path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):
        return None
    return path if inside else None


def _parts(path: Path, names: Names, notes: list[str]) -> list[Part]:
    if path.is_file():
        return [file_part(path, names)]
    try:
        return data_parts(path, names, None, nested=False)[0]
    except InputError as error:
        notes.append(str(error))
        return []


def _n(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
