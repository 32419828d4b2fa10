"""Clean records, drawn at random from an input."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vlitqc.errors import InputError
from vlitqc.formats import Reader
from vlitqc.media import MediaLoader
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.types import Origin, Sample, Turn
from vlitqc.validity.case import Case
from vlitqc.validity.written import Pictures, Shelf

LONGEST_SIDE = 640
"""Pixels: larger pictures are reduced before anything is done to them."""

_SPARE = 4
"""Candidates for every record that is wanted: the pictures of the others may be broken."""


def clean_cases(
    reader: Reader,
    root: Path,
    shelf: Shelf,
    *,
    records: int,
    seed: int,
    limit: int | None,
    allow_outside: bool,
) -> list[Case]:
    """Up to ``records`` clean records, drawn without replacement, in the order of the input.

    Clean is a record that was read without an issue of severity error, whose media are pictures that can be decoded,
    if it has any; those behind a URL are not fetched, and count as broken. Of an input where more than three of four
    records have broken pictures they may be fewer. Their pictures are written to ``shelf``; no more than one record's
    are in memory at a time. Raises InputError where there is none.
    """
    loader = MediaLoader(root, longest_side=LONGEST_SIDE, allow_outside=allow_outside, threads=1)
    found: list[tuple[int, Case]] = []
    for origin in _candidates(reader, _SPARE * records, seed, limit):
        sample = reader.record(origin)
        case = _case(sample, loader, shelf) if isinstance(sample, Sample) else None
        if case is not None:
            found.append((origin.row, case))
        if len(found) == records:
            break
    if not found:
        raise InputError(
            f"{reader.path} has no clean record: none without an error whose pictures are all on this "
            "machine and can be decoded; see: vlitqc inspect"
        )
    return [case for _, case in sorted(found, key=lambda pair: pair[0])]


def _candidates(reader: Reader, most: int, seed: int, limit: int | None) -> Iterator[Origin]:
    """The places of so many records without an error, in random order; memory is O(most)."""
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, int, Origin]] = []
    for record in itertools.islice(reader.records(), limit):
        if not isinstance(record, Sample) or any(issue.severity == "error" for issue in record.issues):
            continue
        if record.clips or not record.turns:
            continue
        entry = (-float(rng.random()), record.origin.row, record.origin)
        if len(drawn) < most:
            heapq.heappush(drawn, entry)
        elif entry > drawn[0]:
            heapq.heapreplace(drawn, entry)
    return (origin for _, _, origin in sorted(drawn, reverse=True))


def _case(sample: Sample, loader: MediaLoader, shelf: Shelf) -> Case | None:
    """The sample as a case, or None where a picture cannot be decoded."""
    references = []
    for image in loader.load_batch([sample])[0]:
        if image.pixels is None:
            return None
        references.append(shelf.put(image.pixels))
    turns = [Turn(*map(strip_media_tokens, (turn.instruction, turn.response))) for turn in sample.turns]
    return Case(str(sample.origin.row), tuple(turns), Pictures(shelf, references))
