"""Tells, without any code of vlitqc, whether a filter's outputs are its input, divided."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

FATES = ("kept", "dropped", "unreadable")


def records_of(path: Path) -> list[bytes]:
    """The bytes of every record of JSON Lines, or of the elements of one JSON list; gzipped or not."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if not raw.lstrip().startswith(b"["):
        return [line for line in raw.split(b"\n") if line.strip()]
    text = raw.decode()
    at, found = text.index("[") + 1, []
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return found
        _, end = json.JSONDecoder(strict=False).raw_decode(text, at)
        found.append(text[at:end].encode())
        at = end


def assert_divided(path: Path, fates: Iterable[str], written: Mapping[str, Path]) -> None:
    """The outputs hold exactly the input's records, byte for byte and in its order, each where its fate says."""
    outputs = {fate: records_of(written[fate]) for fate in FATES if fate in written}
    expected: dict[str, list[bytes]] = {fate: [] for fate in outputs}
    for record, fate in zip(records_of(path), fates, strict=True):
        expected[fate].append(record)
    assert outputs == expected
