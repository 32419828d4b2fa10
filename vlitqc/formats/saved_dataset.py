"""Folders that Hugging Face datasets' save_to_disk wrote."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from vlitqc.errors import FormatError
from vlitqc.formats.collection import Collection, Part, absolute, ending, small_json
from vlitqc.formats.folder import walk
from vlitqc.formats.names import Names

STATE = "state.json"
SPLITS = "dataset_dict.json"
INFO = "dataset_info.json"


class SavedDataset(Collection):
    """The Arrow files that ``state.json`` lists, of each split that ``dataset_dict.json`` lists.

    ``divide`` writes every Arrow file, also without a row, and copies the JSON files, so that
    ``datasets.load_from_disk`` opens each target.

    Raises FormatError where the lists cannot be followed.
    """

    name = "saved_dataset"
    rank: ClassVar[int] = 22

    @classmethod
    def fits(cls, path: Path, head: bytes) -> bool:
        """Whether a folder holds ``dataset_dict.json`` with splits, or ``state.json`` with data files."""
        if not path.is_dir():
            return False
        return isinstance(small_json(path / SPLITS).get("splits"), list) or isinstance(
            small_json(path / STATE).get("_data_files"), list
        )

    def __init__(self, path: Path, names: Names) -> None:
        root = absolute(path)
        companions = []
        splits = [root]
        if "splits" in (listed := small_json(root / SPLITS)):
            companions.append(root / SPLITS)
            splits = [_inside(root, name) for name in listed["splits"]]
        parts = []
        for split in splits:
            state = small_json(split / STATE)
            files = state.get("_data_files")
            if not isinstance(files, list):
                raise FormatError(
                    f"{split / STATE} lists no data files; save the data set again with save_to_disk"
                )
            if state.get("_indices_data_files"):
                raise FormatError(
                    f"{split} picks its rows by an index file of an old version of datasets; load it and save it again"
                )
            companions += [file for file in (split / STATE, split / INFO) if small_json(file)]
            for file in files:
                named = file.get("filename") if isinstance(file, dict) else None
                parts.append(Part(_inside(split, named), names, "arrow", always=True))
        used = {part.path for part in parts} | set(companions)
        found = walk(root)
        others = found.others
        others.update(
            ending(file.name) or "no ending" for file in found.data + found.rest if file not in used
        )
        super().__init__(root, parts, companions=companions, others=others)


def _inside(folder: Path, name: Any) -> Path:
    """A file or folder that the data set names, which may not lie outside."""
    if isinstance(name, str) and name:
        # This path is looked at and opened: beside links, "a/.." may be another folder than the one above "a".
        path = absolute(folder / name)
        with suppress(OSError, ValueError, RuntimeError):
            if path.is_relative_to(folder) and path.resolve().is_relative_to(folder.resolve()):
                return path
    raise FormatError(f"{folder} lists {name!r}, which is no name of a file in it; save the data set again")
