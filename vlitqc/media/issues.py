"""What is said of media among the issues: faults by kind, and what a reader should know of those that are whole."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image as PilImage

from vlitqc.media.content import CONTAINER_OF, suffix
from vlitqc.media.files import short
from vlitqc.types import Clip, Image

_KINDS = {
    "missing": "missing_{}",
    "unreadable": "unreadable_{}",
    "too large": "unreadable_{}",
    "lfs pointer": "unreadable_{}",
    "not an image": "unreadable_{}",  # also of a video's frames
    "not a video": "unreadable_{}",
    "not a sound": "unreadable_{}",
    "truncated": "truncated_{}",
    "outside": "path_outside_root",
    "remote": "remote_{}",
}
_SAME = {"MPO": "JPEG", "DIB": "BMP"}
_SEVERAL = {"TIFF": ("multipage_image", "page")}


def issue_kind(fault: str, kind: str = "image") -> str:
    """The issue kind of the ``fault`` of a picture, video or audio: what stands before its first colon decides.

    Raises KeyError for a text that no fault begins with.
    """
    return _KINDS[fault.partition(":")[0]].format(kind)


def remarks(medium: Image | Clip) -> Iterator[tuple[str, str]]:
    """Kind and detail of each note on a medium that is readable.

    ``wrong_extension``: its name is that of another format (the content decides how it is read);
    ``animated_image``, ``multipage_image``: all but the first frame or page are left aside.
    """
    if medium.fault is not None:
        return
    named = suffix(medium.reference)
    formats = CONTAINER_OF if isinstance(medium, Clip) else PilImage.registered_extensions()
    told = formats.get(named)
    form = _SAME.get(medium.format, medium.format)
    if told is not None and _SAME.get(told, told) != form and form != "frames":
        yield "wrong_extension", f"{short(medium.reference)} holds {form}"
    if isinstance(medium, Image) and medium.frames > 1:
        kind, word = _SEVERAL.get(form, ("animated_image", "frame"))
        count = "several" if form in ("GIF", "TIFF") else medium.frames  # those two do not tell
        yield kind, f"{form} of {count} {word}s: only the first is looked at"
