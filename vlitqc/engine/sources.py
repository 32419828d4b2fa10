"""Where a record comes from within a mixture: what the ``source`` column of the table of scores holds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath

from vlitqc.formats import stem_of
from vlitqc.types import Record, Sample

FIELDS = ("source", "dataset", "dataset_name", "data_source")
"""The fields in which records name their source, the first that has a text before the others."""

LONGEST = 200
"""Characters: a longer text is prose or a list, and no name that many records could share."""

GENERIC = frozenset((
    "image", "images", "img", "imgs", "picture", "pictures", "pics", "photo", "photos", "jpg", "jpeg", "png",
    "video", "videos", "audio", "audios", "sound", "sounds", "clips", "frames", "media", "data", "dataset", "datasets",
    "files", "assets", "raw", "train", "training", "val", "valid", "validation", "test", "testing", "dev",
))  # fmt: skip
"""Folders that are called after what they hold or after a split, in lower case: they name no source."""


def source_of(record: Record) -> str:
    """The name of the part of a mixture that a record belongs to.

    The first non-empty text of the record's own ``FIELDS``; else the first folder with a name of its own in the
    relative path of its first medium (``coco`` of ``coco/train2017/1.jpg``); else the stem of its file, as of an
    unreadable record. Folders in ``GENERIC``, and those without a letter, which
    merely number their files, are passed over. URLs, data within the record, absolute paths and paths through
    ``..`` name no source.
    """
    named = _own(record) or _folder(record) if isinstance(record, Sample) else None
    # A file name may hold bytes that are no UTF-8.
    return (named or _stem(record.origin.file)).encode("utf-8", "backslashreplace").decode()


def _own(sample: Sample) -> str | None:
    texts = (text.strip() for key in FIELDS if isinstance(text := sample.meta.get(key), str))
    return next((text for text in texts if 0 < len(text) <= LONGEST), None)


def _folder(sample: Sample) -> str | None:
    if not sample.media or "://" in (reference := sample.media[0].reference) or reference.startswith("data:"):
        return None
    path = PurePosixPath(reference)
    if path.is_absolute() or ".." in path.parts:
        return None
    return next((name for name in path.parts[:-1] if _is_name(name)), None)


def _is_name(folder: str) -> bool:
    return folder.lower() not in GENERIC and any(map(str.isalpha, folder)) and len(folder) <= LONGEST


@lru_cache(maxsize=1024)
def _stem(file: str) -> str:
    return stem_of(Path(file))
