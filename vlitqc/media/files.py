"""Files that data names: found without leaving the media root, opened without blocking, read without trust."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path, PurePath
from time import thread_time
from typing import BinaryIO

ROOT_DEPTH = 2
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PASSING = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
)


class MediaFault(Exception):
    """Why a medium cannot be had, in the words of ``Image.fault``. ``retry``: it may pass."""

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


class TooSlow(MediaFault):
    """It takes too long here; a faster machine might read it."""


class Bounded(BytesIO):
    """Bytes whose reader is stopped, with TooSlow, once it has computed for ``seconds`` of its thread's time.

    Time of the thread and not of the clock, so that a busy machine faults no picture that a free one would read.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._end = thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """As of BytesIO."""
        if thread_time() > self._end:
            told = f"unreadable: it takes over {self._seconds:g} seconds to decode, as hostile files do"
            raise TooSlow(told)
        return super().read(size)


def short(reference: str) -> str:
    """The reference as a message shows it."""
    return reference if len(reference) <= 200 else f"{reference[:197]}…"


def find(root: Path, reference: str, allow_outside: bool) -> Path:
    """The path of ``reference`` under ``root``, links followed. It need not exist.

    Raises MediaFault for a URL, a path that leaves ``root`` (unless allowed), and what no path can be.
    """
    if SCHEME.match(reference):
        raise MediaFault(f"remote: {short(reference)} not fetched")
    if reference.startswith("data:"):
        raise MediaFault(f"unreadable: {short(reference)} holds no valid base64")
    if not reference or "\0" in reference:
        raise MediaFault(f"missing: {reference!r} names no file; not found under {root}")
    try:
        path = (root / reference).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # A loop of links, a name too long for the file system, or a lone surrogate that no file name can hold.
        raise MediaFault(f"unreadable: {short(reference)!a}: {error}") from error
    if not allow_outside and not path.is_relative_to(root):
        raise MediaFault(f"outside: path leaves the image root: {short(reference)}")
    return path


def open_file(path: Path, reference: str, root: Path) -> tuple[BinaryIO, int]:
    """The regular file at ``path`` and its size. Raises MediaFault; a device or pipe is never opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MediaFault(f"unreadable: {short(reference)} is a folder or a device, not a file")
        # Should the file be swapped for a pipe or a link now, this neither waits nor follows.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise MediaFault(f"unreadable: {short(reference)} is a folder or a device, not a file")
    except OSError as error:
        raise as_fault(error, reference, root) from error
    return file, status.st_size


def as_fault(error: OSError, reference: str, root: Path) -> MediaFault:
    """What the operating system said, as a fault."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MediaFault(f"missing: {short(reference)} not found under {root}")
    return MediaFault(
        f"unreadable: {short(reference)}: {error.strerror or error}", retry=error.errno in _PASSING
    )


def read_file(path: Path, reference: str, root: Path, max_bytes: int) -> bytes:
    """The whole file. Raises MediaFault, also where it is shorter than it was when it was opened."""
    file, size = open_file(path, reference, root)
    with file:
        check_size(size, max_bytes)
        try:
            data = file.read(size)
        except OSError as error:
            raise as_fault(error, reference, root) from error
    if len(data) < size:
        told = f"unreadable: {short(reference)} shrank while it was read: {len(data)} of {size} bytes"
        raise MediaFault(told, retry=True)
    return data


def check_size(size: int, max_bytes: int) -> None:
    """Raises MediaFault for more than ``max_bytes``."""
    if size > max_bytes:
        raise MediaFault(f"too large: {size} bytes, over the limit of {max_bytes}")


def default_image_root(data_file: Path, references: Iterable[str]) -> Path:
    """The folder that pictures are relative to: the first where most of ``references`` exist.

    Tried in order: the folder of ``data_file``, its ``images``, then the same two of the folder above, and of the
    one above that. Where none holds most, the one that holds the most; where none holds any, the file's folder.
    Left aside are URLs, absolute paths, and paths with ``..``: the data must not choose what may be opened. Pass the
    first few dozen references: each is looked for in each folder.
    """
    folder = data_file.resolve().parent
    above = [folder, *folder.parents[:ROOT_DEPTH]]
    local = [r for r in references if _is_below(r)]
    best, most = folder, 0
    for candidate in (path for parent in above for path in (parent, parent / "images")):
        found = sum(_exists(candidate, reference) for reference in local)
        if found > most:
            best, most = candidate, found
        if 2 * found > len(local):
            return candidate
    return best


def _is_below(reference: str) -> bool:
    path = PurePath(reference)
    inside = not path.is_absolute() and ".." not in path.parts
    return bool(reference) and inside and not SCHEME.match(reference) and not reference.startswith("data:")


def _exists(root: Path, reference: str) -> bool:
    try:
        return (root / reference).is_file() and (root / reference).resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):
        return False
