"""A run's input: the paths as they were given, what its files were when they were scored, where its run is kept."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlitqc.engine.disk import is_draft, writing
from vlitqc.engine.mirror import FOLDER, local
from vlitqc.errors import InputError, RunError, UsageError
from vlitqc.formats import Reader, check_name, open_input, shown, stem_of
from vlitqc.formats.collection import Collection
from vlitqc.formats.names import Names
from vlitqc.formats.writing import whole
from vlitqc.media import default_image_root
from vlitqc.types import Origin, Record, Sample

Data = str | Path | Iterable[str | Path] | Iterable[Mapping[str, Any]]
"""A file, a folder, a glob pattern, several of these, or the records themselves."""

FILES_LISTED = 1000
"""So many files are in ``run.json`` one by one; those after them are in the sha256 over all."""
ROOT_PROBE = 64
"""How many pictures are looked for when the image root is not given."""
ROOT_RECORDS = 2000
"""How many records are read for them: data without pictures is not read to its end."""

_IN_MEMORY = "input.jsonl"
_OF_A_RUN = (
    *("run.json", "profile.json", "scorecard.json", "issues.parquet", "filters.json", "validity.json"),
    *(".lock", _IN_MEMORY),
    *("scores", "features", "shards", "remote"),
)
"""What only a run itself writes into its directory."""


def given(data: Data) -> tuple[list[Path], list[Mapping[str, Any]]]:
    """The paths of an input, or its records in memory; one of the two is empty.

    Raises UsageError where there is nothing, neither of them, or both.
    """
    if isinstance(data, str | Path):
        return [local(data)], []
    if isinstance(data, Mapping):
        raise UsageError("the data is a single record; pass a list of records")
    if hasattr(data, "to_dict"):
        raise UsageError("the data is a table in memory; pass its records, as in df.to_dict('records')")
    if isinstance(data, bytes) or not isinstance(data, Iterable):
        raise UsageError(
            f"the data is of type {type(data).__name__}; pass a path, or a list of paths or records"
        )
    items = list(data)
    if not items:
        raise UsageError("there are no records to score; pass one or more")
    paths = [local(item) for item in items if isinstance(item, str | Path)]
    records = [item for item in items if isinstance(item, Mapping)]
    odd = [type(item).__name__ for item in items if not isinstance(item, str | Path | Mapping)]
    if odd:
        raise UsageError(f"a record is of type {odd[0]}; pass dicts")
    if paths and records:
        raise UsageError("paths and records are mixed; pass one or the other")
    return paths, records


def opened(paths: Sequence[Path], format: str | None, names: Names) -> Reader:
    """The reader of paths from ``given``; its records name their files absolutely, links as they are."""
    found = [path.absolute() for path in paths]
    return open_input(found[0] if len(found) == 1 else found, format, names)


def home(paths: Sequence[Path]) -> tuple[Path, str]:
    """The folder in which an input's run and outputs are kept, and the name that they begin with.

    Beside a file or a folder, under its own name. For several paths and for patterns it is the name of the folder
    that they have in common, beside it; or inside it where that is the working directory or one above, since
    nobody looks for results there.
    """
    if len(paths) == 1 and not _is_pattern(paths[0]):
        path = paths[0] if paths[0].name not in ("", "..") else paths[0].resolve()
        return path.parent, stem_of(path)
    common = Path(os.path.commonpath([os.path.normpath(_fixed(path).absolute()) for path in paths]))
    if common.is_file():
        common = common.parent
    inside = Path.cwd().is_relative_to(common.resolve())
    return common if inside else common.parent, common.name or "input"


def run_of(paths: Sequence[Path]) -> Path:
    """Where the run of an input is kept unless the user says otherwise."""
    folder, name = home(paths)
    return folder / f"{name}.vlitqc"


def target_of(
    paths: Sequence[Path], out: str | Path | None, url: str | None = None, files: Iterable[Path] = ()
) -> Path:
    """The run directory for an input; for records in memory, without a path, ``out`` must say.

    ``url`` is where the run is kept whose mirror ``out`` is, and ``files`` are the input's: what is not on this
    machine need not have been moved, so they tell whether it is the same input.

    Raises UsageError where the folder holds anything but a run of this input, or is a part of the input; InputError
    where its name is no UTF-8.
    """
    if not paths:
        if out is None:
            raise UsageError("records without a file need out=DIR, the folder for the run")
        target = Path(out)
        paths = [target.absolute() / _IN_MEMORY]
    else:
        target = Path(out) if out is not None else run_of(paths)
        above = next((p for p in paths if p.is_dir() and target.resolve().is_relative_to(p.resolve())), None)
        if above is not None:
            raise UsageError(f"{target} lies in the input {above}; pass --out DIR, a folder outside it")
    check_name(target)
    place = url or str(target)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{place} is a file; pass --out DIR, the folder for the run")
    if not target.is_dir():
        return target
    told = paths_in(target)
    # A run that was killed before its first words has only these.
    if told is None and not all(
        path.name in (".lock", _IN_MEMORY) or is_draft(path.name) for path in target.iterdir()
    ):
        raise UsageError(f"{place} holds other files; pass --out DIR, an empty or a new folder")
    if told is not None and (is_other(told, paths) or (url and _lacks(files, _entries(target), told, paths))):
        raise UsageError(f"{place} holds the run of {in_words(told)}; pass --out DIR to keep both")
    return target


def check_output(target: Path, run: Path, *, suffix: str | None, place: str | None = None) -> None:
    """Raise UsageError where no report may be written at ``target``: a file with this suffix, or None for any other.

    That is where a file has no name, is a folder or replaces one of another kind, such as a picture of the data, or
    would be a part of the run or of its input. The message calls the run ``place``.
    """
    if suffix is not None:
        if not target.name:
            raise UsageError(f"--out {target} has no name of its own; add one")
        if target.is_dir():
            raise UsageError(
                f"{target} is a folder, where a file would go; move it away or name another place"
            )
    real = Path(os.path.realpath(target))
    if any(real.is_relative_to(os.path.realpath(run / name)) for name in _OF_A_RUN):
        raise UsageError(
            f"{target} belongs to the run {place or run}, and is never overwritten; choose another output"
        )
    if real.is_relative_to(os.path.realpath(run)):
        return  # a report has its place in the run, and the run may lie in its input's folder
    for path in (*(paths_in(run) or []), *(Path(entry["path"]) for entry in _entries(run))):
        if real.is_relative_to(os.path.realpath(path)) or _matches(target, path):
            raise UsageError(
                f"{target} would be a part of the input {path}, which is never overwritten; choose another output"
            )
    if suffix is not None and target.exists() and target.suffix.lower() != suffix:
        raise UsageError(f"{target} is there and is no {suffix} file; choose another output")


def _matches(target: Path, pattern: Path) -> bool:
    """Whether a glob pattern would find a file there; as in a shell, ``*`` stays within one folder."""
    if not _is_pattern(pattern):
        return False
    plain = Path(os.path.normpath(target.absolute()))
    if "**" in pattern.parts:
        return fnmatch.fnmatchcase(str(plain), str(pattern))
    return len(plain.parts) == len(pattern.parts) and all(
        map(fnmatch.fnmatchcase, plain.parts, pattern.parts)
    )


def missing(paths: Sequence[Path]) -> Path | None:
    """The first path that is not there and is no pattern."""
    return next((path for path in paths if not (path.exists() or _is_pattern(path))), None)


def is_other(told: Sequence[Path], paths: Sequence[Path]) -> bool:
    """Whether a run's input is another than ``paths``.

    It is the same if more paths have come in; and one that is gone was moved, not replaced.
    """
    ours = {path.resolve() for path in paths}
    return any(path.resolve() not in ours and (path.exists() or _is_pattern(path)) for path in told)


def paths_in(target: Path) -> list[Path] | None:
    """The paths of the run in a folder, or None where the folder holds no run of ours."""
    try:
        info = json.loads((target / "run.json").read_text(encoding="utf-8"))
        told = rebased(info["input"], target)
        # An older version's run has a single path; it is taken up like any other.
        return [Path(path) for path in told.get("paths", [told["path"]])] if "plan" in info else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def rebased(told: Mapping[str, Any], target: Path) -> dict[str, Any]:
    """What ``describe`` has told of the input of the run in a folder, as it is on this machine.

    Records in memory that were scored to a URL lie below the caches, which are elsewhere on every machine.
    """
    own = str(target.absolute() / _IN_MEMORY)
    inner = str(Path(FOLDER, target.absolute().parent.name, target.name, _IN_MEMORY))
    if told.get("path") == own or not str(told.get("path")).endswith(f"/{inner}"):
        return dict(told)
    return {**told, "path": own, "paths": [own], "files": [{**entry, "path": own} for entry in told["files"]]}


def _lacks(
    files: Iterable[Path], entries: Sequence[Mapping[str, Any]], told: Sequence[Path], paths: Sequence[Path]
) -> bool:
    """Whether a run's paths are gone and these files are not what was there."""
    ours = {path.resolve() for path in paths}
    if all(path.resolve() in ours or path.exists() for path in told):
        return False
    sizes = {entry["bytes"] for entry in entries}
    alike = [path for path in files if (state := _state(path)) and state[0] in sizes]
    found = {_entry(path)["sha256"] for path in alike}
    gone = {entry["sha256"] for entry in entries if not Path(entry["path"]).exists()}
    return not gone or not gone <= found


def _entries(target: Path) -> list[dict[str, Any]]:
    """The files that the input of the run in a folder is known to consist of, as ``describe`` has described them."""
    try:
        info = json.loads((target / "run.json").read_text(encoding="utf-8"))
        return [
            {"path": str(entry["path"]), "bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for entry in info["input"]["files"]
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def in_words(paths: Sequence[Path | str]) -> str:
    """The first path, and how many more there are."""
    return f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}"


def materialise(records: Iterable[Mapping[str, Any]], target: Path) -> list[Path]:
    """Records in memory as a file in the run directory."""
    try:
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a record cannot be written as JSON: {error}; pass texts, numbers and paths"
        ) from error
    path = target.absolute() / _IN_MEMORY
    text = "".join(f"{line}\n" for line in lines)
    with writing(path), whole(path, ()) as draft:
        # Half a surrogate pair has no UTF-8 form; its backslash form is the JSON escape that the reader knows.
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    return [path]


def find_root(reader: Reader) -> Path:
    """The folder that image paths start from, by the first records.

    For a folder it is asked itself first, then each folder from that of a record's file up to it; of those the one
    wins where the most pictures are.
    """
    samples = (r for r in itertools.islice(reader.records(), ROOT_RECORDS) if isinstance(r, Sample))
    pictures = ((Path(s.origin.file), m.reference) for s in samples for m in s.media if m.data is None)
    first = list(itertools.islice(pictures, ROOT_PROBE))
    references = [reference for _, reference in first]
    if not reader.path.is_dir():
        return default_image_root(reader.path, references)
    within = (folder for file, _ in first for folder in file.parents if folder.is_relative_to(reader.path))
    roots = [
        default_image_root(folder / _IN_MEMORY, references)
        for folder in dict.fromkeys((reader.path, *within))
    ]
    told = [name for name in references if ".." not in Path(name).parts]
    # Path.is_file raises for names that are too long.
    return max(roots, key=lambda root: sum(os.path.isfile(root / name) for name in told))  # noqa: PTH113


# ---------------------------------------------------------------- unchanged


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Size and time of change of every file of an input: tells cheaply whether one is still the same."""

    states: tuple[tuple[Path, tuple[int, int] | None], ...]

    @classmethod
    def of(cls, reader: Reader) -> Snapshot:
        """The files as they are now."""
        return cls(tuple((path, _state(path)) for path in reader.files))

    def changed(self) -> Path | None:
        """The first file that is no longer as it was."""
        return next((path for path, state in self.states if _state(path) != state), None)

    def check(self) -> None:
        """Raise RunError where a file has changed while it was read."""
        path = self.changed()
        if path is not None:
            raise RunError(
                f"{path} changed while it was scored; when it is finished run the same command again, "
                "which scores only what is new"
            )

    def records(self, reader: Reader) -> Iterator[Record]:
        """The reader's records; a file that can no longer be read is told as one that has changed."""
        try:
            yield from reader.records()
        except (OSError, InputError) as error:
            self.check()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{error.filename or reader.path} cannot be read ({error.strerror}); put it right and run the "
                "same command again"
            ) from error


def describe(reader: Reader, paths: Sequence[Path], format: str | None, names: Names) -> dict[str, Any]:
    """What ``run.json`` keeps of an input: how to open it again, and what every file was."""
    files = [_entry(path) for path in reader.files]
    return {
        "path": str(reader.path.resolve()),
        "paths": [str(path.absolute()) for path in paths],
        "format": reader.name,
        "format_asked": format,
        "names": names.as_json(),
        "layers": list(reader.layers),
        "bytes": sum(entry["bytes"] for entry in files),
        "sha256": _over_all(files),
        "n_files": len(files),
        "files": files[:FILES_LISTED],
        **left_out(reader),
    }


def left_out(reader: Reader) -> dict[str, Any]:
    """What lies beside the records and is not read: ``notes``, in sentences, and ``others``, files by their ending."""
    if not isinstance(reader, Collection):
        return {"notes": [], "others": {}}
    return {"notes": list(reader.notes), "others": dict(reader.others)}


def gone_or_changed(told: Mapping[str, Any], command: str) -> str | None:
    """Why an input that ``describe`` has described cannot be opened again, as far as names and sizes of files tell."""
    for entry in told["files"]:
        path = Path(entry["path"])
        if not path.is_file():
            return f"the run's input {path} is no longer there; put it back, or score it where it is"
        # One that could not be read has no sha256, and no size either.
        if entry["sha256"] and path.stat().st_size != entry["bytes"]:
            return _changed(path, command)
    return None


def reopened(told: Mapping[str, Any], command: str) -> Reader:
    """The reader of an input that ``describe`` has described.

    Raises InputError, naming the file, where it has moved or changed since.
    """
    why = gone_or_changed(told, command)
    if why is not None:
        raise InputError(why)
    found = {}
    for entry in told["files"]:
        path = Path(entry["path"])
        found[path] = _entry(path)
        if found[path] != entry:
            raise InputError(_changed(path, command))
    reader = _opened_again(told)
    if _over_all([found.get(path) or _entry(path) for path in reader.files]) != told["sha256"]:
        raise InputError(
            f"{reader.path} has changed since it was scored: {len(reader.files):,} files now, "
            f"{told['n_files']:,} then; run again: {command}"
        )
    return reader


class Reread:
    """Single records of an input that ``describe`` has described, read again where their own file is as it was.

    Other files of the input may be gone or changed: a record says by its sha256 that it is the same.
    """

    def __init__(self, told: Mapping[str, Any], command: str) -> None:
        self._told = told
        self._command = command
        self._entries = {shown(Path(entry["path"])): entry for entry in told["files"]}
        self._faults: dict[str, str | None] = {}

    def record(self, origin: Origin) -> Record:
        """The record at ``origin``. Raises InputError, naming the file, where it has moved or changed since."""
        if origin.file not in self._faults:
            self._faults[origin.file] = self._fault(origin.file)
        fault = self._faults[origin.file]
        if fault is not None:
            raise InputError(fault)
        if isinstance(self._reader, InputError):
            raise InputError(str(self._reader))
        return self._reader.record(origin)

    def _fault(self, file: str) -> str | None:
        entry = self._entries.get(file)
        if entry is None:
            return None
        why = gone_or_changed({"files": [entry]}, self._command)
        path = Path(entry["path"])
        return why or (None if _entry(path) == entry else _changed(path, self._command))

    @cached_property
    def _reader(self) -> Reader | InputError:
        """The reader of what is still there, or why there is none: found out once, not for every record."""
        there = [path for path in map(Path, self._told["paths"]) if path.exists() or _is_pattern(path)]
        try:
            return _opened_again(self._told, there)
        except InputError as error:
            return error


def _opened_again(told: Mapping[str, Any], there: Sequence[Path] | None = None) -> Reader:
    """The reader of all paths of an input, or of those that are still there, whatever their content has become."""
    paths = [Path(path) for path in told["paths"]]
    format = told["format"] if len(paths) == 1 and paths[0].is_file() else told["format_asked"]
    return opened(there or paths, format, Names(**told["names"]))


def _changed(path: Path, command: str) -> str:
    return f"{path} has changed since it was scored; run again: {command}"


def _entry(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return {"path": str(path), "bytes": stream.tell(), "sha256": digest}
    except OSError:  # the reader says so in an issue
        return {"path": str(path), "bytes": 0, "sha256": ""}


def _over_all(files: Sequence[Mapping[str, Any]]) -> str:
    """Of a single file its own; of several over each one's."""
    if len(files) == 1:
        return str(files[0]["sha256"])
    return hashlib.sha256("".join(f"{f['sha256']}\n" for f in files).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _fixed(path: Path) -> Path:
    """The path, or the part of a pattern before its first wildcard."""
    if not _is_pattern(path):
        return path
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    return Path(*parts)
