"""The media of samples, each read once a batch."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from vlitqc.media import content, pictures
from vlitqc.media.clips import Header, read_header
from vlitqc.media.files import (
    SCHEME,
    MediaFault,
    as_fault,
    check_size,
    find,
    open_file,
    read_file,
    short,
)
from vlitqc.media.pictures import MAX_PIXELS, Picture
from vlitqc.remote import Remote, RemoteFault, not_fetched
from vlitqc.types import Clip, FeatureCache, Image, Media, Rgb, Sample

MAX_BYTES = 1 << 28
MAX_DECODED_BYTES = 1 << 30
"""What the distinct pictures of one record may take when they are decoded."""

MOST_LOOKS = 256
"""So many looks at pictures that wait to be decoded are always borne; beyond, no more than one at every second."""

FRAME_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
"""What the pictures of a folder of frames are called."""

M = TypeVar("M")
S = TypeVar("S")


class MediaLoader:
    """Decodes pictures under one folder to RGB, upright, the longest side at most ``longest_side`` pixels, and reads
    the headers of videos and sounds.

    Nothing is enlarged. ``remote`` fetches media with URLs; without it no URL is followed. ``max_pixels`` and
    ``max_bytes`` bound what one picture may cost; ``allow_outside`` permits paths that leave ``root``, by ``..``,
    absolutely, or through a link. ``threads`` read at once. A medium that cannot be had comes as an ``Image`` or
    ``Clip`` with a ``fault``; nothing is raised for it.

    With a ``cache`` a picture that was decoded before is read and hashed, and decoded only when somebody looks at
    its pixels, which those named by ``viewers`` are not expected to do a second time. Where most are looked at all
    the same, such as by a judge, all are decoded at once again. ``undecoded`` tells where that failed so late. No
    picture of more than ``waiting`` bytes (by default what its pixels can take) waits.

    Decoding sets ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` to False for the process, since a picture filled up
    with grey must not pass for a whole one, and keeps Pillow's warnings about damaged metadata quiet.
    """

    def __init__(
        self,
        root: Path,
        *,
        longest_side: int,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        allow_outside: bool = False,
        remote: Remote | None = None,
        threads: int = 4,
        cache: FeatureCache | None = None,
        viewers: str = "",
        waiting: int | None = None,
    ) -> None:
        if longest_side < 1 or threads < 1:
            raise ValueError(f"longest_side and threads are at least 1; got {longest_side} and {threads}")
        self.root = root.resolve()
        self.longest_side = longest_side
        self.max_pixels = min(max_pixels, MAX_PIXELS)
        self.max_bytes = max_bytes
        self.allow_outside = allow_outside
        self.remote = remote
        self.threads = threads
        self.cache = cache
        # Bytes that wait to be decoded take no more than pixels would.
        self._waiting = 3 * longest_side**2 if waiting is None else waiting
        self._space = f"picture header {longest_side} {self.max_pixels} {viewers}"
        self._late = self._looked_at = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._spent = 0.0

    def load(self, media: Media) -> Image:
        """The picture, or its fault."""
        decoded = _Decoded()
        image = self._load(media, decoded)
        self._keep(decoded)
        return image

    def load_batch(self, samples: Sequence[Sample], *, at_once: bool = False) -> list[list[Image]]:
        """``result[i][j]``: picture ``j`` of ``samples[i]``; ``at_once``: decoded, whatever the cache knows of it.

        Each distinct reference is read once and each distinct content decoded once: equal pictures share their
        ``pixels``. Of a record whose pictures take more than ``MAX_DECODED_BYTES``, all from the one that goes
        beyond it on have a fault.
        """
        decoded = _Decoded(at_once=at_once)
        safe = MAX_DECODED_BYTES // (3 * self.longest_side**2)
        rows = [sample.images for sample in samples]
        read = self._each(
            [row if len(row) <= safe else () for row in rows], lambda media: self._load(media, decoded)
        )
        self._keep(decoded)
        return [
            found if len(row) <= safe else self._timed(self._bounded, row)
            for row, found in zip(rows, read, strict=True)
        ]

    def clip(self, media: Media) -> Clip:
        """What the header of a video or sound says, or its fault."""
        kind: Literal["video", "audio"] = "video" if media.kind == "video" else "audio"
        n_bytes, sha256 = 0, ""
        if media.data is not None:
            n_bytes, sha256 = len(media.data), hashlib.sha256(media.data).hexdigest()
        try:
            header, n_bytes = self._header(media, kind)
        except MediaFault as fault:
            told = self._told(media, fault)
            return Clip(kind, media.reference, told, n_bytes=n_bytes, sha256=sha256, retry=fault.retry)
        return Clip(
            kind,
            media.reference,
            None,
            format=header.format,
            codec=header.codec,
            seconds=header.seconds,
            frames=header.frames,
            width=header.width,
            height=header.height,
            fps=header.fps,
            sample_rate=header.sample_rate,
            channels=header.channels,
            n_bytes=n_bytes,
            sha256=sha256,
        )

    def clips(self, samples: Sequence[Sample]) -> list[list[Clip]]:
        """``result[i][j]``: video or sound ``j`` of ``samples[i]``, each distinct reference read once."""
        return self._each([sample.clips for sample in samples], self.clip)

    def gather(self, media: Iterable[Media]) -> None:
        """Fetch those with URLs, many at once, where that is allowed; what fails comes with its fault later."""
        if self.remote is not None:
            named = (r for m in media if m.data is None for r in m.frames or (m.reference,))
            self.remote.gather(filter(SCHEME.match, named), self.max_bytes)

    def fingerprint(self, media: Media) -> str:
        """Tells cheaply whether the medium is still the same: size and time of change, no content read.

        A URL that may be fetched is fetched for it, and what keeps it from being had is part of the fingerprint.
        """
        if media.data is not None:
            return f"data-{hashlib.sha256(media.data).hexdigest()}"
        return "+".join(map(self._state, media.frames or (media.reference,)))

    def _state(self, reference: str) -> str:
        try:
            found = self._find(reference).stat()
        except MediaFault as fault:
            kind = str(fault).partition(":")[0]
            return str(fault) if kind == "remote" and self.remote else kind
        except (OSError, ValueError):
            return "missing"
        return f"{found.st_size}-{found.st_mtime_ns}"

    def _each(self, rows: Sequence[Sequence[Media]], read: Callable[[Media], M]) -> list[list[M]]:
        """``read`` of every medium, in its place, called once for each distinct one."""
        wanted = {_key(media): media for row in rows for media in row}
        if not wanted:
            return [[] for _ in rows]
        each = self._pool.map if min(self.threads, len(wanted)) > 1 else map
        results = list(each(partial(self._timed, read), wanted.values()))
        found = dict(zip(wanted, results, strict=True))
        return [[found[_key(media)] for media in row] for row in rows]

    def spent(self) -> float:
        """Processor seconds that reading and decoding took since the last call, all threads together."""
        with self._lock:
            spent, self._spent = self._spent, 0.0
        return spent

    def _timed(self, work: Callable[[S], M], of: S) -> M:
        started = time.thread_time()
        try:
            return work(of)
        finally:
            spent = time.thread_time() - started
            with self._lock:
                self._spent += spent

    def _bounded(self, row: Sequence[Media]) -> list[Image]:
        """The pictures of one record in their order, as far as the bound on a record goes."""
        decoded = _Decoded(at_once=True)
        found: dict[tuple[str, ...], Image] = {}
        seen: set[str] = set()
        left = MAX_DECODED_BYTES
        over = f"too large: the record's pictures up to this one take over {left} bytes decoded"
        for key, media in {_key(media): media for media in row}.items():
            if left >= 0:
                image = self._load(media, decoded)
                if image.pixels is not None and image.sha256 not in seen:
                    seen.add(image.sha256)
                    left -= image.pixels.nbytes
            if left < 0:
                image = Image(media.reference, None, over)
            found[key] = image
        return [found[_key(media)] for media in row]

    def path(self, media: Media) -> Path | None:
        """The file that a medium names, there or not; None where the record carries it or it may not be read."""
        if media.data is not None:
            return None
        try:
            return self._find(media.reference)
        except MediaFault:
            return None

    def _find(self, reference: str) -> Path:
        if not SCHEME.match(reference):
            return find(self.root, reference, self.allow_outside)
        if self.remote is None:
            raise MediaFault(f"remote: {not_fetched(reference)}")
        try:
            return self.remote.fetch(reference, self.max_bytes)
        except RemoteFault as fault:
            raise MediaFault(f"remote: {fault}", retry=fault.passing) from fault

    def _told(self, media: Media, fault: MediaFault) -> str:
        """The fault, with the cure where a server once sent what cannot be read."""
        if self.remote is None or media.data is not None or fault.retry or not SCHEME.match(media.reference):
            return str(fault)
        cure = self.remote.cure(media.reference)
        return str(fault).removesuffix(cure) + cure

    def _read(self, media: Media) -> bytes:
        if media.data is None:
            return read_file(self._find(media.reference), media.reference, self.root, self.max_bytes)
        check_size(len(media.data), self.max_bytes)
        return media.data

    def _load(self, media: Media, decoded: _Decoded) -> Image:
        try:
            data = self._read(media)
        except MediaFault as fault:
            return Image(media.reference, None, str(fault), retry=fault.retry)
        except MemoryError:
            return Image(media.reference, None, "unreadable: no memory was left to read it", retry=True)
        sha256 = hashlib.sha256(data).hexdigest()
        source: Rgb | _Late
        try:
            known = self._known(decoded, sha256, len(data))
            decode = partial(self._decode, decoded, sha256, data, late=known is not None)
            if known is None:
                picture = decoded.picture(sha256, decode)
                source = picture.pixels
                width, height, form, frames = picture.width, picture.height, picture.format, picture.frames
            else:
                width, height, form, frames = known
                source = _Late(partial(decoded.picture, sha256, decode))
        except MediaFault as fault:
            told = self._told(media, fault)
            return Image(media.reference, None, told, sha256, n_bytes=len(data), retry=fault.retry)
        return Image(
            media.reference,
            source,
            None,
            sha256,
            width,
            height,
            form,
            len(data),
            frames,
            side=self.longest_side,
        )

    def _decode(self, decoded: _Decoded, sha256: str, data: bytes, *, late: bool) -> Picture:
        if late:
            with self._lock:
                self._looked_at += 1
        picture = pictures.decode(data, self.longest_side, self.max_pixels)
        decoded.headers[sha256] = [picture.width, picture.height, picture.format, picture.frames]
        return picture

    def _known(self, decoded: _Decoded, sha256: str, n_bytes: int) -> tuple[int, int, str, int] | None:
        """Width, height, format and frames of a picture that may be decoded late."""
        if decoded.at_once or self.cache is None or n_bytes > self._waiting:
            return None
        header = self.cache.find(self._space, [sha256]).get(sha256)
        # No more wait in vain than not.
        if not _is_header(header) or 2 * self._looked_at > max(2 * MOST_LOOKS, self._late):
            return None
        with self._lock:
            self._late += sha256 not in decoded.late
            decoded.late.add(sha256)
        return header[0], header[1], header[2], header[3]

    def _keep(self, decoded: _Decoded) -> None:
        if self.cache is not None:
            self.cache.keep(self._space, decoded.headers)

    def _header(self, media: Media, kind: Literal["video", "audio"]) -> tuple[Header, int]:
        if media.data is not None:
            if kind == "video" and _is_frame(media.data[:16]):
                return self._pictured(media, max(1, len(media.frames))), len(media.data)
            return read_header(BytesIO(media.data), len(media.data), kind), len(media.data)
        if media.frames:
            return self._frames(media.frames)
        path = self._find(media.reference)
        try:
            if kind == "video" and path.is_dir():
                return self._frames(_listed(path, media.reference))
            file, size = open_file(path, media.reference, self.root)
            with file:
                if kind == "video" and _is_frame(file.read(16)):
                    return self._frames((media.reference,))
                file.seek(0)
                return read_header(file, size, kind), size
        except OSError as error:
            raise as_fault(error, media.reference, self.root) from error

    def _frames(self, references: Sequence[str]) -> tuple[Header, int]:
        """A video that comes as pictures: all must be files with content, and the first must be a picture."""
        n_bytes, gone, bad = 0, [], []
        for reference in references:
            try:
                status = self._find(reference).stat()
            except (FileNotFoundError, NotADirectoryError):
                gone.append(reference)
                continue
            except OSError as error:
                raise as_fault(error, reference, self.root) from error
            n_bytes += status.st_size
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                bad.append(reference)
        for word, found in (("missing: ", gone), ("unreadable: empty or no files: ", bad)):
            if found:
                raise MediaFault(f"{word}{len(found)} of {len(references)} frames, first {short(found[0])}")
        return self._pictured(Media("image", references[0]), len(references)), n_bytes

    def _pictured(self, first: Media, n: int) -> Header:
        image = self.load(first)
        if image.fault is not None:
            kind, _, cause = image.fault.partition(":")
            raise MediaFault(f"{kind}: frame 1 of {n}:{cause}", retry=image.retry)
        frames = image.frames if n == 1 else n
        return Header("frames", image.format, None, frames=frames, width=image.width, height=image.height)


def _is_frame(head: bytes) -> bool:
    """Whether a video's file or bytes are a picture: some data sets name a video by its first frame."""
    return content.picture_format(head) not in (None, "GIF")


def _listed(folder: Path, reference: str) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if content.suffix(e.name) in FRAME_SUFFIXES)
    if not names:
        raise MediaFault(f"missing: the folder {short(reference)} holds no frames")
    return tuple(f"{reference}/{name}" for name in names)


def undecoded(images: Iterable[Sequence[Image]]) -> bool:
    """Whether somebody looked at one of the pictures and it could not be decoded, late as it was."""
    return any(isinstance(image.source, _Late) and image.source.failed for row in images for image in row)


class _Late:
    """Decodes a picture when somebody looks at it; ``failed`` where that could not be done."""

    def __init__(self, decode: Callable[[], Picture]) -> None:
        self._decode = decode
        self.failed = False

    def __call__(self) -> Rgb:
        try:
            return self._decode().pixels
        except Exception:
            self.failed = True
            raise


def _is_header(found: Any) -> TypeGuard[list[Any]]:
    """Whether it is what ``_decode`` keeps."""
    return isinstance(found, list) and list(map(type, found)) == [int, int, str, int]


class _Decoded:
    """Decodings of one batch by content hash. Whoever asks first decodes; the others wait for it.

    ``at_once``: no picture waits for somebody to look at it. ``late`` are the contents that do, and ``headers`` those
    of the pictures that were decoded.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.late: set[str] = set()
        self.headers: dict[str, list[int | str]] = {}
        self._lock = threading.Lock()
        self._futures: dict[str, Future[Picture]] = {}

    def picture(self, sha256: str, decode: Callable[[], Picture]) -> Picture:
        """The decoding of the content ``sha256``; raises what ``decode`` raised."""
        with self._lock:
            future = self._futures.get(sha256)
            mine = future is None
            if future is None:
                future = self._futures[sha256] = Future()
        if mine:
            try:
                future.set_result(decode())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()


def _key(media: Media) -> tuple[str, ...]:
    sha256 = "" if media.data is None else hashlib.sha256(media.data).hexdigest()
    return sha256, media.kind, media.reference, *media.frames
