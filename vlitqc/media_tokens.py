"""The marks that stand for a picture, video or sound in an instruction or a response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

# Bounded repeats and no nesting: the text is untrusted, and the search stays linear. A pair of tags holds a path,
# which has no line end and, unless the tag is <img>, no white space: "<image>a cat</image>" is no path.
_PATH = r"[^\s<>]{1,2000}"

TOKENS: Mapping[Literal["image", "video", "audio"], re.Pattern[str]] = {
    "image": re.compile(
        rf"<img>(?P<path>[^<>\n]{{0,2000}})</img>|<image>(?P<path2>{_PATH})</image>"
        r"|<(?:image(?:[ _]?\d{1,4})?|ImageHere|image_placeholder|__dj__image)>"
        r"|<\|(?:image(?:_pad|_\d{1,4})?|IMAGE)\|>|<IMG_CONTEXT>"
    ),
    "video": re.compile(
        rf"<video>(?P<path>{_PATH})</video>|<(?:video(?:[ _]?\d{{1,4}})?|VideoHere|__dj__video)>"
        r"|<\|(?:video(?:_pad|_\d{1,4})?|VIDEO)\|>"
    ),
    "audio": re.compile(
        rf"<audio>(?P<path>{_PATH})</audio>|<(?:audio(?:[ _]?\d{{1,4}})?|AudioHere|__dj__audio)>"
        r"|<\|(?:audio(?:_pad|_\d{1,4})?|AUDIO)\|>"
    ),
}
"""What stands for one medium of each kind. A token that brings its own path has it as ``path`` or ``path2``."""

_MEDIA_TOKEN = re.compile(
    r"(?:\b(?:Picture|Audio|Video) \d{1,4}: ?)?"
    rf"(?:<img>[^<>\n]{{0,2000}}</img>|<(image|video|audio)>{_PATH}</\1>)"
    r"|<\|?/?(?:image|img|im|video|vid|audio|vision|media|frame|imagehere|videohere|audiohere|objectimage)"
    r"(?:[_ -]?(?:start|end|bos|eos|patch|pad|content|context|here|placeholder|token|\d{1,4})){0,3}/?\|?>"
    r"|<\|?__dj__(?:image|video|audio|eoc)\|?>|\[(?:image|img)\]"
    # Marks of grounded answers: their words stay, the numbers of their boxes go.
    r"|<box>[^<>\n]{0,2000}</box>|<\|box_start\|>[^<>\n]{0,2000}<\|box_end\|>"
    r"|</?ref>|<\|object_ref_(?:start|end)\|>",
    re.IGNORECASE,
)


def strip_media_tokens(text: str) -> str:
    """``text`` without tokens such as ``<image>``, ``<ImageHere>``, ``<|vision_start|>``, ``<img>…</img>`` and
    without the boxes of grounded answers.

    A token becomes a space, since it may stand between two words; the ends are trimmed.
    """
    if "<" not in text and "[" not in text:
        return text.strip()
    return _MEDIA_TOKEN.sub(" ", text).strip()
