"""A run at a URL: a process works in a folder of this machine, which is made equal to what is at the URL.

The URL is any that fsspec knows; credentials come from where its file systems look for them (the environment, their
own files, ``FSSPEC_CONFIG``) and are kept nowhere. What is at the URL wins. A file here counts as equal to the one
there while it carries its stamp: size and checksum, or time of change where a file system tells no checksum, in one
number, which is this file's own time of change.

An object store locks nothing. Two runs at a time that write to one URL are kept apart on one machine alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlitqc.errors import RunError, UsageError
from vlitqc.formats.writing import remove
from vlitqc.models.cache import cache_folder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MARKER = "done.json"
"""The file of a shard's folder without which it counts as nothing."""
FOLDER = "runs"
"""The folder below that of the caches in which mirrors lie."""

_URL = re.compile(r"[A-Za-z][\w+.:-]+://")
_WAS_URL = re.compile(r"[A-Za-z][\w+.-]+:/")
_SECRET = re.compile(
    r"//(?:(?!://)[^@])*:(?!//)(?:(?!://)[^@])*@|https?://[^/@]*@"
    r"|[?&][^=&\s]*(?:sig|sas|token|key|secret|passw|credential)[^=&\s]*=[^&\s]*",
    re.IGNORECASE,
)
"""A user's name with a password, in which there may be slashes; a token before a host; a signature behind a name."""
_ODD = re.compile(r"/\.{1,2}(?:/|$)|[^:/]//")
"""A part of a path that is empty, ``.`` or ``..``."""
_STATES = (
    "ETag",
    "etag",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "modified",
    "created",
)
"""What file systems call the checksum or the time of change of a file, checksums first."""


def is_url(place: object) -> bool:
    """Whether it is the text of a URL, and no path."""
    return isinstance(place, str) and _URL.match(place) is not None


def local(place: str | Path) -> Path:
    """The path. Raises UsageError for a URL, and for a path that was made of one."""
    if is_url(place) or (isinstance(place, Path) and _WAS_URL.match(str(place))):
        raise UsageError(f"{_bare(str(place))} is a URL; name a file or a folder")
    return Path(place)


def located(place: str | Path) -> tuple[Path, Mirror | None]:
    """The folder on this machine for a run at this path or URL, and the mirror whose it is; none for ``file:``.

    Raises UsageError for a URL that holds a password or names no folder, and for a path that was made of one.
    """
    if not is_url(place):
        return local(place), None
    url = str(place)
    if _SECRET.search(url):
        raise UsageError(
            "the URL holds a password or a key, which the run would keep; give it in the environment or in "
            "FSSPEC_CONFIG"
        )
    if url.startswith(("file://", "local://")):
        from fsspec.implementations.local import LocalFileSystem

        return Path(LocalFileSystem._strip_protocol(url)), None
    mirror = Mirror(url)
    return mirror.folder, mirror


class Mirror:
    """What is at ``url``, in ``folder``. Names are those of files and folders below both, with ``/``.

    It can be sent to another machine, where its folder is that machine's own. Where the URL cannot be used every
    method raises UsageError or RunError, which says so in a sentence.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if self.url.endswith(":"):
            raise UsageError(f"{url} names no folder; add one, as in s3://bucket/run")
        if _ODD.search(self.url):
            raise UsageError(f"{url} has a part that is empty, '.' or '..'; leave it out")

    def __reduce__(self) -> tuple[type[Mirror], tuple[str]]:
        return Mirror, (self.url,)

    @classmethod
    def at(cls, folder: Path) -> Mirror | None:
        """The mirror that has this folder; None for any other."""
        with suppress(OSError, ValueError, UsageError):
            made = cls((folder.parent / "url").read_text(encoding="utf-8"))
            return made if made.folder == folder.absolute() else None
        return None

    @cached_property
    def folder(self) -> Path:
        """Below ``cache_folder``; it need not be there."""
        name = re.sub(r"[^\w.-]", "_", self.url.rpartition("/")[2]).strip(".")[:100] or "run"
        mark = hashlib.sha256(self.url.encode()).hexdigest()[:24]
        return cache_folder().absolute() / FOLDER / mark / name

    def settle(self) -> None:
        """Before a run: have ``run.json`` here if it is there, and else nothing but a lock.

        Raises UsageError where the URL holds other files and no run.
        """
        self.pull("run.json")
        if (self.folder / "run.json").is_file():
            return
        with self._reaching("read"):
            self._fs.invalidate_cache()
            try:
                others = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                others = []
        if any(path.strip("/") != self._root.strip("/") for path in others):
            raise UsageError(f"{self.url} holds other files; pass --out URL, an empty or a new folder")
        for path in self.folder.iterdir():
            if path.name != ".lock":
                remove(path)

    def read(self, name: str) -> bytes | None:
        """The content of a file at the URL; None where there is none."""
        with self._reaching("read"):
            try:
                content: bytes = self._fs.cat_file(self._there(name))
            except FileNotFoundError:
                return None
        return content

    def push(self, *names: str) -> None:
        """Make what is at the URL of these files and folders equal to what is here.

        The marker of a shard is the first thing that goes, and the last that comes.
        """
        for name in names:
            here = self.folder / name
            files = [p for p in here.rglob("[!.]*") if p.is_file()] if here.is_dir() else [here]
            ours = {path.relative_to(self.folder).as_posix(): path for path in files}
            theirs = self._listed(name)
            marker = f"{name}/{MARKER}"
            with self._reaching("written"):
                self._delete({marker} & theirs.keys())
                self._put({inner: path for inner, path in ours.items() if inner != marker})
                self._delete(theirs.keys() - ours.keys() - {marker})
                self._put({inner: path for inner, path in ours.items() if inner == marker})
            for inner, info in self._listed(name).items():
                if inner in ours:
                    os.utime(ours[inner], ns=(_stamp(info), _stamp(info)))

    def sweep(self, name: str) -> None:
        """Delete at the URL what killed runs left half-written in this folder."""
        from vlitqc.engine.disk import is_draft

        found = [inner for inner in self._listed(name) if is_draft(inner.rpartition("/")[2])]
        with self._reaching("written"):
            self._delete(found)

    def remove(self, *names: str) -> None:
        """Delete these files and folders at the URL."""
        found = self._listed(*names)
        with self._reaching("written"):
            self._delete(found)

    def drop(self, *names: str, only_here: bool = True) -> Mapping[str, Mapping[str, Any]]:
        """Delete here what is not equal to what is at the URL of these files and folders; ``only_here``: also what
        is not there at all.

        Returns what is there and not here. Of a shard with a difference the marker is the first thing that goes.
        """
        # It imports what a command line that only asks whether a path is a URL does without.
        from vlitqc.engine.disk import is_draft, writing

        home = self.folder.parent / "url"
        with writing(self.folder, "VLITQC_CACHE"):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not home.exists():
                home.write_text(self.url, encoding="utf-8")
        listed = self._listed(*names).items()
        theirs = {k: v for k, v in listed if k in names or not is_draft(k.rpartition("/")[2])}
        ours: dict[str, int] = {}
        for path in (self.folder / name for name in names):
            files = [p for p in path.rglob("[!.]*") if p.is_file()] if path.is_dir() else [path]
            ours |= {p.relative_to(self.folder).as_posix(): p.stat().st_mtime_ns for p in files if p.exists()}
        wanted = {inner for inner, info in theirs.items() if ours.get(inner) != _stamp(info)}
        stale = {inner for inner in ours if inner in wanted or (only_here and inner not in theirs)}
        markers = {_marker_of(inner) for inner in wanted | stale}
        for inner in sorted(stale | (markers & ours.keys()), key=lambda inner: inner not in markers):
            (self.folder / inner).unlink(missing_ok=True)
        return {inner: info for inner, info in theirs.items() if inner in wanted | markers}

    def pull(self, *names: str, only_here: bool = True) -> None:
        """Make what is here of these files and folders equal to what is at the URL, the markers of shards last.

        ``only_here`` is that of ``drop``.
        """
        wanted = self.drop(*names, only_here=only_here)
        markers = {inner for inner in wanted if inner == _marker_of(inner)}
        for part in (wanted.keys() - markers, markers):
            here = {inner: self.folder / inner for inner in sorted(part)}
            drafts = {
                inner: path.with_name(f".{path.name}.{os.getpid()}.part") for inner, path in here.items()
            }
            with self._reaching("read"):
                for path in drafts.values():
                    path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    if here:
                        self._fs.get(list(map(self._there, here)), list(map(str, drafts.values())))
                    for inner, path in here.items():
                        os.utime(drafts[inner], ns=(_stamp(wanted[inner]), _stamp(wanted[inner])))
                        drafts[inner].replace(path)
                finally:
                    for path in drafts.values():
                        path.unlink(missing_ok=True)

    @cached_property
    def _place(self) -> tuple[AbstractFileSystem, str]:
        """The file system, which remembers no listing, and the folder in it."""
        from fsspec.core import url_to_fs

        with self._reaching("used"):
            fs, root = url_to_fs(self.url, use_listings_cache=False)
        return fs, root.rstrip("/")

    @property
    def _fs(self) -> AbstractFileSystem:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def _there(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _listed(self, *names: str) -> dict[str, Mapping[str, Any]]:
        """Every file of these names at the URL, with what its file system says of it.

        Raises RunError for one whose name leads out of the run: whoever can write to the URL could write anywhere here.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for name in names:
            with self._reaching("read"):
                self._fs.invalidate_cache()
                try:
                    listed = self._fs.find(self._there(name), detail=True)
                except FileNotFoundError:
                    continue
            for path, info in listed.items():
                # A folder that began to be while it was looked for, and what consoles put where one shall be.
                if info.get("type") == "directory" or (str(path).endswith("/") and not info["size"]):
                    continue
                inner = str(path).removeprefix(f"{self._root}/")
                if not (f"{inner}/".startswith(f"{name}/")) or not _is_plain(inner):
                    raise RunError(
                        f"{self.url} holds a file with the name {inner!r}, which leads elsewhere; delete it"
                    )
                found[inner] = info
        return found

    def _put(self, files: Mapping[str, Path]) -> None:
        if files:
            self._fs.put(list(map(str, files.values())), list(map(self._there, files)))

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._fs.rm_file(self._there(name))

    @contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        """Within it every error is one of the file system at the URL, and becomes a sentence with its cure."""
        try:
            yield
        except (RunError, UsageError):
            raise
        except ImportError as error:
            s3 = self.url.startswith(("s3://", "s3a://"))
            cure = "install it with: pip install 'vlitqc[s3]'" if s3 else _told(error)
            raise UsageError(f"{self.url} needs a package that is not here; {cure}") from None
        except Exception as error:  # every file system raises what its own library does
            told = _told(error)
            if isinstance(error, ValueError) and "rotocol" in told:
                raise UsageError(
                    f"{self.url}: fsspec knows no file system for it ({told}); name a path or another URL"
                ) from None
            if isinstance(error, PermissionError) or "redential" in type(error).__name__:
                cure = (
                    "give credentials that may read and write there, on every machine that works on the run"
                )
            elif isinstance(error, FileNotFoundError) and what == "written":
                cure = "make the bucket first, or name another place"
            else:
                cure = "put it right, and the same command goes on"
            raise RunError(f"{self.url} cannot be {what} ({told}); {cure}") from error


def _told(error: BaseException) -> str:
    """The first line of what a library says, without a password."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _bare(lines[0]).rstrip(".")[:200]


def _bare(text: str) -> str:
    """The text without what is secret in a URL."""
    return _SECRET.sub("…", text)


def _stamp(info: Mapping[str, Any]) -> int:
    """The state of a file as a number of nanoseconds; another every time where its file system tells no state."""
    state = next((info[key] for key in _STATES if info.get(key)), None)
    digest = hashlib.sha256(f"{info['size']} {state or os.urandom(8)!r}".encode()).digest()
    return int.from_bytes(digest[:7])


def _marker_of(inner: str) -> str:
    """The marker of the shard that a file lies in, whether there is one or not."""
    return f"{'/'.join(inner.split('/')[:2])}/{MARKER}"


def _is_plain(inner: str) -> bool:
    return all(part not in ("", ".", "..") for part in inner.split("/")) and not re.search(r"[\0\\]", inner)
