"""The marks that stand for a picture, video or sound in an instruction or a response."""

from __future__ import annotations

import re

# Bounded repeats and no nesting: the text is untrusted, and the search stays linear.
_MEDIA_TOKEN = re.compile(
    r"<img>[^<>\n]{0,2000}</img>"
    r"|<\|?/?(?:image|img|im|video|vid|audio|vision|media|frame|imagehere|objectimage)"
    r"(?:[_ -]?(?:start|end|patch|pad|bos|eos|content|here|placeholder|token|\d{1,4})){0,3}/?\|?>"
    r"|<ImageHere>|\[(?:image|img)\]",
    re.IGNORECASE,
)


def strip_media_tokens(text: str) -> str:
    """``text`` without tokens such as ``<image>``, ``<ImageHere>``, ``<|vision_start|>``, ``<img>…</img>``.

    A token becomes a space, since it may stand between two words; the ends are trimmed.
    """
    return _MEDIA_TOKEN.sub(" ", text).strip()
