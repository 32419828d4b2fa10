"""What the names of media end with, in lower case and without the dot.

A hint, never a verdict: what a medium is, its content decides.
"""

from __future__ import annotations

PICTURES = frozenset((
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "avif", "jp2", "ico", "heic",
))  # fmt: skip
VIDEOS = frozenset(("mp4", "avi", "webm", "mov", "mkv", "m4v", "mpg", "mpeg", "flv", "wmv", "3gp", "ogv"))
SOUNDS = frozenset(("wav", "mp3", "flac", "ogg", "oga", "opus", "m4a", "aac", "wma"))

A_PICTURE = rf"\.(?:{'|'.join(sorted(PICTURES))})"
"""A pattern for the end of a picture's name, to be compiled without regard to case."""
