"""Pictures, videos and sounds: found, read and decoded without trusting them, once a batch."""

from __future__ import annotations

from vlitqc.media.files import default_image_root
from vlitqc.media.issues import issue_kind, remarks
from vlitqc.media.loader import MAX_BYTES, MediaLoader, undecoded
from vlitqc.media.pictures import FORMATS, MAX_PIXELS

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "MediaLoader",
    "default_image_root",
    "issue_kind",
    "remarks",
    "undecoded",
]
