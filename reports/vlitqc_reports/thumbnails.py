"""Pictures made small enough to live inside a page."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

import PIL.Image

from vlitqc.types import Image

SIDE = 160
QUALITY = 70


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG. ``key`` is its own hash, so that equal ones are stored once."""

    key: str
    width: int
    height: int
    jpeg: bytes = field(repr=False)


def thumbnail(image: Image, side: int = SIDE, quality: int = QUALITY) -> Thumbnail | None:
    """The picture reduced to ``side`` pixels on its longest side; None where it has a fault."""
    if image.pixels is None:
        return None
    small = PIL.Image.fromarray(image.pixels)
    small.thumbnail((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    data = buffer.getvalue()
    return Thumbnail(hashlib.sha256(data).hexdigest()[:16], small.width, small.height, data)
