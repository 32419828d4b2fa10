"""The data of a page in two blocks: what there is to know about it as JSON, and all long lists as packed arrays."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {np.dtype(np.uint8): "u1", np.dtype(np.uint16): "u2", np.dtype(np.uint32): "u4"}

_IN_SCRIPT = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&"})
"""What could end the block in the eyes of a parser of HTML."""


def as_json(value: Any) -> str:
    """JSON for a block inside HTML, in ASCII. Raises ValueError for a number that is none, which JSON cannot hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_IN_SCRIPT)


def packed(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, tuple[str, int, int]], str]:
    """Where each array lies, as (type, offset in bytes, length), and all of them as base64 of gzip.

    Little-endian and one after another, each at a multiple of four bytes. The same arrays give the same text.
    """
    types: dict[str, tuple[str, int, int]] = {}
    pieces: list[bytes] = []
    at = 0
    for name, array in arrays.items():
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        types[name] = (_TYPES[array.dtype], at, len(array))
        pieces += [data, bytes(-len(data) % 4)]
        at += len(data) + -len(data) % 4
    return types, base64.b64encode(gzip.compress(b"".join(pieces), 6, mtime=0)).decode("ascii")


def texts(value: Any) -> NDArray[np.uint8]:
    """Any JSON as an array of its bytes in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return np.frombuffer(text.encode("utf-8"), np.uint8)
