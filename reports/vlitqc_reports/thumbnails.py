"""Pictures made small enough to live inside a page."""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass, field

import PIL.Image

from vlitqc.types import FeatureCache, Image

SIDE = 160
QUALITY = 70

_SIZE = struct.Struct("<HH")
"""Width and height, before the JPEG as the cache has it."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG. ``key`` is its own hash, so that equal ones are stored once."""

    key: str
    width: int
    height: int
    jpeg: bytes = field(repr=False)


class Thumbnails:
    """Pictures reduced to ``side`` pixels on their longest side; with a ``cache`` each content is reduced once.

    Threads may call ``of`` at once, though not while ``keep`` hands the cache what was new since.
    """

    def __init__(self, side: int, cache: FeatureCache | None) -> None:
        self._side = side
        self._cache = cache
        self._space = f"thumbnail {side} {QUALITY}"
        self._new: dict[str, bytes] = {}

    def of(self, image: Image) -> Thumbnail | None:
        """The small picture; None where the picture has a fault. Its pixels are looked at where it is new."""
        if image.fault is not None:
            return None
        cache = self._cache if image.sha256 else None
        value = None if cache is None else cache.find(self._space, [image.content]).get(image.content)
        if isinstance(value, bytes) and len(value) > _SIZE.size:
            width, height = _SIZE.unpack_from(value)
            return _named(width, height, value[_SIZE.size :])
        small = thumbnail(image, self._side)
        if small is not None and cache is not None:
            self._new[image.content] = _SIZE.pack(small.width, small.height) + small.jpeg
        return small

    def keep(self) -> None:
        """Remember those that were made since the last call."""
        new, self._new = self._new, {}
        if self._cache is not None:
            self._cache.keep(self._space, new)


def thumbnail(image: Image, side: int = SIDE, quality: int = QUALITY) -> Thumbnail | None:
    """The picture reduced to ``side`` pixels on its longest side; None where it has a fault."""
    pixels = image.pixels
    if pixels is None:
        return None
    small = PIL.Image.fromarray(pixels)
    small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return _named(small.width, small.height, buffer.getvalue())


def _named(width: int, height: int, jpeg: bytes) -> Thumbnail:
    return Thumbnail(hashlib.sha256(jpeg).hexdigest()[:16], width, height, jpeg)
