"""Pictures: found, read and decoded without trusting them, once a batch, at the size the largest consumer needs."""

from __future__ import annotations

import hashlib
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageFile, UnidentifiedImageError

from vlitqc.types import Image, Media, Rgb, Sample

MAX_PIXELS = 178_956_970
"""Pillow's own limit, beyond which a picture counts as a decompression bomb."""

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000",
)  # fmt: skip
"""The only decoders that see a picture's bytes, in Pillow's names; MPO comes as JPEG, APNG as PNG.

Pillow knows more. Of those, EPS starts Ghostscript on the data, WMF and the stubs hand it to whatever is
registered, and TGA and others have no signature, so that they take for a picture what is none.
"""

MAX_BYTES = 1 << 28
DRAFT_GAP = 2
"""A JPEG is decoded at no less than this many times the wanted size, so that the reduction stays a clean one."""

ROOT_DEPTH = 2
_LFS = b"version https://git-lfs.github.com/spec/"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PIL_WARNINGS = r"PIL\."
_PIL_FILTER = ("ignore", None, Warning, re.compile(_PIL_WARNINGS), 0)
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PilImage.Transpose.FLIP_LEFT_RIGHT,
    3: PilImage.Transpose.ROTATE_180,
    4: PilImage.Transpose.FLIP_TOP_BOTTOM,
    5: PilImage.Transpose.TRANSPOSE,
    6: PilImage.Transpose.ROTATE_270,
    7: PilImage.Transpose.TRANSVERSE,
    8: PilImage.Transpose.ROTATE_90,
}
_ISSUE_KINDS = {
    "missing": "missing_image",
    "unreadable": "unreadable_image",
    "too large": "unreadable_image",
    "lfs pointer": "unreadable_image",
    "not an image": "unreadable_image",
    "truncated": "truncated_image",
    "outside": "path_outside_root",
    "remote": "remote_image",
}


class _Fault(Exception):
    """Why a picture cannot be had, in the words of ``Image.fault``."""


def issue_kind(fault: str) -> str:
    """The issue kind of an ``Image.fault``: what stands before its first colon decides.

    Raises KeyError for a text that no fault begins with.
    """
    return _ISSUE_KINDS[fault.partition(":")[0]]


class MediaLoader:
    """Decodes pictures under one folder to RGB, upright, the longest side at most ``longest_side`` pixels.

    Nothing is enlarged and no URL is ever followed. ``max_pixels`` and ``max_bytes`` bound what one picture may
    cost; ``allow_outside`` permits paths that leave ``root``, by ``..``, absolutely, or through a link.
    ``threads`` decode at once in ``load_batch``. A picture that cannot be had comes as an ``Image`` with a
    ``fault``; nothing is raised for it.

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
        threads: int = 4,
    ) -> None:
        if longest_side < 1 or threads < 1:
            raise ValueError(f"longest_side and threads are at least 1; got {longest_side} and {threads}")
        self.root = root.resolve()
        self.longest_side = longest_side
        self.max_pixels = min(max_pixels, MAX_PIXELS)
        self.max_bytes = max_bytes
        self.allow_outside = allow_outside
        self.threads = threads

    def load(self, media: Media) -> Image:
        """The picture, or its fault."""
        return self._load(media, _Decoded())

    def load_batch(self, samples: Sequence[Sample]) -> list[list[Image]]:
        """``result[i][j]``: picture ``j`` of ``samples[i]``.

        Each distinct reference is read once and each distinct content decoded once: equal pictures share their
        ``pixels``.
        """
        wanted = {_key(media): media for sample in samples for media in sample.images}
        decoded = _Decoded()
        if min(self.threads, len(wanted)) > 1:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
                images = list(pool.map(lambda media: self._load(media, decoded), wanted.values()))
        else:
            images = [self._load(media, decoded) for media in wanted.values()]
        loaded = dict(zip(wanted, images, strict=True))
        return [[loaded[_key(media)] for media in sample.images] for sample in samples]

    def fingerprint(self, media: Media) -> str:
        """Tells cheaply whether the medium is still the same: size and time of change, no content read."""
        if media.data is not None:
            return f"data-{hashlib.sha256(media.data).hexdigest()}"
        try:
            found = self._find(media.reference).stat()
        except _Fault as fault:
            return str(fault).partition(":")[0]
        except (OSError, ValueError):
            return "missing"
        return f"{found.st_size}-{found.st_mtime_ns}"

    def _find(self, reference: str) -> Path:
        if _SCHEME.match(reference):
            raise _Fault(f"remote: {_short(reference)} not fetched")
        if reference.startswith("data:"):
            raise _Fault(f"unreadable: {_short(reference)} holds no valid base64")
        if not reference or "\0" in reference:
            raise _Fault(f"missing: {reference!r} names no file; not found under {self.root}")
        try:
            path = (self.root / reference).resolve()
        except (OSError, RuntimeError) as error:  # a loop of links, or a name too long for the file system
            raise _Fault(f"unreadable: {_short(reference)}: {error}") from error
        if not self.allow_outside and not path.is_relative_to(self.root):
            raise _Fault(f"outside: path leaves the image root: {_short(reference)}")
        return path

    def _read(self, media: Media) -> bytes:
        if media.data is not None:
            if len(media.data) > self.max_bytes:
                raise _Fault(f"too large: {len(media.data)} bytes, over the limit of {self.max_bytes}")
            return media.data
        path = self._find(media.reference)
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise _Fault(f"unreadable: {_short(media.reference)} is a folder or a device, not a file")
            if status.st_size > self.max_bytes:
                raise _Fault(f"too large: {status.st_size} bytes, over the limit of {self.max_bytes}")
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _Fault(f"missing: {_short(media.reference)} not found under {self.root}") from error
        except OSError as error:
            raise _Fault(f"unreadable: {_short(media.reference)}: {error.strerror}") from error

    def _load(self, media: Media, decoded: _Decoded) -> Image:
        try:
            data = self._read(media)
        except _Fault as fault:
            return Image(media.reference, None, str(fault))
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            pixels, width, height, form = decoded.get(sha256, lambda: self._decode(data))
        except _Fault as fault:
            return Image(media.reference, None, str(fault), sha256, n_bytes=len(data))
        return Image(media.reference, pixels, None, sha256, width, height, form, len(data))

    def _decode(self, data: bytes) -> _Picture:
        if not data:
            raise _Fault("unreadable: the file is empty")
        if data.startswith(_LFS):
            raise _Fault("lfs pointer: the file holds a Git LFS pointer, not the picture; run: git lfs pull")
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        if _PIL_FILTER not in warnings.filters:
            warnings.filterwarnings("ignore", module=_PIL_WARNINGS)
        try:
            with PilImage.open(BytesIO(data), formats=_formats()) as picture:
                return self._upright_rgb(picture)
        except _Fault:
            raise
        except UnidentifiedImageError as error:
            raise _Fault(f"not an image: no decoder knows its {len(data)} bytes ({data[:8]!r}…)") from error
        except PilImage.DecompressionBombError as error:
            raise _Fault(f"too large: {error}") from error
        except Exception as error:  # decoders raise anything on hostile bytes; it ends in the fault
            kind = "truncated" if _is_cut(error) else "unreadable"
            raise _Fault(f"{kind}: {error or type(error).__name__}") from error

    def _upright_rgb(self, picture: PilImage.Image) -> _Picture:
        width, height = picture.size
        form = picture.format or ""
        if width * height > self.max_pixels:
            raise _Fault(f"too large: {width} x {height} pixels, over the limit of {self.max_pixels}")
        if width == 0 or height == 0:
            raise _Fault(f"unreadable: the picture is {width} x {height} pixels")
        scale = min(1.0, self.longest_side / max(width, height))
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            picture.draft(None, (target[0] * DRAFT_GAP, target[1] * DRAFT_GAP))
        picture.load()
        turn = _UPRIGHT.get(_orientation(picture))
        rgb = _to_rgb(picture)
        if scale < 1:
            rgb = rgb.resize(target, PilImage.Resampling.BICUBIC)
        if turn is not None:
            rgb = rgb.transpose(turn)
            if turn in _SIDEWAYS:
                width, height = height, width
        return np.array(rgb, dtype=np.uint8), width, height, form


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow was built with: it fails on the name of any other."""
    PilImage.init()
    return tuple(form for form in FORMATS if form in PilImage.OPEN)


_Picture = tuple[Rgb, int, int, str]
_SIDEWAYS = frozenset(_UPRIGHT[n] for n in (5, 6, 7, 8))


class _Decoded:
    """Decodings of one batch by content hash. Whoever asks first decodes; the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: dict[str, Future[_Picture]] = {}

    def get(self, sha256: str, decode: Callable[[], _Picture]) -> _Picture:
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


def default_image_root(data_file: Path, references: Iterable[str]) -> Path:
    """The folder that pictures are relative to: the first where most of ``references`` exist.

    Tried in order: the folder of ``data_file``, its ``images``, then the same two of the folder above, and of the
    one above that. Where none holds most, the one that holds the most; where none holds any, the file's folder.
    URLs are left aside. Pass the first few dozen references: each is looked for in each folder.
    """
    folder = data_file.resolve().parent
    above = [folder, *folder.parents[:ROOT_DEPTH]]
    local = [r for r in references if r and not _SCHEME.match(r) and not r.startswith("data:")]
    best, most = folder, 0
    for candidate in (path for parent in above for path in (parent, parent / "images")):
        found = sum(_exists(candidate, reference) for reference in local)
        if found > most:
            best, most = candidate, found
        if 2 * found > len(local):
            return candidate
    return best


def _exists(root: Path, reference: str) -> bool:
    try:
        return (root / reference).is_file() and (root / reference).resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):
        return False


def _key(media: Media) -> tuple[str, str]:
    content = "" if media.data is None else hashlib.sha256(media.data).hexdigest()
    return content, media.reference


def _short(reference: str) -> str:
    return reference if len(reference) <= 200 else f"{reference[:197]}…"


def _is_cut(error: Exception) -> bool:
    return isinstance(error, EOFError) or any(
        word in str(error).lower() for word in ("truncated", "unexpected end")
    )


def _orientation(picture: PilImage.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF is common, costs only itself, and leaves the picture as stored
        return 1


def _to_rgb(picture: PilImage.Image) -> PilImage.Image:
    """8-bit RGB: alpha over white, more than 8 bits scaled down."""
    if picture.mode in ("F", "I") or picture.mode.startswith("I;"):
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return PilImage.alpha_composite(PilImage.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: PilImage.Image) -> PilImage.Image:
    """Grey of 16 or 32 bits by the full range of its depth: 1 (F only), 255, 65535, or else its own maximum."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0.0, neginf=0.0)
    top = float(values.max())
    if picture.mode.startswith("I;16"):
        full = 65535.0
    elif picture.mode == "F" and top <= 1:
        full = 1.0
    else:
        full = next((depth for depth in (255.0, 65535.0) if top <= depth), top)
    return PilImage.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8))
