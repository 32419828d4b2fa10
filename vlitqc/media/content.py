"""What bytes hold, told from how they begin, whatever the name of their file says."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath

LFS = b"version https://git-lfs.github.com/spec/"
_HEAD = 1024
_ID3 = b"ID3"
_MARKUP = re.compile(rb"\s*<(!doctype\s+|\?)?([a-z]+)", re.IGNORECASE)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_PICTURE_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF",
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC",
    b"mif1": "HEIF", b"msf1": "HEIF",
}  # fmt: skip
_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"8BPS", "a Photoshop document"),
    (b"\x93NUMPY", "a NumPy array"),
)
_PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
)
_CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"FLV\x01", "flv"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x00\x00\x01\xba", "mpeg"),
)
BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx mfra pnot".split())
"""What the outermost parts of QuickTime and MP4 files are called."""

_KILOBITS = {
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Of MPEG audio, by whether it is version 1, and layer (the later versions' third has the second's)."""

_SUFFIXES = {
    "mov": ("mp4", "m4v", "m4a", "mov", "3gp", "3g2", "qt"),
    "matroska": ("mkv", "webm", "mka", "weba"),
    "avi": ("avi",),
    "mp3": ("mp3",),
    "flac": ("flac",),
    "wav": ("wav", "wave"),
    "ogg": ("ogg", "oga", "ogv", "opus"),
    "aac": ("aac",),
    "flv": ("flv",),
    "mpegts": ("ts", "m2ts", "mts"),
    "mpeg": ("mpg", "mpeg", "vob"),
    "gif": ("gif",),
}
CONTAINER_OF = {f".{suffix}": form for form, suffixes in _SUFFIXES.items() for suffix in suffixes}
"""File name suffix → container, for the suffixes that tell it."""


def suffix(reference: str) -> str:
    """The suffix of a path in small letters, with its dot; "" where there is none."""
    return PurePosixPath(reference).suffix.lower()


def container(data: bytes) -> str | None:
    """The container of a video or sound in ffmpeg's name, from the first kilobytes of its file.

    Only these are known: mov (with mp4), matroska (with webm), avi, flv, mpegts, mpeg, gif, mp3, flac, wav, ogg, aac.
    Playlists, scripts and lists of files are not among them, whatever they are called.
    """
    if data.startswith(_ID3):
        data = data[10 + _synchsafe(data[6:10]) :]
        if not data:
            return "mp3"  # a tag longer than what we were given, as with a large cover picture
    for mark, form in _CONTAINERS:
        if data.startswith(mark):
            return form
    # Text may have such a word in that place, but only media data is half a gigabyte long, as letters would say.
    if data[4:8] in BOXES and (data[0] < 0x20 or data[4:8] == b"mdat"):
        return None if data[4:8] == b"ftyp" and data[8:12] in _PICTURE_BRANDS else "mov"
    if data[:4] in (b"RIFF", b"RF64"):
        return {b"AVI ": "avi", b"WAVE": "wav"}.get(data[8:12])
    if any(data[at::step][:3] == b"GGG" for at, step in ((0, 188), (4, 192))):
        return "mpegts"
    return _raw_audio(data)


def _raw_audio(data: bytes) -> str | None:
    """mp3 or aac where a frame begins, and a second one behind it as far as the bytes go."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0 or data.startswith(codecs.BOM_UTF16_LE):
        return None
    form, length = ("mp3", _mp3_frame(data)) if data[1] & 6 else ("aac", _aac_frame(data))
    second = data[length : length + 2]
    follows = len(second) < 2 or (second[0] == 0xFF and second[1] & 0xFE == data[1] & 0xFE)
    return form if length and follows else None


def _aac_frame(data: bytes) -> int:
    """The length in bytes of the ADTS frame that begins here; 0 for none."""
    length = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return length if data[1] & 0xF0 == 0xF0 and data[2] >> 2 & 15 < 13 and length >= 7 else 0


def _mp3_frame(data: bytes) -> int:
    """The length in bytes of the MPEG audio frame that begins here; 0 for none.

    Its samples (384 in layer I, 1152 in II and III, 576 in III at the lower rates) times kbit/s, by the rate.
    """
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    rate, pitch, padding = data[2] >> 4, data[2] >> 2 & 3, data[2] >> 1 & 1
    if version == 1 or rate in (0, 15) or pitch == 3:
        return 0
    full = version == 3
    hertz = (44_100, 48_000, 32_000)[pitch] >> (2, 0, 1, 0)[version]
    kilobits = _KILOBITS[full, layer if full else min(layer, 2)][rate - 1]
    if layer == 1:
        return (12_000 * kilobits // hertz + padding) * 4
    return (144_000 if full or layer == 2 else 72_000) * kilobits // hertz + padding


def _synchsafe(size: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=False))


def picture_format(data: bytes) -> str | None:
    """The picture format that the bytes begin like, in Pillow's names where it has one."""
    if data[4:8] == b"ftyp" and data[8:12] in _PICTURE_BRANDS:
        return _PICTURE_BRANDS[data[8:12]]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return next((form for mark, form in _PICTURES if data.startswith(mark)), None)


def described(data: bytes) -> str:
    """In words, what the bytes seem to be."""
    head = data[:_HEAD]
    form = picture_format(head)
    if form is not None:
        return f"{form} data"
    for mark, words in _MARKS:
        if head.startswith(mark):
            return words
    if not head.strip(b"\0"):
        return "nothing but zero bytes"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and _is_text(head, "utf-16"):
        return "UTF-16 text"
    form = container(head)
    if form is not None:
        return f"{form} video or sound"
    text = head.removeprefix(b"\xef\xbb\xbf")
    markup = _MARKUP.match(text)
    if markup is not None:
        if _SVG.search(text):
            return "vector graphics (SVG), which are not decoded"
        name = markup[2].lower()
        return "an HTML page" if name in (b"html", b"head", b"body") else "XML or HTML text"
    if text.lstrip()[:1] in (b"{", b"["):
        return "JSON text"
    if text.startswith((b"#EXTM3U", b"ffconcat ", b"v=0")):
        return "a playlist, which names other files"
    if _is_text(text):
        return "text"
    return f"bytes of an unknown kind ({data[:8]!r}…)"


def _is_text(head: bytes, encoding: str = "utf-8") -> bool:
    try:  # the head may cut a character in two
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=len(head) < _HEAD - 3)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)
