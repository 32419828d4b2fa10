"""A picture's bytes to upright RGB, whatever they hold, at the size that is needed."""

from __future__ import annotations

import re
import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageFile, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from vlitqc.media.content import LFS, described, picture_format
from vlitqc.media.files import Bounded, MediaFault
from vlitqc.types import Rgb

MAX_PIXELS = 178_956_970
"""Pillow's own limit, beyond which a picture counts as a decompression bomb."""

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000",
)  # fmt: skip
"""The only decoders that see a picture's bytes, in Pillow's names; MPO comes as JPEG, APNG as PNG.

Pillow knows more. Of those, EPS starts Ghostscript on the data, WMF and the stubs hand it to whatever is
registered, and TGA and others have no signature, so that they take for a picture what is none.
"""

DRAFT_GAP = 2
"""A JPEG is decoded at no less than this many times the wanted size, so that the reduction stays a clean one."""

REDUCING_GAP = 3
"""A large picture is first reduced by whole steps to no less than this many times the wanted size, for which Pillow's
documentation promises a result that cannot be told from a fair one: it saves gigabytes and, of long strips, minutes.
"""

MAX_SECONDS = 8.0
"""Time of computing that one picture may take, looked at whenever its decoder reads on."""

COSTLY = {"JPEG2000": 1 << 26, "WEBP": 1 << 26, "AVIF": 1 << 26, "bmp_rle": 1 << 24}
"""Pixels at most, by format or decoder, where some bytes could else ask for gigabytes or a minute."""

MAX_ICON_BYTES = 1 << 22
"""Icons are decoded while they are opened, before their true size can be known; the file's own size bounds it."""

MAX_SCANNED = 1 << 32
"""Pixels times scans of a JPEG: each scan goes over the whole picture, and takes a few bytes of the file."""

LARGE = 1 << 25
"""Pixels beyond which pictures are decoded one at a time, since each takes up to a gigabyte or two of memory."""

_ONE_LARGE = threading.Lock()
_PIL_WARNINGS = r"PIL\."
_PIL_FILTER = ("ignore", None, Warning, re.compile(_PIL_WARNINGS), 0)
_ICON = b"\0\0\1\0"
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
_SIDEWAYS = frozenset(_UPRIGHT[n] for n in (5, 6, 7, 8))


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture; fields as of ``Image``."""

    pixels: Rgb
    width: int
    height: int
    format: str
    frames: int


def decode(data: bytes, longest_side: int, max_pixels: int) -> Picture:
    """The picture in ``data``, reduced to ``longest_side``; of several frames or pages, the first.

    Colours are those that ``convert("RGB")`` gives, as in the training code of vision-language models (an embedded
    colour profile is not applied), but for two: what is transparent lies on white, and grey of more than 8 bits is
    scaled down instead of clipped. Raises MediaFault and nothing else.
    """
    if not data:
        raise MediaFault("unreadable: the file is empty")
    if data.startswith(LFS):
        raise MediaFault("lfs pointer: the file holds a Git LFS pointer, not the picture; run: git lfs pull")
    if data.startswith(_ICON) and len(data) > MAX_ICON_BYTES:
        raise MediaFault(f"too large: an icon of {len(data)} bytes, over the limit of {MAX_ICON_BYTES}")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if _PIL_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PIL_WARNINGS)
    try:
        with PilImage.open(Bounded(data, MAX_SECONDS), formats=_formats()) as picture:
            _check(picture, data, max_pixels)
            return _upright_rgb(picture, longest_side)
    except MediaFault:
        raise
    except UnidentifiedImageError as error:
        raise MediaFault(_unknown(data)) from error
    except PilImage.DecompressionBombError as error:
        raise MediaFault(f"too large: {error}") from error
    except MemoryError as error:
        raise MediaFault("unreadable: no memory was left to decode it", retry=True) from error
    except Exception as error:  # decoders raise anything on hostile bytes; it ends in the fault
        kind = "truncated" if _is_cut(error) else "unreadable"
        raise MediaFault(f"{kind}: {error or type(error).__name__}") from error


def _check(picture: ImageFile.ImageFile, data: bytes, max_pixels: int) -> None:
    """Raises MediaFault where decoding would take too much memory or time, or leave part of the picture black."""
    width, height = picture.size
    for name in (picture.format, *(tile.codec_name for tile in picture.tile)):
        max_pixels = min(max_pixels, COSTLY.get(name or "", max_pixels))
    if width * height > max_pixels:
        raise MediaFault(f"too large: {width} x {height} pixels, over the limit of {max_pixels}")
    if width == 0 or height == 0:
        raise MediaFault(f"unreadable: the picture is {width} x {height} pixels")
    if picture.format == "TIFF":
        boxes = [tile.extents or (0, 0, width, height) for tile in picture.tile]
        covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        if covered < width * height:
            raise MediaFault(f"truncated: its strips hold {covered} of {width} x {height} pixels")
    if picture.format in ("JPEG", "MPO"):
        scans = data.count(b"\xff\xda")
        if scans * width * height > MAX_SCANNED:
            raise MediaFault(f"too large: {scans} scans of {width} x {height} pixels")


def _unknown(data: bytes) -> str:
    """The fault of bytes in which no decoder found a picture."""
    form = picture_format(data)
    if form in _formats():
        return f"unreadable: the header of a {form} picture, and it is broken"
    if form is not None:
        return f"not an image: {form} pictures are not decoded; convert them to JPEG or PNG"
    return f"not an image: no decoder knows its {len(data)} bytes; they are {described(data)}"


def _upright_rgb(picture: PilImage.Image, longest_side: int) -> Picture:
    width, height = picture.size
    form = picture.format or ""
    scale = min(1.0, longest_side / max(width, height))
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        picture.draft(None, (target[0] * DRAFT_GAP, target[1] * DRAFT_GAP))
    with _ONE_LARGE if width * height > LARGE else nullcontext():
        picture.load()
        turn = _UPRIGHT.get(_orientation(picture))
        rgb = _to_rgb(picture, _steps(picture.size, target))
        if scale < 1:
            rgb = rgb.resize(target, PilImage.Resampling.BICUBIC)
        if turn is not None:
            rgb = rgb.transpose(turn)
            if turn in _SIDEWAYS:
                width, height = height, width
        pixels = np.array(rgb, dtype=np.uint8)
    return Picture(pixels, width, height, form, _frames(picture))


def _frames(picture: PilImage.Image) -> int:
    """How many frames or pages there are: at least 2 where only reading them all would tell."""
    if picture.format == "MPO":
        return 1  # the further ones are previews and the other eye's view of the same picture
    try:
        if not getattr(picture, "is_animated", False):
            return 1
        return 2 if picture.format in ("GIF", "TIFF") else int(getattr(picture, "n_frames", 2))
    except MediaFault:
        raise
    except Exception:  # noqa: BLE001 - the first frame is whole; a second that is damaged is none
        return 1


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow was built with: it fails on the name of any other."""
    PilImage.init()
    return tuple(form for form in FORMATS if form in PilImage.OPEN)


def _is_cut(error: Exception) -> bool:
    return isinstance(error, EOFError) or any(
        word in str(error).lower() for word in ("truncated", "unexpected end")
    )


def _orientation(picture: PilImage.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF is common, costs only itself, and leaves the picture as stored
        return 1


def _steps(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """By how much a picture is reduced across and down before anything else; (1, 1) unless it is large."""
    if size[0] * size[1] <= LARGE:
        return 1, 1
    across, down = (
        max(1, side // (wanted * REDUCING_GAP)) for side, wanted in zip(size, target, strict=True)
    )
    return across, down


def _reduced(picture: PilImage.Image, steps: tuple[int, int]) -> PilImage.Image:
    return picture if steps == (1, 1) else picture.reduce(steps)


def _to_rgb(picture: PilImage.Image, steps: tuple[int, int]) -> PilImage.Image:
    """8-bit RGB: alpha over white, more than 8 bits scaled down; reduced by ``steps``."""
    if picture.mode.startswith(("F", "I")):
        tags = picture.tag_v2 if isinstance(picture, TiffImageFile) else {}
        if picture.mode.startswith("I;16"):
            grey = PilImage.fromarray(_by_depth(tags.get(BITSPERSAMPLE, (16,))[0])[np.asarray(picture)])
            grey = _reduced(grey, steps)
        else:
            grey = _eight_bits(_reduced(picture, steps))
        white_is_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
        return (ImageOps.invert(grey) if white_is_zero else grey).convert("RGB")
    if picture.has_transparency_data:
        rgba = _reduced(picture.convert("RGBA"), steps)
        return PilImage.alpha_composite(PilImage.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return _reduced(picture if picture.mode == "RGB" else picture.convert("RGB"), steps)


@cache
def _by_depth(bits: int) -> NDArray[np.uint8]:
    """The 8-bit grey of each value of ``bits`` bits, in a table of 16."""
    full = (1 << bits) - 1
    return np.rint(np.minimum(np.arange(65536), full) * (255 / full)).astype(np.uint8)


def _eight_bits(picture: PilImage.Image) -> PilImage.Image:
    """Grey of 32 bits by the full range of its depth: 1 (F only), 255, 65535, or else its own maximum.

    Floats may go beyond their range by half of it, as they do after sharpening or resampling, and are clipped.
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0.0, neginf=0.0)
    top = float(values.max())
    depths, margin = ((1.0, 255.0, 65535.0), 1.5) if picture.mode == "F" else ((255.0, 65535.0), 1.0)
    full = next((depth for depth in depths if top <= depth * margin), top)
    return PilImage.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8))
